"""Least squares inside bounds against scipy, and the cut that fits move through a model."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import lsq_linear

from graphopt.transforms.recover.bounded import Box, descend
from graphopt.transforms.recover.least_squares import System, solve


@pytest.mark.parametrize(("groups", "size", "columns"), [(1, 6, 3), (1, 150, 4), (5, 9, 1), (3, 12, 4)])
def test_the_least_squares_solution_inside_bounds(groups, size, columns):
    rng = np.random.default_rng(size)
    mix = np.eye(size) + 0.5 * rng.standard_normal((groups, size, size)) / np.sqrt(size)
    rows = rng.standard_normal((groups, 4 * size, size)) @ mix
    weights = rng.standard_normal((groups, size, columns))
    targets = rows @ weights
    gram, cross = rows.transpose(0, 2, 1) @ rows, rows.transpose(0, 2, 1) @ targets
    box = Box(np.full_like(weights, -0.8), np.full_like(weights, 0.8))
    found = descend(gram, cross, weights, box)
    assert np.abs(found).max() <= 0.8
    for group in range(groups):
        for column in range(columns):
            best = lsq_linear(rows[group], targets[group, :, column], (-0.8, 0.8)).x
            wanted = np.square(rows[group] @ best - targets[group, :, column]).sum()
            got = np.square(rows[group] @ found[group, :, column] - targets[group, :, column]).sum()
            assert got <= wanted * 1.02 + 1e-9


def test_columns_inside_their_bounds_do_not_move():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((1, 40, 5))
    weights = np.array([[[0.1, 3.0], [0.2, 0.1], [0.3, 0.1], [0.1, 0.2], [0.0, 0.1]]])
    gram = rows.transpose(0, 2, 1) @ rows
    found = descend(gram, gram @ weights, weights, Box(np.full_like(weights, -1), np.full_like(weights, 1)))
    assert np.array_equal(found[..., 0], weights[..., 0])
    assert found[0, 0, 1] == 1.0


def test_equal_bounds_fix_a_weight():
    gram, cross = np.eye(2)[None], np.array([[[4.0], [5.0]]])
    start = np.array([[[0.0], [5.0]]])
    box = Box(np.array([[[0.0], [-9.0]]]), np.array([[[0.0], [2.0]]]))
    assert descend(gram, cross, start, box).tolist() == [[[0.0], [2.0]]]


@pytest.mark.parametrize("ridge", [1e-6, 1e-1])
@pytest.mark.parametrize("seed", [189, 259, 273, 291])
def test_features_that_stand_still_leave_the_weights_inside_their_bounds(seed, ridge):
    """Their variance is what rounding makes of it, maybe negative; the system may be singular."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 80))
    rows = np.ones((200, size + 1))
    mean, spread = 1000 * 10 ** rng.uniform(0, 4), 10 ** rng.uniform(-12, -3)
    rows[:, :-1] = (mean + spread * rng.standard_normal((200, size))).astype(np.float32)
    weights = rng.standard_normal((1, size + 1, 3))
    targets = rows @ weights[0]
    system = System((rows.T @ rows)[None], (rows.T @ targets)[None], np.square(targets).sum(axis=0)[None])
    low = np.full((1, size, 3), -0.5)
    found = solve(system, weights, ridge, True, None, Box(low, -low))
    assert np.isfinite(found).all()
    assert np.abs(found[:, :-1]).max() <= 0.5
