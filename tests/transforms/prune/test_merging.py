import numpy as np
import pytest

from graphopt.transforms.prune.merging import merge_coefficients, merge_consumer


@pytest.fixture
def rows():
    return np.random.default_rng(0).standard_normal((6, 10))


def test_duplicate_merges_with_zero_loss(rows):
    rng = np.random.default_rng(1)
    rows[4] = 2 * rows[1]
    consumer = rng.standard_normal((12, 3))
    blocks = np.arange(12).reshape(6, 2)
    kept, removed = np.array([0, 1, 2, 3, 5]), np.array([4])
    found = merge_coefficients(rows, kept, removed, ridge=1e-12)
    np.testing.assert_allclose(found, [[0, 2, 0, 0, 0]], atol=1e-6)
    merged = merge_consumer(consumer, blocks, kept, removed, found)
    x = rng.standard_normal((40, 10))
    hidden = np.repeat(np.maximum(x @ rows.T, 0), 2, axis=1)
    np.testing.assert_allclose(hidden @ merged, hidden @ consumer, atol=1e-6)
    assert not merged[blocks[removed]].any()


def test_opposite_filter_is_not_used_under_relu(rows):
    rows[4] = -rows[1]
    rows[[0, 2, 3, 5]] = 0
    kept, removed = np.array([0, 1, 2, 3, 5]), np.array([4])
    assert np.abs(merge_coefficients(rows, kept, removed)).max() < 1e-6
    linear = merge_coefficients(rows, kept, removed, ridge=1e-9, nonnegative=False)
    assert linear[0, 1] == pytest.approx(-1, abs=1e-3)
