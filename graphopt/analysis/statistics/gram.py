"""Gram matrices of layer inputs, alone or with a target: all that a least squares fit needs to know of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.analysis.statistics.accumulators import StateMixin
from graphopt.analysis.statistics.patches import Patches
from graphopt.analysis.statistics.samples import Part, Rows
from graphopt.ir import Array

_BLOCK_ROWS = 4096


@dataclass(frozen=True)
class Gram:
    """X^T X over the rows that ``patches`` cuts, with a column of ones at the end; of one ``part`` of the samples."""

    patches: Patches
    part: Part | None = None

    def create(self) -> GramAccumulator:
        """A new accumulator."""
        return GramAccumulator(self.patches, self.part)

    def memory(self, shapes: tuple[tuple[int, ...], ...]) -> int:
        """The matrix, and one more while a block is added."""
        return 16 * self.patches.gram_elements(shapes[0])


class GramAccumulator(StateMixin):
    """``matrix`` float64 [groups, n + 1, n + 1]; its last row holds the sums of the features and the row count."""

    _fields: tuple[str, ...] = ("matrix",)

    def __init__(self, patches: Patches, part: Part | None) -> None:
        self.patches = patches
        self.part = part
        self.matrix: Any = None

    @property
    def count(self) -> int:
        """Number of rows seen."""
        return 0 if self.matrix is None else int(self.matrix[0, -1, -1])

    @property
    def mean(self) -> Array:
        """Mean of the features, [groups, n]."""
        return np.asarray(self.matrix[:, -1, :-1] / self.matrix[:, -1:, -1])

    def update(self, arrays: tuple[Array, ...], rows: Rows) -> None:
        """See ``Accumulator``."""
        samples, ids = selected(arrays[0], rows, self.patches, self.part)
        for _, block in self.patches.blocks(samples, ids):
            self.add(grouped(block, ones=True))

    def add(self, features: Array) -> None:
        """Take in rows [groups, rows, n + 1] whose last column is ones."""
        product = blockwise(features, features)
        self.matrix = product if self.matrix is None else self.matrix + product

    def merge(self, other: GramAccumulator) -> None:
        """See ``Accumulator``."""
        if other.matrix is not None:
            self.matrix = other.matrix.copy() if self.matrix is None else self.matrix + other.matrix


@dataclass(frozen=True)
class CrossGram:
    """X^T X, X^T Y and the energy of Y: features of the request's first tensor, targets of its second."""

    patches: Patches
    target: Patches
    part: Part | None = None

    def create(self) -> CrossGramAccumulator:
        """A new accumulator."""
        return CrossGramAccumulator(self.patches, self.target, self.part)

    def memory(self, shapes: tuple[tuple[int, ...], ...]) -> int:
        """Both matrices, twice."""
        return 32 * self.patches.gram_elements(shapes[0])


class CrossGramAccumulator(GramAccumulator):
    """Adds ``cross`` float64 [groups, n + 1, m] and ``energy`` float64 [groups, m] (sum of squares of the targets)."""

    _fields = ("matrix", "cross", "energy")

    def __init__(self, patches: Patches, target: Patches, part: Part | None) -> None:
        super().__init__(patches, part)
        self.target = target
        self.cross: Any = None
        self.energy: Any = None

    def update(self, arrays: tuple[Array, ...], rows: Rows) -> None:
        """See ``Accumulator``. Both tensors must give the same positions."""
        samples, ids = selected(arrays[0], rows, self.patches, self.part)
        wanted, _ = selected(arrays[1], rows, self.target, self.part)
        pairs = zip(self.patches.blocks(samples, ids), self.target.blocks(wanted, ids), strict=True)
        for (_, block), (_, target) in pairs:
            self.add_pair(grouped(block, ones=True), grouped(target))

    def add_pair(self, features: Array, targets: Array) -> None:
        """Take in rows [groups, rows, n + 1] (last column ones) with targets [groups, rows, m]."""
        self.add(features)
        cross = blockwise(features, targets)
        energy = np.square(targets, dtype=np.float64).sum(axis=1)
        self.cross = cross if self.cross is None else self.cross + cross
        self.energy = energy if self.energy is None else self.energy + energy

    def merge(self, other: GramAccumulator) -> None:
        """See ``Accumulator``."""
        super().merge(other)
        if isinstance(other, CrossGramAccumulator) and other.cross is not None:
            self.cross = other.cross.copy() if self.cross is None else self.cross + other.cross
            self.energy = other.energy.copy() if self.energy is None else self.energy + other.energy


def selected(array: Array, rows: Rows, patches: Patches, part: Part | None) -> tuple[Array, Array]:
    """The samples of a tensor that belong to ``part``, and their global numbers."""
    samples = rows.samples(array, patches.batch_axis)
    ids = rows.ids(len(samples))
    if part is None:
        return samples, ids
    mask = part.mask(ids)
    return samples[mask], ids[mask]


def grouped(block: Array, ones: bool = False) -> Array:
    """Rows [samples, positions, groups, n] as [groups, rows, n], float32, with a column of ones if asked for."""
    count, places, groups, size = block.shape
    result = np.ones((groups, count * places, size + ones), np.float32)
    result[:, :, :size] = block.reshape(count * places, groups, size).transpose(1, 0, 2)
    return result


def blockwise(left: Array, right: Array) -> Array:
    """left^T right, float64 [groups, n, m]: products of blocks of rows in float32, their sum in float64.

    A block whose product overflows float32 is computed in float64.
    """
    total = np.zeros((left.shape[0], left.shape[2], right.shape[2]))
    for start in range(0, left.shape[1], _BLOCK_ROWS):
        a, b = left[:, start : start + _BLOCK_ROWS], right[:, start : start + _BLOCK_ROWS]
        with np.errstate(over="ignore", invalid="ignore"):
            product = np.matmul(a.transpose(0, 2, 1), b)
        if not np.isfinite(product).all():
            product = np.matmul(a.transpose(0, 2, 1).astype(np.float64), b.astype(np.float64))
        total += product
    return total
