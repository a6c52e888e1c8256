"""Intervals for the difference of two models measured on the same samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

Z_95 = 1.959963984540054
RESAMPLES = 2000
_CHUNK = 1_000_000
Groups: TypeAlias = Sequence[Sequence[float]]


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


def grouped_ratio(reference: Groups, other: Groups) -> tuple[float, float, float]:
    """Ratio ``reference / other`` of paired measurements in groups, with its 95 % interval: (ratio, low, high).

    A group is what was measured in one session. Of each group the median log ratio counts; the interval is Student's t
    over the groups, so what is common to a group (memory layout, drift) widens it, and more measurements in a group
    do not narrow it. The ratio is the geometric mean of the groups.

    Raises:
        ValueError: fewer than two groups, or groups of different sizes.
    """
    logs = [float(np.median(np.log(np.divide(one, two)))) for one, two in zip(reference, other, strict=True)]
    count = len(logs)
    if count < 2:
        raise ValueError("an interval needs at least two groups")
    half = student_t(count - 1) * float(np.std(logs, ddof=1)) / math.sqrt(count)
    center = float(np.mean(logs))
    return math.exp(center), math.exp(center - half), math.exp(center + half)


def student_t(freedom: int) -> float:
    """The 97.5 % quantile of Student's t: a table up to 10 degrees of freedom, then Cornish and Fisher's expansion.

    The expansion in 1 / freedom is Abramowitz and Stegun 26.7.5; its error here is under 0.003.
    """
    if freedom <= len(_T_TABLE):
        return _T_TABLE[freedom - 1]
    z = Z_95
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2


_T_TABLE = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
