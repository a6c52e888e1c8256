"""Least squares with every weight inside bounds: projected Newton steps and coordinate descent on normal equations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.ir import Array

_SWEEPS = 60
_NEWTON_STEPS = 4
_NEWTON_SIZE = 2048
_BLOCK = 64
_LEAST_GAIN = 2e-4


@dataclass(frozen=True)
class Box:
    """Smallest and largest value of each weight, as the weights in shape; equal ones fix a weight."""

    low: Array
    high: Array

    def project(self, weights: Array) -> Array:
        """The nearest weights inside."""
        return np.clip(weights, self.low, self.high)

    def with_bias(self) -> Box:
        """The bounds of weights whose last row is a bias, which has none: [groups, n, m] to [groups, n + 1, m]."""
        free = np.full_like(self.low[:, :1], np.inf)
        return Box(np.concatenate([self.low, -free], axis=1), np.concatenate([self.high, free], axis=1))


def descend(gram: Array, cross: Array, start: Array, box: Box) -> Array:
    """Minimise tr(W^T G W) / 2 - <C, W> over W inside of ``box``, column by column; from ``start``, projected.

    ``gram`` G [groups, n, n] is positive definite, ``cross`` C, ``start`` and bounds are [groups, n, m], all float64.
    Every weight in turn takes its best value, which converges for a convex function with bounds on single variables
    (Tseng 2001); blocks of weights share one product with G. Where G is one matrix of moderate size, Newton steps over
    the weights that are not at their bounds (Bertsekas 1982) go first. Columns that ``start`` solves inside stay.
    """
    weights = box.project(start)
    open_columns = (weights != start).any(axis=1)
    if len(gram) == 1:
        place: tuple[Array | slice, ...] = (slice(None), slice(None), np.flatnonzero(open_columns[0]))
    else:
        place = (np.flatnonzero(open_columns.any(axis=1)),)
        gram = gram[place]
    if not open_columns.any():
        return weights
    inner, low, high = weights[place], box.low[place], box.high[place]
    total = 0.0
    if len(gram) == 1 and gram.shape[1] <= _NEWTON_SIZE:
        before = _function(gram[0], cross[place][0], inner[0])
        inner = _newton(gram[0], cross[place][0], inner[0], low[0], high[0])[None]
        total = float((before - _function(gram[0], cross[place][0], inner[0])).sum())
    left = cross[place] - gram @ inner
    for _ in range(_SWEEPS):
        gain = 0.0
        for begin in range(0, gram.shape[1], _BLOCK):
            block = slice(begin, begin + _BLOCK)
            part = (slice(None), block)
            moved, own_gain = _block(gram[:, block, block], left[part], inner[part], low[part], high[part])
            inner[part] += moved
            left -= gram[:, :, block] @ moved
            gain += own_gain
        total += gain
        if gain <= _LEAST_GAIN * total:
            break
    weights[place] = inner
    return weights


def _newton(gram: Array, cross: Array, start: Array, low: Array, high: Array) -> Array:
    """Weights [n, m] after Newton steps over those inside their bounds; a column stays as it was when none helps.

    Where rounding makes a system singular, the steps end.
    """
    best, least, weights = start, _function(gram, cross, start), start
    try:
        inverse = np.linalg.inv(gram)
    except np.linalg.LinAlgError:
        return start
    for _ in range(_NEWTON_STEPS):
        try:
            step = _newton_step(inverse, cross - gram @ weights, (weights <= low) | (weights >= high))
        except np.linalg.LinAlgError:
            break
        weights = np.clip(weights + step, low, high)
        values = _function(gram, cross, weights)
        better = values < least
        if not better.any():
            break
        best, least = np.where(better, weights, best), np.where(better, values, least)
    return best


def _newton_step(inverse: Array, left: Array, at_bounds: Array) -> Array:
    """The step of each column to its minimum over the weights that are not ``at_bounds``."""
    step = np.asarray(inverse @ left)
    for column, fixed in enumerate(np.flatnonzero(at) for at in at_bounds.T):
        if len(fixed) > len(inverse) // 2:
            step[:, column] = 0.0
            continue
        part = np.linalg.solve(inverse[np.ix_(fixed, fixed)], step[fixed, column])
        step[:, column] -= inverse[:, fixed] @ part
    return step


def _function(gram: Array, cross: Array, weights: Array) -> Array:
    """w^T G w / 2 - c^T w of each column."""
    return np.asarray((weights * (0.5 * (gram @ weights) - cross)).sum(axis=0))


def _block(gram: Array, left: Array, weights: Array, low: Array, high: Array) -> tuple[Array, float]:
    """How far each weight of a block moves, one after the other, and by how much the function falls."""
    left, moved, gain = left.copy(), np.zeros_like(weights), 0.0
    for index in range(gram.shape[1]):
        diagonal = gram[:, index, index, None]
        wanted = weights[:, index] + left[:, index] / diagonal
        step = np.minimum(np.maximum(wanted, low[:, index]), high[:, index]) - weights[:, index]
        gain += float((step * (left[:, index] - 0.5 * diagonal * step)).sum())
        moved[:, index] = step
        left -= gram[:, :, index, None] * step[:, None]
    return moved, gain
