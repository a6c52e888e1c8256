"""Which positions stay."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from graphopt.analysis.labels import Axis, Coupling, Frozen
from graphopt.analysis.labels.solve import Bools
from graphopt.ir import Array


@dataclass
class KeepSet:
    """The classes that are removed, seen from any axis."""

    coupling: Coupling
    removed: Bools
    _masks: dict[int, tuple[Axis, Array]] = field(default_factory=dict)

    @classmethod
    def removing(cls, coupling: Coupling, leaves: Bools) -> KeepSet:
        """Remove these leaf classes and everything that follows from them."""
        return cls(coupling, coupling.solution.removed(leaves))

    def mask(self, axis: Axis) -> Array:
        """True where a position of ``axis`` stays."""
        found = self._masks.get(id(axis))
        if found is not None:
            return found[1]
        classes = self.coupling.solution.classes(axis)
        mask = np.ones(len(axis), bool) if classes is None else ~self.removed[classes]
        self._masks[id(axis)] = (axis, mask)
        return mask

    def count(self, axis: Axis) -> int:
        """How many positions stay."""
        return len(axis) if isinstance(axis, Frozen) else int(self.mask(axis).sum())

    def changed(self, axis: Axis) -> bool:
        """Whether any position goes."""
        return not isinstance(axis, Frozen) and not bool(self.mask(axis).all())

    def empty(self) -> bool:
        """Whether nothing is removed."""
        return not bool(self.removed.any())
