"""Which rows of a tensor belong to which sample, and which positions of a sample are looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from graphopt.ir import Array

_PHASES = 16


@dataclass(frozen=True)
class Rows:
    """The samples of one run: ``total`` were fed, the first ``valid`` are real, ``start`` came before them."""

    total: int
    valid: int
    start: int = 0

    def samples(self, array: Array, batch_axis: int = 0) -> Array:
        """The real samples of a tensor, batch axis first and padding dropped.

        A first axis that is a multiple of the batch (windows or time steps merged into it) is split. A tensor that
        has no batch axis is one sample as a whole; so is everything when its extent does not fit.
        """
        if array.ndim > batch_axis and array.shape[batch_axis] == self.total:
            return np.moveaxis(array, batch_axis, 0)[: self.valid]
        if array.ndim and self.total and array.shape[0] and array.shape[0] % self.total == 0:
            return array.reshape(self.total, array.shape[0] // self.total, *array.shape[1:])[: self.valid]
        return array[None]

    def ids(self, count: int) -> Array:
        """Global numbers of the first ``count`` samples, int64."""
        return np.arange(self.start, self.start + count, dtype=np.int64)


@dataclass(frozen=True)
class Part:
    """Every ``period``-th sample (held back, ``held=True``) or all the others; decided by the sample's number."""

    period: int
    held: bool

    def mask(self, ids: Array) -> Array:
        """Which of the samples belong to this part, bool."""
        last: Array = ids % self.period == self.period - 1
        return last if self.held else ~last


def positions(count: int, limit: int | None, ids: Array) -> Iterator[tuple[Array, Array | None]]:
    """Groups of samples and the positions to look at in each: (indices into ``ids``, positions or None for all).

    At most ``limit`` of ``count`` positions are looked at. They depend on the sample's number only, never on the
    batch; consecutive samples look at different ones, so that together they cover all.
    """
    if limit is None or count <= limit:
        yield np.arange(len(ids)), None
        return
    order = _order(count)
    for phase in np.unique(ids % _PHASES):
        chosen = np.take(order, np.arange(phase * limit, (phase + 1) * limit), mode="wrap")
        yield np.flatnonzero(ids % _PHASES == phase), np.sort(chosen)


@lru_cache(maxsize=64)
def _order(count: int) -> Array:
    return np.random.default_rng(count).permutation(count)
