"""Intervals for the difference of two models measured on the same samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z_95 = 1.959963984540054
RESAMPLES = 2000
_CHUNK = 1_000_000


@dataclass(frozen=True)
class Interval:
    """A 95 % interval and the method that made it."""

    low: float
    high: float
    method: str


def paired_proportions(gained: int, lost: int, total: int) -> Interval:
    """Interval of ``(gained - lost) / total``, the difference of two paired proportions.

    ``gained`` samples are right only after, ``lost`` only before. Method: Wald with half a count added to each of
    the four cells (Agresti and Min, Statistics in Medicine 24, 2005), which holds its level in small samples.
    """
    count = total + 2.0
    up, down = gained + 0.5, lost + 0.5
    difference = (up - down) / count
    error = math.sqrt(max(up + down - (up - down) ** 2 / count, 0.0)) / count
    low, high = difference - Z_95 * error, difference + Z_95 * error
    return Interval(max(low, -1.0), min(high, 1.0), "paired proportions, Agresti-Min")


def paired_means(before: Sequence[float], after: Sequence[float], seed: int = 0) -> Interval:
    """Interval of the mean of ``after - before`` by percentile bootstrap over samples (seeded, 2,000 draws)."""
    differences = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    random = np.random.default_rng(seed)
    at_once = max(1, min(RESAMPLES, _CHUNK // differences.size))
    means: list[float] = []
    while len(means) < RESAMPLES:
        draws = random.integers(0, differences.size, (at_once, differences.size))
        means.extend(differences[draws].mean(axis=1).tolist())
    low, high = np.percentile(means[:RESAMPLES], [2.5, 97.5])
    return Interval(float(low), float(high), "paired bootstrap")


def ratio_interval(reference: Sequence[float], other: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Median of the paired ratios ``reference / other`` with its bootstrap interval: (median, low, high)."""
    ratios = np.asarray(reference, np.float64) / np.asarray(other, np.float64)
    random = np.random.default_rng(seed)
    draws = random.integers(0, ratios.size, (RESAMPLES, ratios.size))
    low, high = np.percentile(np.median(ratios[draws], axis=1), [2.5, 97.5])
    return float(np.median(ratios)), float(low), float(high)
