import numpy as np
import pytest
import scipy.linalg

from graphopt.transforms.recover.definite import definite_factor
from graphopt.transforms.recover.elimination import Consumer, eliminate


def test_a_definite_matrix_is_factored_as_it_is():
    rows = np.random.default_rng(0).standard_normal((50, 8))
    factor, lower = definite_factor(rows.T @ rows)
    assert lower
    np.testing.assert_array_equal(np.tril(factor), np.linalg.cholesky(rows.T @ rows))


@pytest.mark.parametrize("noise", [1e-12, 1.0])
def test_the_diagonal_grows_until_rounding_is_covered(noise):
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((50, 3)) @ rng.standard_normal((3, 8))
    wrong = rng.standard_normal((8, 8)) * noise
    indefinite = rows.T @ rows + wrong + wrong.T - noise * 10 * np.eye(8)
    assert np.linalg.eigvalsh(indefinite)[0] < 0
    factor, _ = definite_factor(indefinite)
    given = np.tril(factor) @ np.tril(factor).T - indefinite
    added = given.diagonal().mean()
    np.testing.assert_allclose(given, added * np.eye(8), atol=1e-9)
    assert added < 2 * np.abs(indefinite).sum(axis=1).max()


@pytest.mark.parametrize("matrix", [np.zeros((4, 4)), -np.eye(4), np.zeros((0, 0))])
def test_any_finite_symmetric_matrix_has_a_factor(matrix):
    factor, lower = definite_factor(matrix)
    assert np.isfinite(scipy.linalg.cho_solve((factor, lower), np.eye(len(matrix)))).all()


def test_infinite_matrices_are_refused():
    with pytest.raises(np.linalg.LinAlgError):
        definite_factor(np.full((2, 2), -np.inf))


def test_units_are_ordered_although_their_variances_are_only_rounding():
    """Features that stand still next to their mean, as behind an exploding layer."""
    noise = np.random.default_rng(2).standard_normal((8, 8)) * 1e-11
    consumer = Consumer(noise + noise.T, np.ones((8, 2)), np.arange(8)[:, None])
    found = eliminate([consumer])
    assert sorted(found.order) == list(range(8))
    assert np.isfinite(found.errors).all()


@pytest.mark.parametrize("matrix", [np.full((3, 3), np.nan), np.array([[1.0, np.nan], [np.nan, 1.0]])])
def test_matrices_with_nan_are_refused(matrix):
    with pytest.raises(np.linalg.LinAlgError, match="NaN"):
        definite_factor(matrix)
