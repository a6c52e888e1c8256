"""Fits that know the activation behind a layer: what matters is f(output), not the output itself.

A least squares fit spends its freedom on values that a ReLU cuts off. Here the layer is fitted to what comes after the
activation f (as Zhang et al. 2015, Accelerating very deep convolutional networks, do with a nonlinear solver): starting
from the least squares solution, the weights move by the least squares solution for the error that is left behind f,

    W <- W + (X^T X + r)^-1 X^T (f(T) - f(X W)),

the fixed-point iteration for a single-index model (Kalai and Sastry 2009, Isotron; Kakade et al. 2011, GLMtron) with
X^T X as its metric and Nesterov's momentum. Held-back rows decide when to stop, and whether it helped at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from graphopt.ir import Array
from graphopt.transforms.recover.bounded import Box, descend
from graphopt.transforms.recover.definite import definite
from graphopt.transforms.recover.least_squares import System
from graphopt.transforms.recover.responses import Response

_ITERATIONS = 24
_PATIENCE = 3
_LEAST_GAIN = 5e-4
_BLOCK_ROWS = 4096


@dataclass(frozen=True)
class ResponseRows:
    """Rows of one layer, float32: ``features`` [groups, rows, n + 1] (last column ones), ``targets`` [groups, rows, m].

    ``other`` [groups, rows, m] is added to the layer's output in front of the activation (a residual sum), or None.
    """

    features: Array
    targets: Array
    other: Array | None = None


@dataclass(frozen=True)
class Refined:
    """``weights`` [groups, n + 1, m] and the relative squared error behind the activation on held-back rows."""

    weights: Array
    before: float
    after: float
    iterations: int


def refine(
    fit: Sequence[ResponseRows],
    held: Sequence[ResponseRows],
    system: System,
    start: Array,
    response: Response,
    ridge: float,
    box: Box | None = None,
) -> Refined:
    """Improve ``start`` [groups, n + 1, m] behind the activation; the number of iterations is chosen on ``held``.

    ``system`` holds the normal equations of the rows in ``fit`` (or of more of the same kind), ``ridge`` the damping
    relative to their mean diagonal. The bias is fitted like a weight; the others stay inside of ``box``.
    """
    held, fit = _prepared(held, response), _prepared(fit, response)
    before = _relative_error(held, start, response)
    best, after, chosen = start, before, 0
    for iteration, weights in enumerate(_iterates(fit, system, start, response, ridge, box), 1):
        error = _relative_error(held, weights, response)
        if not np.isfinite(error):
            break
        if error < after * (1 - _LEAST_GAIN):
            best, after, chosen = weights, error, iteration
        elif iteration - chosen >= _PATIENCE:
            break
    return Refined(best, before, after, chosen)


def advance(
    rows: Sequence[ResponseRows],
    system: System,
    start: Array,
    response: Response,
    ridge: float,
    iterations: int,
    box: Box | None = None,
) -> Array:
    """The weights after a number of iterations; arguments as for ``refine``."""
    rows = _prepared(rows, response)
    return next(islice(_iterates(rows, system, start, response, ridge, box), iterations - 1, None), start)


def relative_error(blocks: Sequence[ResponseRows], weights: Array, response: Response) -> float:
    """Squared error behind the activation over the squared deviations of what should be there."""
    return _relative_error(_prepared(blocks, response), weights, response)


def _relative_error(blocks: Sequence[ResponseRows], weights: Array, response: Response) -> float:
    error = sum(float(np.square(_left(b, weights, response)).sum(dtype=np.float64)) for b in blocks)
    return error / max(_variance(blocks), 1e-30)


def _prepared(blocks: Sequence[ResponseRows], response: Response) -> list[ResponseRows]:
    """Blocks of a few thousand rows whose targets are those behind the activation."""
    result: list[ResponseRows] = []
    waiting: list[ResponseRows] = []
    for index, block in enumerate(blocks):
        waiting.append(block)
        if index == len(blocks) - 1 or sum(b.targets.shape[1] for b in waiting) >= _BLOCK_ROWS:
            others = [b.other for b in waiting if b.other is not None]
            targets = response.apply(np.concatenate([b.targets for b in waiting], axis=1))
            features = np.concatenate([b.features for b in waiting], axis=1)
            result.append(ResponseRows(features, targets, np.concatenate(others, axis=1) if others else None))
            waiting = []
    return result


def _iterates(
    rows: Sequence[ResponseRows],
    system: System,
    start: Array,
    response: Response,
    ridge: float,
    box: Box | None = None,
) -> Iterator[Array]:
    solver = _Solver(system, ridge)
    share = max(system.rows, 1.0) / max(sum(r.features.shape[1] for r in rows), 1) / response.slope
    weights = ahead = start
    momentum = 1.0
    for _ in range(_ITERATIONS):
        moved = ahead + solver.solve(_pull(rows, ahead, response) * share)
        moved = moved if box is None else solver.project(moved, box.with_bias())
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = moved + (momentum - 1) / following * (moved - weights)
        weights, momentum = moved, following
        yield weights


class _Solver:
    """Solves (X^T X + r) d = g for each group."""

    def __init__(self, system: System, ridge: float) -> None:
        self._factors = []
        self._grams = []
        for gram in system.gram:
            size = len(gram) - 1
            strength = max(ridge, 1e-6) * max(float(np.trace(gram[:-1, :-1])) / max(size, 1), 1e-12)
            damped = gram + np.diag([*[strength] * size, 1e-6 * max(float(gram[-1, -1]), 1.0)])
            grown, factor = definite(damped)
            self._grams.append(grown)
            self._factors.append(factor)

    def solve(self, pull: Array) -> Array:
        import scipy.linalg

        found = [scipy.linalg.cho_solve(f, p, check_finite=False) for f, p in zip(self._factors, pull, strict=True)]
        return np.stack(found)

    def project(self, weights: Array, box: Box) -> Array:
        """The nearest weights inside of the bounds, with X^T X + r as the metric."""
        grams = np.stack(self._grams)
        return descend(grams, grams @ weights, weights, box)


def _left(rows: ResponseRows, weights: Array, response: Response) -> Array:
    """What should be behind the activation less what is there, [groups, rows, m]; of prepared rows."""
    outputs = np.matmul(rows.features, weights.astype(np.float32))
    if rows.other is not None:
        outputs += rows.other
    left: Array = rows.targets - response.apply(outputs)
    return left


def _pull(blocks: Sequence[ResponseRows], weights: Array, response: Response) -> Array:
    total: Any = 0.0
    for rows in blocks:
        product = np.matmul(rows.features.transpose(0, 2, 1), _left(rows, weights, response))
        total = total + product.astype(np.float64)
    return np.asarray(total)


def _variance(blocks: Sequence[ResponseRows]) -> float:
    """Squared deviations of prepared targets from their mean."""
    count = sum(b.targets.shape[1] for b in blocks)
    values = [b.targets for b in blocks]
    mean = np.sum([v.sum(axis=1, dtype=np.float64) for v in values], axis=0) / max(count, 1)
    square = sum(float(np.square(v).sum(dtype=np.float64)) for v in values)
    return float(square - np.square(mean).sum() * count)
