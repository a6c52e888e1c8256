"""Least squares with every weight inside bounds, by coordinate descent on the normal equations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.ir import Array

_SWEEPS = 60
_BLOCK = 64
_LEAST_GAIN = 1e-4


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
    (Tseng 2001); blocks of weights share one product with G. Columns that ``start`` solves inside the bounds stay.
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
    left = cross[place] - gram @ inner
    first = 0.0
    for _ in range(_SWEEPS):
        gain = 0.0
        for begin in range(0, gram.shape[1], _BLOCK):
            block = slice(begin, begin + _BLOCK)
            part = (slice(None), block)
            moved, own_gain = _block(gram[:, block, block], left[part], inner[part], low[part], high[part])
            inner[part] += moved
            left -= gram[:, :, block] @ moved
            gain += own_gain
        first = first or gain
        if gain <= _LEAST_GAIN * first:
            break
    weights[place] = inner
    return weights


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
