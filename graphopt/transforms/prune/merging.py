"""Compensation from weights alone: a removed unit's filter as a combination of the kept ones.

After Neuron Merging (Kim et al. 2020) and its extension to combinations of several filters (LBYL, Yun et al. 2022): the
producer's row of a removed unit is fitted by ridge regression on the rows of the kept units; where the units pass
through a function that is positively homogeneous (ReLU), the consumer's weights of the removed unit are passed on with
the same coefficients. No data is used, so nothing is proved: callers mark results as data-free.
"""

from __future__ import annotations

import numpy as np

from graphopt.ir import Array

_MOST_WORK = 1 << 22


def merge_coefficients(
    rows: Array, kept: Array, removed: Array, ridge: float = 1e-3, nonnegative: bool = True
) -> Array:
    """Coefficients [removed, kept] with ``rows[removed]`` ~ coefficients @ ``rows[kept]``.

    ``rows`` [units, n] are the producer's weights (its bias may be a column). ``nonnegative``: negative coefficients
    are refused, because ReLU(-x) is not -ReLU(x). Where that is much work (kept ** 2 * removed over 4 million, some
    tenths of a second) only the nearest kept unit is used then, as Neuron Merging does.
    """
    basis = rows[kept].astype(np.float64)
    wanted = rows[removed].astype(np.float64)
    if not nonnegative:
        gram = basis @ basis.T
        strength = ridge * max(float(np.trace(gram)) / max(len(gram), 1), 1e-30)
        return np.asarray(np.linalg.solve(gram + strength * np.eye(len(gram)), basis @ wanted.T).T)
    if len(kept) ** 2 * len(removed) > _MOST_WORK:
        return _nearest(basis, wanted)
    from scipy.optimize import nnls

    norms = np.linalg.norm(basis, axis=1)
    strength = np.sqrt(ridge) * max(float(norms.mean()) if len(norms) else 0.0, 1e-30)
    factor, triangle = np.linalg.qr(np.concatenate([basis.T, strength * np.eye(len(basis))]))
    targets = np.concatenate([wanted.T, np.zeros((len(basis), len(wanted)))])
    projected = factor.T @ targets
    return np.stack([nnls(triangle, column)[0] for column in projected.T]) if len(wanted) else np.zeros((0, len(kept)))


def _nearest(basis: Array, wanted: Array) -> Array:
    """The one kept unit with the largest cosine, scaled to fit; nothing where all cosines are negative."""
    norms = np.maximum(np.linalg.norm(basis, axis=1), 1e-30)
    products = wanted @ basis.T
    best = np.argmax(products / norms, axis=1)
    every = np.arange(len(wanted))
    result = np.zeros_like(products)
    result[every, best] = np.maximum(products[every, best], 0.0) / norms[best] ** 2
    return result


def merge_consumer(weights: Array, blocks: Array, kept: Array, removed: Array, coefficients: Array) -> Array:
    """Consumer weights [n, m] with those of the removed units passed on to the kept ones, and then zero.

    ``blocks`` [units, k] are the features of each unit.
    """
    merged = weights.astype(np.float64)
    passed = np.einsum("rk,rfm->kfm", coefficients, merged[blocks[removed]])
    merged[blocks[kept]] += passed
    merged[blocks[removed]] = 0.0
    return merged
