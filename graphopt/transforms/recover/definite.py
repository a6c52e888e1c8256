"""Cholesky factors of Gram matrices that rounding may have left a little indefinite."""

from __future__ import annotations

import numpy as np

from graphopt.ir import Array

Factor = tuple[Array, bool]
_FIRST, _GROWTH, _LEAST = 1e-10, 10.0, 1e-12


def definite_factor(matrix: Array) -> Factor:
    """What ``scipy.linalg.cho_factor`` gives for a symmetric ``matrix`` [n, n], lower, float64.

    The variances of features that hardly vary are differences of large numbers, and can come out negative. The diagonal
    then grows, by as little as a power of ten allows, until the matrix is positive definite; at the latest when every
    row is dominated by its diagonal (Gershgorin).

    Raises:
        numpy.linalg.LinAlgError: the matrix is not finite.
    """
    import scipy.linalg

    added = 0.0
    most = max(float(np.abs(matrix).sum(axis=1).max(initial=0.0)), _LEAST)
    while True:
        try:
            factor, lower = scipy.linalg.cho_factor(
                matrix + added * np.eye(len(matrix)), lower=True, check_finite=False
            )
        except np.linalg.LinAlgError:
            if not np.isfinite(most) or added > most:
                raise
            added = max(_GROWTH * added, _FIRST * most)
        else:
            return np.asarray(factor), bool(lower)
