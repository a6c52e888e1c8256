"""Cholesky factors of Gram matrices that rounding may have left a little indefinite."""

from __future__ import annotations

import numpy as np

from graphopt.ir import Array

Factor = tuple[Array, bool]
_FIRST, _GROWTH, _LEAST = 1e-10, 10.0, 1e-12


def definite(matrix: Array) -> tuple[Array, Factor]:
    """A symmetric ``matrix`` [n, n], float64, with a diagonal that makes it positive definite, and its Cholesky factor.

    The variances of features that hardly vary are differences of large numbers, and can come out negative. The diagonal
    then grows, by as little as a power of ten allows, until the matrix is positive definite; at the latest when every
    row is dominated by its diagonal (Gershgorin). The factor is what ``scipy.linalg.cho_factor`` gives, lower.

    Raises:
        numpy.linalg.LinAlgError: the matrix is not finite.
    """
    import scipy.linalg

    added = 0.0
    most = max(float(np.abs(matrix).sum(axis=1).max(initial=0.0)), _LEAST)
    if not np.isfinite(most):
        raise np.linalg.LinAlgError("a Gram matrix holds NaN or infinite values")
    while True:
        grown = matrix + added * np.eye(len(matrix))
        try:
            factor, lower = scipy.linalg.cho_factor(grown, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            if added > _GROWTH * most:
                raise
            added = max(_GROWTH * added, _FIRST * most)
        else:
            return grown, (np.asarray(factor), bool(lower))


def definite_factor(matrix: Array) -> Factor:
    """The factor alone; see ``definite``."""
    return definite(matrix)[1]
