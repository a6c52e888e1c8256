"""Rows of the reference kept in memory, and the accumulator that sets the changed model's features against them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from graphopt.analysis.statistics import Channels, CrossGramAccumulator, Part, Patches, Rows
from graphopt.analysis.statistics.accumulators import State
from graphopt.analysis.statistics.gram import grouped, selected
from graphopt.errors import GraphoptError
from graphopt.ir import Array
from graphopt.transforms.recover.response_fit import ResponseRows
from graphopt.transforms.recover.sources import Cut

HELD_PERIOD = 5


@dataclass(frozen=True, eq=False)
class KeptRows:
    """Spec: keep the values of some channels at the positions that ``patches`` looks at, for every sample.

    With ``product`` [groups, n + 1, m] (bias last), what is kept is the values times that matrix, and ``kept`` picks
    from its columns in each group. ``elsewhere``: cuts of the tensor's other axes, made first.
    """

    patches: Patches
    kept: Array | None = None
    scales: Array | None = None
    product: Array | None = None
    elsewhere: tuple[Cut, ...] = ()

    def create(self) -> RowStore:
        """A new store."""
        return RowStore(self)

    def memory(self, shapes: tuple[tuple[int, ...], ...]) -> int:
        """The store grows with the samples; the caller bounds it by the limit of positions."""
        return 0


@dataclass
class RowStore:
    """``rows`` of each sample by its number: float32 [positions, channels]."""

    spec: KeptRows
    rows: dict[int, Array] = field(default_factory=dict)

    def update(self, arrays: tuple[Array, ...], rows: Rows) -> None:
        """See ``Accumulator``."""
        array = arrays[0]
        for cut in self.spec.elsewhere:
            array = cut.apply(array)
        samples, ids = selected(array, rows, self.spec.patches, None)
        for chosen, block in self.spec.patches.blocks(samples, ids):
            values = block
            if self.spec.product is not None:
                values = np.einsum("cpgn,gnm->cpgm", block, self.spec.product[:, :-1]) + self.spec.product[:, -1]
            if self.spec.kept is not None:
                values = values[..., self.spec.kept]
            if self.spec.scales is not None:
                values = values * self.spec.scales
            values = values.reshape(*values.shape[:2], -1)
            for index, sample in zip(chosen, values.astype(np.float32), strict=True):
                self.rows[int(ids[index])] = sample

    def merge(self, other: RowStore) -> None:
        """See ``Accumulator``."""
        self.rows.update(other.rows)

    def state(self) -> State:
        """Never cached on disk."""
        return {}

    def load(self, state: State) -> None:
        """Never cached on disk."""
        raise GraphoptError("stored rows are not read from disk")

    def take(self, ids: Array) -> Array:
        """Rows of these samples, [samples, positions, channels]."""
        return np.stack([self.rows[int(i)] for i in ids])


@dataclass(frozen=True, eq=False)
class Against:
    """Spec: features of the changed model against stored rows of the reference.

    The request's first tensor gives the features, cut by ``patches``; a second one, if any, is subtracted from the
    targets (the other operand of a residual sum), cut by ``other``. ``stride`` > 0: every so many rows of a sample are
    kept as they are, which takes ``kept_bytes``.
    """

    patches: Patches
    store: RowStore
    groups: int
    other: Channels | None = None
    stride: int = 0
    kept_bytes: int = 0

    def create(self) -> AgainstAccumulator:
        """A new accumulator."""
        return AgainstAccumulator(self)

    def memory(self, shapes: tuple[tuple[int, ...], ...]) -> int:
        """Two systems, and the rows that are kept."""
        return 48 * self.patches.gram_elements(shapes[0]) + self.kept_bytes


class AgainstAccumulator:
    """The system of the samples to fit, and that of the held-back ones (every fifth); and kept rows of both."""

    def __init__(self, spec: Against) -> None:
        self._spec = spec
        target = Channels(-1)
        self.fit = CrossGramAccumulator(spec.patches, target, None)
        self.held = CrossGramAccumulator(spec.patches, target, None)
        self._part = Part(HELD_PERIOD, True)
        self.fit_rows: list[ResponseRows] = []
        self.held_rows: list[ResponseRows] = []

    def update(self, arrays: tuple[Array, ...], rows: Rows) -> None:
        """See ``Accumulator``."""
        samples, ids = selected(arrays[0], rows, self._spec.patches, None)
        others = None
        if self._spec.other is not None:
            values, _ = selected(arrays[1], rows, self._spec.other, None)
            others = {
                int(ids[i]): row
                for chosen, block in self._spec.other.blocks(values, ids)
                for i, row in zip(chosen, block, strict=True)
            }
        for chosen, block in self._spec.patches.blocks(samples, ids):
            targets = self._spec.store.take(ids[chosen])
            if targets.shape[1] != block.shape[1]:
                raise GraphoptError(
                    f"a layer gives {block.shape[1]} positions where its reference gives {targets.shape[1]}"
                )
            rest = None if others is None else np.stack([others[int(ids[i])][:, 0] for i in chosen])
            held = self._part.mask(ids[chosen])
            self._add(self.fit, self.fit_rows, block, targets, rest, ~held)
            self._add(self.held, self.held_rows, block, targets, rest, held)

    def _add(
        self,
        system: CrossGramAccumulator,
        kept: list[ResponseRows],
        block: Array,
        targets: Array,
        rest: Array | None,
        mask: Array,
    ) -> None:
        """Take in the samples of the mask: features [s, p, groups, n], targets and the rest [s, p, m]."""
        if not mask.any():
            return
        left = targets[mask] if rest is None else targets[mask] - rest[mask]
        system.add_pair(grouped(block[mask], ones=True), grouped(self._split(left)))
        if self._spec.stride:
            thin = slice(None, None, self._spec.stride)
            other = None if rest is None else grouped(self._split(rest[mask][:, thin]))
            features = grouped(block[mask][:, thin], ones=True)
            kept.append(ResponseRows(features, grouped(self._split(targets[mask][:, thin])), other))

    def _split(self, values: Array) -> Array:
        return values.reshape(*values.shape[:2], self._spec.groups, -1)

    def merge(self, other: AgainstAccumulator) -> None:
        """See ``Accumulator``."""
        self.fit.merge(other.fit)
        self.held.merge(other.held)
        self.fit_rows += other.fit_rows
        self.held_rows += other.held_rows

    def state(self) -> State:
        """Never cached on disk."""
        return {}

    def load(self, state: State) -> None:
        """Never cached on disk."""
        raise GraphoptError("systems against stored rows are not read from disk")
