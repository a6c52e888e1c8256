"""ScatterND and GatherND with known indices: what a slice assignment is exported as is followed like a slice."""

from __future__ import annotations

import numpy as np
import pytest
from transforms.pruning import prune_and_check, random_keep, tiny, units_of

from graphopt import Model
from graphopt.ir import Node

SCATTER = """(float[2,5] x, float[5,8] w1, float[5,4] w2, float[8,3] w3) => (float y) {
    a = MatMul(x, w1) u = MatMul(x, w2) s = ScatterND(a, i, u) y = MatMul(s, w3) }"""
GATHER = """(float[2,5] x, float[5,8] w1, float[4,3] w3) => (float y) {
    a = MatMul(x, w1) g = GatherND(a, i) y = MatMul(g, w3) }"""


def grid(rows: list[int], columns: list[int]) -> np.ndarray:
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).astype(np.int64)


def with_indices(text: str, indices: np.ndarray) -> Model:
    shape = ",".join(map(str, indices.shape))
    values = ",".join(map(str, indices.reshape(-1)))
    return tiny(text.replace("=> (float y) {", f"=> (float y) <int64[{shape}] i = {{{values}}}> {{"))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("columns", [[2, 3, 4, 5], [7, 1, 4, 0], [-1, -2, -3, -4]])
@pytest.mark.parametrize("text", [SCATTER, GATHER])
def test_a_grid_of_indices_is_followed(text: str, columns: list[int], seed: int) -> None:
    model = with_indices(text, grid([0, 1], columns))
    units = units_of(model)
    keep = random_keep(units, seed=seed)
    assert prune_and_check(model, keep, units, seed).passed
    widths = {t.name: t.shape for t in model.graph.initializers}
    assert widths["w1"] < (5, 8)
    assert widths["w3"][0] < (8 if text is SCATTER else 4)


@pytest.mark.parametrize("text", [SCATTER, GATHER])
def test_indices_that_run_along_a_diagonal_freeze_both_axes(text: str) -> None:
    shape = "float[2] w2" if text is SCATTER else "float[2,3] w3"
    text = text.replace("float[5,4] w2", shape).replace("u = MatMul(x, w2)", "u = Identity(w2)")
    text = text.replace("float[4,3] w3", "float[2,3] w3")
    model = with_indices(text, np.array([[0, 0], [1, 1]], np.int64))
    coupling = units_of(model).coupling
    node = next(n for n in model.graph.nodes if n.op in ("ScatterND", "GatherND"))
    assert isinstance(node, Node)
    for axis in coupling.record.of(node, 0):
        classes = coupling.solution.classes(axis)
        assert classes is None or coupling.solution.frozen[classes].all()


def test_one_indexed_position_freezes_that_position_only() -> None:
    text = SCATTER.replace("float[5,4] w2", "float[5,1] w2")
    model = with_indices(text, grid([0, 1], [3]))
    units = units_of(model)
    keep = random_keep(units)
    assert prune_and_check(model, keep, units).passed
    mask = keep.mask(units.coupling.record.axes[model.graph.tensors()["a"]][1])
    assert mask[3]
    assert mask.sum() < 8
