"""Ridge least squares on Gram matrices, with the ridge chosen by held-back samples.

A layer's linear system is all in its normal equations: X^T X, X^T Y and the energy of Y. They are small, add up over
batches and shards, and give the fit and its error for any weights without going back to the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.analysis.statistics import CrossGramAccumulator
from graphopt.ir import Array
from graphopt.transforms.recover.bounded import Box, descend
from graphopt.transforms.recover.definite import definite, definite_factor

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(frozen=True)
class System:
    """Normal equations of ``groups`` independent least squares problems, all float64.

    ``gram`` [groups, n + 1, n + 1] is X^T X with a column of ones at the end of X, ``cross`` [groups, n + 1, m] is
    X^T Y, ``energy`` [groups, m] the sum of squares of Y.
    """

    gram: Array
    cross: Array
    energy: Array

    @staticmethod
    def of(accumulator: CrossGramAccumulator) -> System:
        """The system that a CrossGram has accumulated."""
        return System(accumulator.matrix, accumulator.cross, accumulator.energy)

    @property
    def rows(self) -> float:
        """Number of equations."""
        return float(self.gram[0, -1, -1])

    @property
    def variance(self) -> Array:
        """Sum of squared deviations of the targets from their mean, [groups, m]."""
        return np.asarray(np.maximum(self.energy - self.cross[:, -1] ** 2 / max(self.rows, 1.0), 0.0))

    def errors(self, weights: Array) -> Array:
        """Sum of squared residuals of each target for ``weights`` [groups, n + 1, m] (bias last), [groups, m]."""
        linear = (weights * self.cross).sum(axis=1)
        quadratic = (weights * (self.gram @ weights)).sum(axis=1)
        return np.asarray(np.maximum(self.energy - 2 * linear + quadratic, 0.0))

    def relative_error(self, weights: Array) -> float:
        """Squared residuals over the squared deviations of the targets, all targets together."""
        return float(self.errors(weights).sum() / max(float(self.variance.sum()), 1e-30))


@dataclass(frozen=True)
class Fit:
    """Fitted ``weights`` [groups, n + 1, m] (bias last) and relative errors on the held-back rows.

    ``method`` is "least squares" (with its ``ridge``), "scale", "bias", or "unchanged" when nothing helped.
    """

    weights: Array
    method: str
    ridge: float | None
    before: float
    after: float


def solve(
    system: System,
    start: Array,
    ridge: float,
    bias: bool,
    support: Array | None = None,
    box: Box | None = None,
) -> Array:
    """Minimise |X W - Y|^2 + r |W - start|^2 with r = ``ridge`` * mean diagonal of X^T X.

    The bias is not penalised; with ``bias`` false it keeps its start value. Weights outside of ``support`` (bool, as
    ``start``) stay as they are; all but the bias stay inside of ``box``. Rows and results as in ``Fit``.
    """
    fitted = start.astype(np.float64)
    damped, left = _normal(system, fitted, ridge, bias)
    if box is not None:
        damped = np.stack([definite(matrix)[0] for matrix in damped])
    for group in range(len(fitted)):
        within = None if support is None else support[group, :-1]
        fitted[group, :-1] += _solve_within(damped[group], left[group], within)
    if box is not None:
        fitted[:, :-1] = descend(damped, left + damped @ start[:, :-1], fitted[:, :-1], box)
    if bias:
        sums = system.gram[:, -1:, :-1] @ fitted[:, :-1]
        fitted[:, -1] = (system.cross[:, -1] - sums[:, 0]) / max(system.rows, 1.0)
    return fitted


def _normal(system: System, start: Array, ridge: float, bias: bool) -> tuple[Array, Array]:
    """The damped matrix [groups, n, n] without the bias, and what is left at ``start`` [groups, n, m]."""
    sums, inner = system.gram[:, -1, :-1], system.gram[:, :-1, :-1]
    if bias:
        inner = inner - sums[:, :, None] * sums[:, None] / max(system.rows, 1.0)
        target = system.cross[:, :-1] - sums[:, :, None] * system.cross[:, -1:] / max(system.rows, 1.0)
    else:
        target = system.cross[:, :-1] - sums[:, :, None] * start[:, -1:]
    strength = ridge * np.maximum(np.trace(inner, axis1=1, axis2=2) / inner.shape[1], 1e-12)
    damped = inner + strength[:, None, None] * np.eye(inner.shape[1])
    return damped, target - inner @ start[:, :-1]


def _solve_within(damped: Array, left: Array, support: Array | None) -> Array:
    """Solutions, column by column, that are zero outside of the support."""
    import scipy.linalg

    def solved(matrix: Array, sides: Array) -> Array:
        return np.asarray(scipy.linalg.cho_solve(definite_factor(matrix), sides, check_finite=False))

    if support is None or support.all():
        return solved(damped, left)
    found = np.zeros_like(left)
    full = support.all(axis=0)
    if full.any():
        found[:, full] = solved(damped, left[:, full])
    patterns, pattern_of = np.unique(support[:, ~full], axis=1, return_inverse=True)
    columns = np.flatnonzero(~full)
    for number, pattern in enumerate(patterns.T):
        free, alike = np.flatnonzero(pattern), columns[pattern_of.reshape(-1) == number]
        if len(free):
            found[np.ix_(free, alike)] = solved(damped[np.ix_(free, free)], left[np.ix_(free, alike)])
    return found


def match_bias(system: System, weights: Array) -> Array:
    """``weights`` with the bias that makes the mean of the residuals zero."""
    matched = weights.astype(np.float64)
    sums = system.gram[:, -1:, :-1] @ matched[:, :-1]
    matched[:, -1] = (system.cross[:, -1] - sums[:, 0]) / max(system.rows, 1.0)
    return matched


def match_scale(system: System, weights: Array) -> Array:
    """``weights`` scaled per target so that mean and standard deviation of X W are those of Y.

    What recalibrating BatchNorm statistics does, folded into the weights (REPAIR, Jordan et al. 2022).
    """
    matched = weights.astype(np.float64)
    count = max(system.rows, 1.0)
    mean = (system.gram[:, -1:, :-1] @ matched[:, :-1])[:, 0] / count
    square = (matched[:, :-1] * (system.gram[:, :-1, :-1] @ matched[:, :-1])).sum(axis=1) / count
    spread = np.maximum(square - mean**2, 0.0)
    wanted = system.variance / count
    usable = (spread > 1e-12) & (wanted > 1e-12)
    matched[:, :-1] *= np.where(usable, np.sqrt(wanted / np.where(usable, spread, 1.0)), 1.0)[:, None]
    return match_bias(system, matched)


def fit(
    system: System,
    held: System,
    start: Array,
    *,
    bias: bool,
    ridges: Sequence[float] = RIDGES,
    refit: bool = True,
    support: Array | None = None,
    box: Box | None = None,
) -> Fit:
    """Ridge least squares from ``start``; the ridge, or no fit at all, is chosen on ``held``.

    Candidates are ``start``, ``start`` with its bias or scale matched, and one solution for each ridge. With
    ``refit`` the chosen one is computed again from all rows, the held-back ones included. ``support`` and ``box`` as in
    ``solve``.
    """
    start = start.astype(np.float64)
    before = held.relative_error(start)
    best, after, method, ridge = start, before, "unchanged", None
    candidates: list[tuple[str, float | None, Array]] = []
    if bias:
        candidates.append(("bias", None, match_bias(system, start)))
        scaled = match_scale(system, start)
        if box is not None:
            scaled[:, :-1] = box.project(scaled[:, :-1])
            scaled = match_bias(system, scaled)
        candidates.append(("scale", None, scaled))
    for strength in ridges:
        try:
            candidates.append(("least squares", strength, solve(system, start, strength, bias, support, box)))
        except np.linalg.LinAlgError:
            continue
    for name, strength_or_none, weights in candidates:
        error = held.relative_error(weights)
        if np.isfinite(error) and error < after:
            best, after, method, ridge = weights, error, name, strength_or_none
    if refit and ridge is not None:
        best = solve(joined(system, held), start, ridge, bias, support, box)
    return Fit(best, method, ridge, before, after)


def joined(left: System, right: System) -> System:
    """The system of all rows of two systems."""
    return System(left.gram + right.gram, left.cross + right.cross, left.energy + right.energy)


def centred(gram: Array) -> Array:
    """Covariance-like part of a Gram matrix with ones: X^T X of the features with their means removed, [n, n]."""
    sums = gram[-1, :-1]
    result: Any = gram[:-1, :-1] - np.outer(sums, sums) / max(float(gram[-1, -1]), 1.0)
    return np.asarray(result)
