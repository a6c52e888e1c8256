"""Histograms whose range widens as needed, with a result that does not depend on the order of the data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from graphopt.analysis.statistics.accumulators import StateMixin
from graphopt.analysis.statistics.samples import Rows
from graphopt.ir import Array

_BLOCK = 1 << 16
_SAFE_EXPONENT = 64
_LANES = 2


@dataclass(frozen=True)
class Histogram:
    """Counts in ``bins`` (even) equal bins over (-R, R).

    R is the smallest power of two above every magnitude seen. Bin edges are multiples of a power of two and exact,
    so that widening merges pairs of bins without moving a value across an edge.
    """

    bins: int = 4096

    def create(self) -> HistogramAccumulator:
        """A new accumulator."""
        return HistogramAccumulator(self.bins)

    def memory(self, shapes: tuple[tuple[int, ...], ...]) -> int:
        """The bins, and a block of values being binned."""
        return 8 * self.bins + 16 * min(math.prod(shapes[0]), _BLOCK)


class HistogramAccumulator(StateMixin):
    """``counts`` int64 [bins], the exponent of R, and the exact ``minimum`` and ``maximum``."""

    _fields = ("counts", "exponent", "minimum", "maximum", "zeros")

    def __init__(self, bins: int) -> None:
        self.bins = bins
        self.counts: Any = np.zeros(bins, np.int64)
        self.exponent: int | None = None
        self.minimum = float("inf")
        self.maximum = float("-inf")
        self.zeros = 0

    @property
    def limit(self) -> float:
        """R: all values lie in (-R, R). Zero when only zeros were seen."""
        return 0.0 if self.exponent is None else math.ldexp(1.0, self.exponent)

    @property
    def width(self) -> float:
        """Width of a bin."""
        return 2.0 * self.limit / self.bins

    @property
    def edges(self) -> Array:
        """Edges of the bins, float64 [bins + 1]."""
        return (np.arange(self.bins + 1) - self.bins // 2) * self.width

    @property
    def centres(self) -> Array:
        """Middles of the bins, float64 [bins]."""
        return (np.arange(self.bins) - self.bins // 2 + 0.5) * self.width

    @property
    def total(self) -> int:
        """Number of values, zeros included."""
        return int(self.counts.sum()) + self.zeros

    def update(self, arrays: tuple[Array, ...], rows: Rows) -> None:
        """See ``Accumulator``."""
        values = rows.samples(arrays[0])
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        self._widen(_exponent(max(abs(low), abs(high))))
        flat = values.reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            self._bin(flat[start : start + _BLOCK])

    def merge(self, other: HistogramAccumulator) -> None:
        """See ``Accumulator``."""
        self.minimum, self.maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        self.zeros += other.zeros
        self._widen(other.exponent)
        if other.exponent is not None and self.exponent is not None:
            self.counts = self.counts + _narrowed(other.counts, self.exponent - other.exponent)

    def quantile(self, share: float) -> float:
        """Magnitude below which ``share`` of the values lie (upper edge of its bin)."""
        half = self.bins // 2
        folded = self.counts[half:] + self.counts[:half][::-1]
        reached = np.flatnonzero(self.zeros + np.cumsum(folded) >= share * self.total)
        return min(float((reached[0] + 1) * self.width), max(abs(self.minimum), abs(self.maximum)))

    def _bin(self, values: Array) -> None:
        zeros = int(np.count_nonzero(values == 0))
        self.zeros += zeros
        if self.exponent is None or zeros == values.size:
            return
        single = values.dtype == np.float32 and abs(self.exponent) < _SAFE_EXPONENT
        scaled = np.multiply(values, 1.0 / self.width, dtype=np.float32 if single else np.float64)
        if single and np.count_nonzero(scaled == 0) != zeros:
            scaled = np.multiply(values, 1.0 / self.width, dtype=np.float64)
        np.floor(scaled, out=scaled)
        index = scaled.astype(np.int32)
        index += _places(self.bins)[: index.size]
        self.counts += np.bincount(index, minlength=_LANES * self.bins).reshape(_LANES, -1).sum(axis=0)
        self.counts[self.bins // 2] -= zeros

    def _widen(self, exponent: int | None) -> None:
        if exponent is None:
            return
        if self.exponent is None:
            self.exponent = exponent
        elif exponent > self.exponent:
            self.counts = _narrowed(self.counts, exponent - self.exponent)
            self.exponent = exponent


@lru_cache(maxsize=8)
def _places(bins: int) -> Array:
    """What is added to the bin number of each value of a block: half of the bins, and a lane, in turn.

    Equal values that follow each other (zeros behind a ReLU) are counted in different places, so that one count need
    not wait for the one before.
    """
    lanes = np.arange(_LANES, dtype=np.int32) * bins + bins // 2
    return np.tile(lanes, -(-_BLOCK // _LANES))


def _exponent(magnitude: float) -> int | None:
    """Exponent of the smallest power of two above ``magnitude``; None for zero."""
    return None if magnitude == 0 else math.frexp(magnitude)[1]


def _narrowed(counts: Array, doublings: int) -> Array:
    """The counts after the range was doubled that often."""
    half = len(counts) // 2
    index = ((np.arange(len(counts)) - half) >> min(doublings, 62)) + half
    return np.bincount(index, weights=counts, minlength=len(counts)).astype(np.int64)
