import numpy as np
import pytest

from graphopt.transforms.recover.least_squares import System, fit, joined, match_bias, match_scale, solve


def system(x, y, groups=1):
    rows = len(x)
    features = x.reshape(rows, groups, -1).transpose(1, 0, 2)
    features = np.concatenate([features, np.ones((groups, rows, 1))], axis=2)
    targets = y.reshape(rows, groups, -1).transpose(1, 0, 2)
    return System(
        features.transpose(0, 2, 1) @ features, features.transpose(0, 2, 1) @ targets, (targets**2).sum(axis=1)
    )


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 8)) + 2
    weights = rng.standard_normal((8, 4))
    return x, weights, x @ weights + rng.standard_normal(4)


def test_error_from_normal_equations_equals_brute_force(problem):
    x, weights, y = problem
    guess = np.concatenate([weights + 0.1, np.ones((1, 4))])[None]
    brute = ((x @ guess[0, :-1] + guess[0, -1] - y) ** 2).sum(axis=0)
    np.testing.assert_allclose(system(x, y).errors(guess)[0], brute, rtol=1e-8)


def test_exact_system_is_solved(problem):
    x, weights, y = problem
    solved = solve(system(x, y), np.zeros((1, 9, 4)), 1e-10, True)
    np.testing.assert_allclose(solved[0, :-1], weights, atol=1e-6)


def test_without_bias_the_bias_stays(problem):
    x, _, y = problem
    start = np.zeros((1, 9, 4))
    start[:, -1] = 3
    solved = solve(system(x, y), start, 1e-6, False)
    np.testing.assert_array_equal(solved[0, -1], 3)
    assert system(x, y).relative_error(solved) < system(x, y).relative_error(start)


def test_groups_are_independent():
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((200, 6)), rng.standard_normal((2, 3, 2))
    y = np.concatenate([x[:, :3] @ w[0], x[:, 3:] @ w[1]], axis=1)
    solved = solve(system(x, y, groups=2), np.zeros((2, 4, 2)), 1e-12, True)
    np.testing.assert_allclose(solved[:, :-1], w, atol=1e-6)


def test_matching_gives_the_targets_moments(problem):
    x, weights, y = problem
    data = system(x, y)
    start = np.concatenate([weights * 0.3, np.zeros((1, 4))])[None]
    start[0, :2] += 0.5
    biased, scaled = match_bias(data, start), match_scale(data, start)
    for matched in (biased, scaled):
        np.testing.assert_allclose((x @ matched[0, :-1] + matched[0, -1]).mean(axis=0), y.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose((x @ scaled[0, :-1]).std(axis=0), y.std(axis=0), rtol=1e-9)


def test_fit_falls_back_when_nothing_helps(problem):
    x, weights, y = problem
    exact = np.concatenate([weights, (y - x @ weights)[:1]])[None]
    rng = np.random.default_rng(2)
    noise = system(rng.standard_normal((20, 8)), rng.standard_normal((20, 4)))
    found = fit(noise, system(x, y), exact, bias=True)
    assert found.method == "unchanged"
    assert found.after == found.before
    np.testing.assert_array_equal(found.weights, exact)


def test_ridge_is_chosen_by_held_back_rows():
    rng = np.random.default_rng(3)
    x, held_x = rng.standard_normal((25, 20)), rng.standard_normal((500, 20))
    weights = rng.standard_normal((20, 3))
    y, held_y = x @ weights + rng.standard_normal((25, 3)) * 2, held_x @ weights
    start = np.concatenate([weights + rng.standard_normal((20, 3)), np.zeros((1, 3))])[None]
    found = fit(system(x, y), system(held_x, held_y), start, bias=True, ridges=(1e-8, 1e-1), refit=False)
    assert found.ridge == 1e-1
    assert found.after < found.before


def test_joined_is_the_system_of_all_rows(problem):
    x, _, y = problem
    both = joined(system(x[:100], y[:100]), system(x[100:], y[100:]))
    np.testing.assert_allclose(both.gram, system(x, y).gram)
    np.testing.assert_allclose(both.cross, system(x, y).cross)
