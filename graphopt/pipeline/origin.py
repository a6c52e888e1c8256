"""Where tensors come from: how each tensor of the present model relates to one of the reference model.

The reference of a run is the model that enters the first lossy pass. A tensor that no pass said anything about
comes from the reference tensor of the same name, unchanged. A pass that removes channels, scales them, renames a
tensor or makes a new one says so here; compensation and comparison read it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from graphopt.errors import GraphoptError
from graphopt.ir import Array

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Origin:
    """How the value of a tensor follows from a reference tensor.

    Attributes:
        tensor: name of the reference tensor.
        kept: for each axis that was cut, the reference positions that are left, in order; int64.
        scales: for each scaled axis, one float64 factor for each position that is left.
    """

    tensor: str
    kept: Mapping[int, Indices] = field(default_factory=dict)
    scales: Mapping[int, npt.NDArray[np.float64]] = field(default_factory=dict)

    def apply(self, reference: Array) -> Array:
        """What the present tensor should hold, given the value of the reference tensor."""
        value = reference
        for axis, positions in self.kept.items():
            value = np.take(value, positions, axis)
        for axis, factors in self.scales.items():
            value = value * factors.reshape([-1 if a == axis else 1 for a in range(value.ndim)]).astype(value.dtype)
        return value

    def cut(self, axis: int, positions: Indices) -> Origin:
        """The origin after only ``positions`` of ``axis`` (counted in the present tensor) are kept."""
        before = self.kept.get(axis)
        kept = positions if before is None else before[positions]
        scales = {a: s[positions] if a == axis else s for a, s in self.scales.items()}
        return replace(self, kept={**self.kept, axis: kept}, scales=scales)

    def scaled(self, axis: int, factors: npt.NDArray[np.float64]) -> Origin:
        """The origin after the channels of ``axis`` were multiplied by ``factors``."""
        before = self.scales.get(axis)
        return replace(self, scales={**self.scales, axis: factors if before is None else before * factors})


class Origins:
    """The origins of all tensors of the model of a run, by tensor name."""

    def __init__(self, reference: Collection[str] = ()) -> None:
        self._reference = frozenset(reference)
        self._known: dict[str, Origin | None] = {}

    def of(self, tensor: str) -> Origin | None:
        """Where a tensor comes from, or None when it matches no reference tensor."""
        if tensor in self._known:
            return self._known[tensor]
        return Origin(tensor) if tensor in self._reference else None

    def cut(self, tensor: str, axis: int, positions: npt.ArrayLike) -> None:
        """Record that only ``positions`` of ``axis`` (0 or more) were kept."""
        _check_axis(tensor, axis)
        if (origin := self.of(tensor)) is not None:
            self._known[tensor] = origin.cut(axis, np.asarray(positions, np.int64))

    def scale(self, tensor: str, axis: int, factors: npt.ArrayLike) -> None:
        """Record that the channels of ``axis`` (0 or more) were multiplied by ``factors``, one a channel."""
        _check_axis(tensor, axis)
        if (origin := self.of(tensor)) is not None:
            self._known[tensor] = origin.scaled(axis, np.asarray(factors, np.float64))

    def rename(self, old: str, new: str) -> None:
        """Record that tensor ``old`` is now called ``new``; nothing is called ``old`` any more."""
        self._known[new], self._known[old] = self.of(old), None

    def copy(self, source: str, target: str) -> None:
        """Record that ``target`` holds the same value as ``source``."""
        self._known[target] = self.of(source)

    def forget(self, tensor: str) -> None:
        """Record that a tensor matches no reference tensor: it is new, or means something else now."""
        self._known[tensor] = None

    def snapshot(self) -> Mapping[str, Origin | None]:
        """What ``restore`` goes back to."""
        return dict(self._known)

    def restore(self, snapshot: Mapping[str, Origin | None]) -> None:
        """Go back to an earlier state."""
        self._known = dict(snapshot)


def _check_axis(tensor: str, axis: int) -> None:
    if axis < 0:
        raise GraphoptError(f"origin of {tensor!r}: axis {axis} must be counted from the front")
