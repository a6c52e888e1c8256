"""Which input units of a layer to remove, and what error remains for every number of removed units.

Greedy block elimination after Optimal Brain Surgeon (Hassibi and Stork 1993), with a whole unit removed at a time as
in ZipLM (Kurtic et al. 2023) and OSSCAR (Meng et al. 2024): removing the features S from the layer X W costs
tr(W_S^T [H^-1]_SS^-1 W_S) with H = X^T X, once the other weights have compensated; one sweep gives every width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.ir import Array
from graphopt.transforms.recover.definite import definite_factor

DAMPING = 1e-4


@dataclass(frozen=True)
class Consumer:
    """One layer that reads the units.

    ``gram`` [n, n] (means removed when the layer has a bias), ``weights`` [n, m], both float64; ``blocks`` [u, k] are
    the features of each unit; ``scale`` divides this layer's error, so that several layers add up. ``units`` [u] are
    the numbers of the units that it reads, when it does not read all.
    """

    gram: Array
    weights: Array
    blocks: Array
    scale: float = 1.0
    units: Array | None = None


@dataclass(frozen=True)
class Elimination:
    """``order`` lists the units, first removed first; ``errors[j]`` is the error after the first ``j`` are removed."""

    order: Array
    errors: Array

    def kept(self, width: int) -> Array:
        """The units that remain when ``width`` do, ascending."""
        return np.sort(self.order[len(self.order) - width :])


def eliminate(
    consumers: Sequence[Consumer],
    damping: float = DAMPING,
    stop: int = 0,
    chunk: int = 1,
    fixed: Array | None = None,
    units: int | None = None,
) -> Elimination:
    """Remove units one after the other until ``stop`` remain; the rest is ordered by its last score.

    ``chunk`` units are removed between two updates of the scores. ``fixed`` (bool a unit) are removed last.
    ``units`` is their number, by default that of the first consumer's blocks.
    """
    units = len(consumers[0].blocks) if units is None else units
    states = [_State(c, damping, units) for c in consumers]
    alive = np.ones(units, bool)
    order: list[int] = []
    errors = [0.0]
    while alive.sum() > max(stop, 0):
        scores = np.sum([s.scores(alive) for s in states], axis=0)
        scores[~alive] = np.inf
        if fixed is not None:
            scores = np.where(fixed & alive, scores + 1e30, scores)
        for unit in np.argsort(scores, kind="stable")[: min(chunk, int(alive.sum()) - stop)]:
            cost = sum(s.remove(int(unit)) for s in states)
            alive[unit] = False
            order.append(int(unit))
            errors.append(errors[-1] + max(cost, 0.0))
    rest = np.flatnonzero(alive)
    if len(rest):
        scores = np.sum([s.scores(alive) for s in states], axis=0)
        for unit in rest[np.argsort(scores[rest], kind="stable")]:
            order.append(int(unit))
            errors.append(errors[-1] + max(float(scores[unit]), 0.0))
    return Elimination(np.array(order), np.array(errors))


def compensated(consumer: Consumer, removed: Array, damping: float = DAMPING) -> Array:
    """The layer's weights [n, m] once ``removed`` units are zero and the others have compensated for them."""
    weights = consumer.weights.astype(np.float64)
    own = removed if consumer.units is None else np.flatnonzero(np.isin(consumer.units, removed))
    gone = consumer.blocks[own].reshape(-1)
    kept = np.setdiff1d(np.arange(len(weights)), gone)
    damped = _damped(consumer.gram, damping)
    result = np.zeros_like(weights)
    result[kept] = weights[kept] + np.linalg.solve(
        damped[np.ix_(kept, kept)], damped[np.ix_(kept, gone)] @ weights[gone]
    )
    return result


class _State:
    """The inverse Hessian and the compensated weights of one layer while units go.

    Only the blocks of the inverse that scores need are kept up to date: the rest waits until ``_WAITING`` columns have
    gone, for one large product then (lazy batches, as in GPTQ, Frantar et al. 2023). Features that have gone are
    dropped by then; ``place`` says in which row a feature is, or -1.
    """

    def __init__(self, consumer: Consumer, damping: float, units: int) -> None:
        import scipy.linalg

        damped = _damped(consumer.gram, damping)
        factor = definite_factor(damped)
        self.inverse = scipy.linalg.cho_solve(factor, np.eye(len(damped)), check_finite=False)
        self.weights = consumer.weights.astype(np.float64)
        self.place = np.arange(len(damped))
        self.alive = np.ones(len(damped), bool)
        self.waiting = 0
        self.left = np.empty((len(damped), _WAITING + consumer.blocks.shape[1]))
        self.right = np.empty(self.left.shape[::-1])
        blocks = consumer.blocks
        self.inner = self.inverse[blocks[:, :, None], blocks[:, None, :]]
        numbers = np.arange(units) if consumer.units is None else consumer.units
        self.rows = np.full(units, -1)
        self.rows[numbers] = np.arange(len(numbers))
        self.blocks = consumer.blocks
        self.scale = consumer.scale

    def scores(self, alive: Array) -> Array:
        """Cost of each unit, [units]; of removed ones meaningless."""
        scores = np.zeros(len(alive))
        living = np.flatnonzero(alive & (self.rows >= 0))
        inner = self.inner[self.rows[living]]
        weights = self.weights[self.place[self.blocks[self.rows[living]]]]
        damped = inner + _EPSILON * np.eye(inner.shape[-1])
        solved = weights / damped if damped.shape[-1] == 1 else np.linalg.solve(damped, weights)
        scores[living] = (weights * solved).sum(axis=(1, 2)) / self.scale
        return scores

    def remove(self, unit: int) -> float:
        """Zero the unit, let the others compensate; returns the cost."""
        if self.rows[unit] < 0:
            return 0.0
        block = self.blocks[self.rows[unit]]
        own = self.place[block]
        columns = self.inverse[:, own] - self.left[:, : self.waiting] @ self.right[: self.waiting, own]
        inner = columns[own] + _EPSILON * np.eye(len(block))
        solved = np.linalg.solve(inner, np.concatenate([self.weights[own], columns.T], axis=1))
        width = self.weights.shape[1]
        cost = float((self.weights[own] * solved[:, :width]).sum()) / self.scale
        self.weights -= columns @ solved[:, :width]
        self.weights[own] = 0.0
        self._forget(block, columns, solved[:, width:])
        return cost

    def _forget(self, block: Array, columns: Array, solved: Array) -> None:
        """Take ``columns`` times ``solved`` from the inverse: at once from the blocks that scores need, else later."""
        self.alive[block] = False
        units = np.flatnonzero(self.alive[self.blocks[:, 0]])
        places = self.place[self.blocks[units]]
        self.inner[units] -= columns[places] @ solved.T[places].swapaxes(1, 2)
        new = slice(self.waiting, self.waiting + len(block))
        self.left[:, new], self.right[new] = columns, solved
        self.waiting = new.stop
        if self.waiting < _WAITING:
            return
        kept = np.flatnonzero(self.alive)
        inside = self.place[kept]
        product = self.left[inside, : self.waiting] @ self.right[: self.waiting, inside]
        self.inverse = self.inverse[np.ix_(inside, inside)] - product
        self.weights = self.weights[inside]
        self.place[:] = -1
        self.place[kept] = np.arange(len(kept))
        self.left, self.right = self.left[: len(kept)], self.right[:, : len(kept)]
        self.waiting = 0


_EPSILON = 1e-14
_WAITING = 64


def _damped(gram: Array, damping: float) -> Array:
    strength = damping * max(float(np.trace(gram)) / len(gram), 1e-12)
    return np.asarray(gram + strength * np.eye(len(gram)))
