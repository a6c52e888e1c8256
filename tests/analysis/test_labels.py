"""Label algebra: reshapes, grids, closure."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.analysis.labels.solve import solve
from graphopt.analysis.labels.space import Frozen, Space, refine, reshape


def removed(space: Space, seed: int = 0, share: float = 0.5) -> tuple[np.ndarray, object]:
    solution = solve(space)
    random = np.random.default_rng(seed)
    leaves = (random.random(len(solution.frozen)) < share) & solution.leaf
    return solution.removed(leaves), solution


def holds(space: Space, seed: int) -> None:
    """Every recorded constraint is satisfied by a random choice of leaves."""
    gone, solution = removed(space, seed)
    for a, b in space.edges:
        assert np.array_equal(gone[solution.class_of[a]], gone[solution.class_of[b]])
    for labels, _ in space.freezes:
        assert not gone[solution.class_of[labels]].any()
    for grid in space.grids:
        expected = np.zeros(grid.merged.shape, bool)
        for k, factor in enumerate(grid.factors):
            shape = [-1 if i == k else 1 for i in range(grid.merged.ndim)]
            expected |= gone[solution.class_of[factor]].reshape(shape)
        assert np.array_equal(gone[solution.class_of[grid.merged]], expected)


@pytest.mark.parametrize(
    ("first", "second", "factors"),
    [((12,), (3, 4), [3, 4]), ((3, 8), (6, 4), [3, 2, 4]), ((2, 6), (3, 4), None), ((24,), (2, 3, 4), [2, 3, 4])],
)
def test_refine(first: tuple[int, ...], second: tuple[int, ...], factors: list[int] | None) -> None:
    assert refine(first, second) == factors


def test_merge_with_a_frozen_factor_shares_labels() -> None:
    space = Space()
    channel = space.fresh(3)
    merged = reshape(space, [channel, Frozen(4, "")], [3, 4], [12], "r")[0]
    assert np.array_equal(merged, np.repeat(channel, 4))
    assert not space.grids


def test_split_and_merge_again_gives_the_same_units() -> None:
    space = Space()
    axis = space.fresh(12)
    first = reshape(space, [axis], [12], [3, 4], "a")
    second = reshape(space, [axis], [12], [3, 4], "b")
    solution = solve(space)
    assert np.array_equal(solution.class_of[first[0]], solution.class_of[second[0]])
    assert np.array_equal(solution.class_of[first[1]], solution.class_of[second[1]])
    assert int(solution.leaf.sum()) == 7


def test_a_frozen_factor_makes_blocks() -> None:
    space = Space()
    axis = space.fresh(12)
    outer, inner = space.split(axis, [3, 4], "s")
    space.freeze(inner, "because")
    solution = solve(space)
    assert np.array_equal(solution.class_of[axis], np.repeat(solution.class_of[outer], 4))


def test_a_frozen_position_freezes_its_factors_and_says_why() -> None:
    space = Space()
    axis = space.fresh(12)
    outer, inner = space.split(axis, [3, 4], "s")
    space.freeze(axis[5:6], "node X")
    solution = solve(space)
    assert solution.frozen[solution.class_of[outer]].tolist() == [False, True, False]
    assert solution.frozen[solution.class_of[inner]].tolist() == [False, True, False, False]
    assert solution.reason_of(int(solution.class_of[outer][1])) == "node X"


def test_blocks_that_do_not_fit_keep_one_factor() -> None:
    space = Space()
    axis = space.fresh(12)
    space.split(axis, [2, 6], "a")
    space.split(axis, [3, 4], "b")
    solution = solve(space)
    assert int(solution.leaf.sum()) > 0
    holds(space, 1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([(12,), (3, 4), (4, 3), (2, 6), (6, 2), (2, 2, 3), (3, 2, 2)]), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=3),
    st.lists(st.integers(0, 11), max_size=2),
    st.integers(0, 5),
)
def test_any_mix_of_constraints_is_satisfied(
    shapes: list[tuple[int, ...]], pairs: list[tuple[int, int]], frozen: list[int], seed: int
) -> None:
    space = Space()
    axis = space.fresh(12)
    other = space.fresh(12)
    for k, shape in enumerate(shapes):
        space.split(axis if k % 2 else other, shape, f"split {k}")
    for a, b in pairs:
        space.equal(axis[a : a + 1], other[b : b + 1])
    for position in frozen:
        space.freeze(axis[position : position + 1], "frozen")
    holds(space, seed)
