"""Finds quantization ranges from histograms, and says which scale and zero point they give.

The error of a range is what quantization to it does to the values that were seen: step^2 / 12 for those inside,
the squared distance to the border for those outside. With cumulative sums over the histogram that is a few
operations a candidate, so a whole grid of ranges is compared at once. Zeros are exact and count for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from graphopt.analysis.statistics import HistogramAccumulator
from graphopt.ir import Array
from graphopt.targets.base import Grid, IntType

Method: TypeAlias = Literal["auto", "minmax", "percentile", "mse", "entropy"]

_PERCENTILES = (0.99999, 0.9999, 0.999)
_SHRINKS = np.concatenate([np.linspace(1.0, 0.3, 57), np.geomspace(0.28, 0.01, 16)])
CLIPPING_WEIGHTS = (1.0, 4.0, 16.0, 64.0, 256.0)
"""How much more an error of clipping may count than one of rounding. Clipping errors of neighbours have one sign and
add up where rounding errors cancel; how much depends on the model, so the caller tries these on held-back samples."""


class Wish(NamedTuple):
    """How the range of a tensor is to be found: the weight of clipping errors, and by how much it is then widened."""

    clipping: float
    headroom: float = 1.0


WISHES = tuple(Wish(w) for w in CLIPPING_WEIGHTS) + tuple(Wish(1e6, h) for h in (1.0, 1.4, 2.0))
"""What is tried for single tensors: each weight, nothing clipped that was seen, and room for what was not."""

_ENTROPY_LEVELS = 128
_SMALLEST_SCALE = 1e-30


@dataclass(frozen=True)
class Range:
    """Values from ``low`` to ``high`` are represented; ``error`` is the mean squared error on what was seen."""

    low: float
    high: float
    method: str
    error: float


@dataclass(frozen=True)
class QuantParams:
    """real = (stored - zero_point) * scale, stored in ``type``."""

    scale: float
    zero_point: int
    type: IntType

    @property
    def low(self) -> float:
        """Lowest value that can be represented."""
        return (self.type.low - self.zero_point) * self.scale

    @property
    def high(self) -> float:
        """Highest value that can be represented."""
        return (self.type.high - self.zero_point) * self.scale


Function: TypeAlias = Callable[[Array], list[Array]]


class Spectrum:
    """The values of one or more tensors: sorted distinct bin centres and how many values lie there.

    With ``function``, errors are those of what it makes of the values (several results add up): a rounding error
    counts as much as the function is steep there. ``clipping`` is the weight of the errors of clipped values.
    """

    def __init__(
        self, histograms: Sequence[HistogramAccumulator], function: Function | None = None, clipping: float = 1.0
    ) -> None:
        self.clipping = clipping
        values = np.concatenate([h.centres for h in histograms])
        counts = np.concatenate([h.counts for h in histograms]).astype(np.float64)
        self.low = min(0.0, min(h.minimum for h in histograms))
        self.high = max(0.0, max(h.maximum for h in histograms))
        order = np.argsort(values, kind="stable")
        kept = order[counts[order] > 0]
        self.values = np.clip(values[kept], self.low, self.high)
        self.counts = counts[kept]
        self.total = float(sum(h.total for h in histograms)) or 1.0
        self._count = _summed(self.counts)
        self._function: Function = function or (lambda v: [v])
        self._results = self._function(self.values) if len(kept) > 1 else [self.values]
        if len(kept) <= 1:
            self._function = lambda v: [v]
        self._slope = _summed(self.counts * sum(_slope(r, self.values) for r in self._results))
        self._first = [_summed(self.counts * r) for r in self._results]
        self._second = [_summed(self.counts * r**2) for r in self._results]

    def errors(self, low: Array, high: Array, levels: int) -> Array:
        """Mean squared error of the ranges (low[i], high[i]) with that many steps."""
        step = (high - low) / levels
        a = np.searchsorted(self.values, low)
        b = np.searchsorted(self.values, high, side="right")
        error = (self._slope[b] - self._slope[a]) * step**2 / 12
        n = self._count
        edges = zip(self._function(low), self._function(high), self._first, self._second, strict=True)
        for at_low, at_high, s, q in edges:
            error = error + self.clipping * np.maximum(q[a] - 2 * at_low * s[a] + at_low**2 * n[a], 0)
            outside = (q[-1] - q[b]) - 2 * at_high * (s[-1] - s[b]) + at_high**2 * (n[-1] - n[b])
            error = error + self.clipping * np.maximum(outside, 0)
        return np.asarray(error / self.total)

    def percentile(self, share: float) -> tuple[float, float]:
        """Range that leaves out ``1 - share`` of the values on either side."""
        if not len(self.values):
            return self.low, self.high
        reached = self._count[1:] / self.total
        cut = (1 - share) / 2
        low = self.values[np.searchsorted(reached, cut)] if self.low < 0 else 0.0
        zeros = 1.0 - reached[-1]
        index = min(int(np.searchsorted(reached + zeros, 1 - cut)), len(self.values) - 1)
        high = self.values[index] if self.high > 0 else 0.0
        return min(0.0, float(low)), max(0.0, float(high))


def _summed(values: Array) -> Array:
    return np.concatenate([[0.0], np.cumsum(values)])


def _slope(results: Array, values: Array) -> Array:
    """Squared steepness, at least a thousandth so that no range is free."""
    if len(values) < 2 or results is values:
        return np.ones(len(values))
    return np.asarray(np.maximum(np.gradient(results, values) ** 2, 1e-3))


def find_range(
    histograms: Sequence[HistogramAccumulator],
    grid: Grid,
    method: Method = "auto",
    limits: tuple[float, float] | None = None,
    function: Function | None = None,
    clipping: float = 1.0,
) -> Range:
    """The range for tensors that share a grid.

    ``auto`` takes the candidate (min-max, percentiles, entropy, and a search over ranges) with the least mean
    squared error; ``limits`` is the range that the operator itself fixes (Sigmoid: 0 to 1); ``function`` is what
    the only readers of the tensor do with it; ``clipping`` weighs errors of clipping against those of rounding.
    """
    spectrum = Spectrum(histograms, function, clipping)
    levels = grid.int_type.levels - (1 if grid.symmetric and grid.int_type.low < 0 else 0)
    if limits is not None:
        return _judged(spectrum, *limits, "fixed", levels, grid)
    candidates: dict[str, tuple[float, float]] = {"minmax": (spectrum.low, spectrum.high)}
    if method in ("auto", "percentile"):
        candidates |= {f"percentile {p * 100:g}": spectrum.percentile(p) for p in _PERCENTILES}
    if method in ("auto", "mse"):
        candidates["mse"] = _search(spectrum, levels, grid)
    if method == "entropy":
        candidates["entropy"] = _entropy(spectrum)
    if method == "percentile":
        candidates = {"percentile": candidates["percentile 99.99"]}
    elif method not in ("auto", "minmax"):
        candidates = {method: candidates[method]}
    judged = [_judged(spectrum, low, high, name, levels, grid) for name, (low, high) in candidates.items()]
    return min(judged, key=lambda r: r.error)


def quant_params(low: float, high: float, grid: Grid) -> QuantParams:
    """Scale and zero point that cover ``low`` to ``high``; zero is always represented exactly.

    A range that is empty gets the scale 1 / steps, so that the zeros in it stay zero.
    """
    kind = grid.int_type
    low, high = min(low, 0.0), max(high, 0.0)
    if grid.symmetric:
        bound = max(-low, high)
        middle = (kind.low + kind.high + 1) // 2 if kind.low == 0 else 0
        steps = kind.high - middle
        return QuantParams(_scale(bound, steps), middle, kind)
    scale = _scale(high - low, kind.levels)
    zero = int(np.clip(np.rint(kind.low - low / scale), kind.low, kind.high))
    return QuantParams(scale, zero, kind)


def _scale(extent: float, steps: int) -> float:
    value = float(np.float32(extent / steps))
    return value if value > _SMALLEST_SCALE else 1.0 / steps


def _judged(spectrum: Spectrum, low: float, high: float, name: str, levels: int, grid: Grid) -> Range:
    bound = max(-low, high)
    a, b = (-bound, bound) if grid.symmetric else (low, high)
    error = spectrum.errors(np.array([a]), np.array([b]), levels)
    return Range(low, high, name, float(error[0]))


def _search(spectrum: Spectrum, levels: int, grid: Grid) -> tuple[float, float]:
    low, high = spectrum.low, spectrum.high
    if grid.symmetric:
        bounds = max(-low, high) * _SHRINKS
        best = float(bounds[np.argmin(spectrum.errors(-bounds, bounds, levels))])
        return (max(low, -best), min(high, best)) if best else (low, high)
    lows, highs = (_SHRINKS * edge if edge else np.zeros(1) for edge in (low, high))
    a, b = (m.reshape(-1) for m in np.meshgrid(lows, highs, indexing="ij"))
    chosen = int(np.argmin(spectrum.errors(a, b, levels)))
    return float(a[chosen]), float(b[chosen])


def _entropy(spectrum: Spectrum, bins: int = 2048) -> tuple[float, float]:
    """Bound whose 128-level histogram is nearest to the clipped one in Kullback-Leibler divergence.

    Source: Migacz, 8-bit inference with TensorRT, GTC 2017.
    """
    bound = max(-spectrum.low, spectrum.high)
    if not bound or not len(spectrum.values):
        return spectrum.low, spectrum.high
    index = np.minimum((np.abs(spectrum.values) / bound * bins).astype(np.int64), bins - 1)
    counts = np.bincount(index, weights=spectrum.counts, minlength=bins)
    best, chosen = np.inf, bins
    for width in range(_ENTROPY_LEVELS, bins + 1, 16):
        clipped = counts[:width].copy()
        clipped[-1] += counts[width:].sum()
        groups = np.arange(width) * _ENTROPY_LEVELS // width
        used = counts[:width] > 0
        members = np.maximum(np.bincount(groups, weights=used, minlength=_ENTROPY_LEVELS), 1)
        coarse = (np.bincount(groups, weights=counts[:width], minlength=_ENTROPY_LEVELS) / members)[groups] * used
        p, q = clipped / clipped.sum(), coarse / max(coarse.sum(), 1)
        where = (p > 0) & (q > 0)
        divergence = float((p[where] * np.log(p[where] / q[where])).sum() + 10 * p[(p > 0) & (q == 0)].sum())
        if divergence < best:
            best, chosen = divergence, width
    edge = bound * chosen / bins
    return max(spectrum.low, -edge), min(spectrum.high, edge)
