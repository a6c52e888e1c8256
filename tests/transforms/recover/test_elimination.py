import itertools

import numpy as np
import pytest

from graphopt.transforms.recover.elimination import Consumer, compensated, eliminate


def consumer(x, weights, k=1):
    return Consumer(x.T @ x / len(x), weights, np.arange(x.shape[1]).reshape(-1, k))


def true_error(gram, weights, gone):
    kept = np.setdiff1d(np.arange(len(weights)), gone)
    solved = np.linalg.lstsq(gram[np.ix_(kept, kept)], gram[kept] @ weights, rcond=None)[0]
    residual = weights.copy()
    residual[kept] -= solved
    return float((residual * (gram @ residual)).sum())


def test_errors_are_those_of_the_best_compensation():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 8)) @ rng.standard_normal((8, 8))
    layer = consumer(x, rng.standard_normal((8, 3)), 2)
    found = eliminate([layer], damping=1e-12)
    for removed in range(4):
        gone = layer.blocks[found.order[:removed]].reshape(-1)
        assert found.errors[removed] == pytest.approx(true_error(layer.gram, layer.weights, gone), rel=1e-5, abs=1e-8)
    assert found.errors[-1] == pytest.approx(float((layer.weights * (layer.gram @ layer.weights)).sum()), rel=1e-5)
    assert (np.diff(found.errors) >= 0).all()


def test_first_choice_is_the_best_single_unit():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((300, 6)) @ rng.standard_normal((6, 6))
    layer = consumer(x, rng.standard_normal((6, 2)))
    costs = [true_error(layer.gram, layer.weights, [i]) for i in range(6)]
    assert eliminate([layer], damping=1e-12).order[0] == int(np.argmin(costs))


def test_dependent_units_cost_nothing():
    rng = np.random.default_rng(2)
    base = rng.standard_normal((500, 3))
    x = np.concatenate([base, base @ rng.standard_normal((3, 2))], axis=1)
    layer = consumer(x, rng.standard_normal((5, 4)))
    found = eliminate([layer], damping=1e-10)
    assert found.errors[2] < 1e-6 * found.errors[-1]
    assert found.errors[3] > 1e-3 * found.errors[-1]
    weights = compensated(layer, found.order[:2], damping=1e-12)
    np.testing.assert_allclose(x @ weights, x @ layer.weights, atol=1e-4)
    assert not weights[found.order[:2]].any()


def test_duplicated_unit_merges_without_loss():
    rng = np.random.default_rng(3)
    base = rng.standard_normal((200, 4))
    x = np.concatenate([base, base[:, 1:2]], axis=1)
    weights = rng.standard_normal((5, 3))
    found = eliminate([consumer(x, weights)], damping=1e-10)
    assert found.order[0] in (1, 4)
    merged = compensated(consumer(x, weights), found.order[:1], damping=1e-12)
    kept = 5 - int(found.order[0])
    np.testing.assert_allclose(merged[kept], weights[1] + weights[4], atol=1e-4)


def test_several_consumers_share_one_order():
    rng = np.random.default_rng(4)
    x = rng.standard_normal((300, 5))
    weights = np.eye(5)
    left, right = weights.copy(), weights.copy()
    left[0], right[1] = 0, 0
    left[4], right[4] = 0, 0
    found = eliminate([consumer(x, left), consumer(x, right)])
    assert found.order[0] == 4
    assert set(found.order[1:3]) == {0, 1}


def test_stopping_early_still_orders_everything():
    rng = np.random.default_rng(5)
    layer = consumer(rng.standard_normal((100, 9)), rng.standard_normal((9, 2)))
    found = eliminate([layer], stop=4, chunk=2)
    assert sorted(found.order) == list(range(9))
    assert len(found.errors) == 10


def test_fixed_units_go_last():
    rng = np.random.default_rng(6)
    layer = consumer(rng.standard_normal((100, 6)), rng.standard_normal((6, 2)))
    fixed = np.array([True, False, False, True, False, False])
    assert set(eliminate([layer], fixed=fixed).order[-2:]) == {0, 3}


def test_greedy_is_near_the_best_subset():
    rng = np.random.default_rng(7)
    x = rng.standard_normal((300, 7)) @ rng.standard_normal((7, 7))
    layer = consumer(x, rng.standard_normal((7, 2)))
    found = eliminate([layer], damping=1e-12)
    best = min(true_error(layer.gram, layer.weights, list(s)) for s in itertools.combinations(range(7), 3))
    assert found.errors[3] <= 2 * best


@pytest.mark.parametrize("size", [1, 3])
def test_every_width_costs_what_removing_these_units_at_once_costs(size):
    """More features than are gathered before the inverse is brought up to date."""
    rng = np.random.default_rng(size)
    units = 150 // size
    rows = rng.standard_normal((400, units * size)) @ (
        np.eye(units * size) + 0.1 * rng.standard_normal((units * size,) * 2)
    )
    blocks = rng.permutation(units * size).reshape(units, size)
    consumer = Consumer(rows.T @ rows, rng.standard_normal((units * size, 5)), blocks)
    found = eliminate([consumer], damping=1e-13)
    for removed in (1, units // 3, units - 2):
        gone = blocks[found.order[:removed]].reshape(-1)
        kept = np.setdiff1d(np.arange(units * size), gone)
        wanted = rows[:, gone] @ consumer.weights[gone]
        left = wanted - rows[:, kept] @ np.linalg.lstsq(rows[:, kept], wanted, rcond=None)[0]
        assert np.isclose(found.errors[removed], np.square(left).sum(), rtol=1e-4)
