"""Keep-set manifests: replay, what does not fit, undo; nothing pruned; twice is once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from transforms.pruning import random_keep, tiny, units_of

from graphopt import Model
from graphopt.errors import GraphoptError, UsageError
from graphopt.pipeline import PassManager, Pipeline, Registry
from graphopt.transforms.prune import slicing
from graphopt.transforms.prune.free_choice import explain
from graphopt.transforms.prune.keepset import KeepSet
from graphopt.transforms.prune.manifest import load_manifest, read_manifest, write_manifest
from graphopt.transforms.prune.undo import undo

NET = """(float[2,5] x, float[5,16] w1, float[16] b1, float[16,12] w2, float[12,4] w3) => (float y) {
    a = Gemm(x, w1, b1) r = Relu(a) h = MatMul(r, w2) t = Tanh(h) y = MatMul(t, w3) }"""
SHUFFLE = """(float[1,3,6,6] x, float[8,3,3,3] w1, float[8,4,1,1] w2, float[6,8,1,1] w3) => (float y)
    <int64[5] i1 = {1,2,4,6,6}, int64[4] i2 = {1,8,6,6}> { a = Conv<pads=[1,1,1,1]>(x, w1)
    c = Conv<group=2>(a, w2) r = Reshape(c, i1) t = Transpose<perm=[0,2,1,3,4]>(r) u = Reshape(t, i2)
    y = Conv(u, w3) }"""


def run(model: Model, text: str) -> None:
    registry = Registry()
    PassManager(registry).run(model, Pipeline.parse(text, registry))


def test_pruning_nothing_is_an_empty_pipeline() -> None:
    plain, pruned, empty = tiny(NET), tiny(NET), tiny(NET)
    run(pruned, "prune:ratio=0")
    run(empty, "")
    assert pruned.serialize() == empty.serialize() == plain.serialize()


@pytest.mark.parametrize("text", [NET, SHUFFLE])
def test_pruning_twice_is_pruning_the_union(text: str) -> None:
    twice, once = tiny(text), tiny(text)
    units = units_of(twice)
    first = random_keep(units, 0.3, seed=1)
    axes = {t.name: units.coupling.record.axes[t] for t in twice.graph.initializers if t.name.startswith("w")}
    lost = {name: [~first.mask(a) for a in own] for name, own in axes.items()}
    slicing.apply(first)
    again = units_of(twice)
    second = random_keep(again, 0.3, seed=2)
    after = {t.name: again.coupling.record.axes[t] for t in twice.graph.initializers if t.name in axes}
    for name, own in after.items():
        for place, axis in enumerate(own):
            lost[name][place][np.flatnonzero(~lost[name][place])[~second.mask(axis)]] = True
    slicing.apply(second)
    slicing.apply(union_of(once, lost))
    for name in axes:
        assert np.array_equal(once.graph.tensors()[name].values, twice.graph.tensors()[name].values), name
    assert {c.name: c.shape for c in once.graph.initializers if c.name.startswith("w")} == {
        c.name: c.shape for c in twice.graph.initializers if c.name.startswith("w")
    }


def union_of(model: Model, lost: dict[str, list[np.ndarray]]) -> KeepSet:
    """Both removals at once. The second axis of a grouped weight counts only, its channels say which."""
    coupling = units_of(model).coupling
    solution, tensors = coupling.solution, model.graph.tensors()
    marked = np.zeros(len(solution.frozen), bool)
    grouped = {(node.inputs[i], b.place) for (node, i), b in coupling.record.blocked.items()}
    for name, gone in lost.items():
        for place, axis in enumerate(coupling.record.axes[tensors[name]]):
            classes = solution.classes(axis)
            if classes is not None and (tensors[name], place) not in grouped:
                marked[classes[gone[place]]] = True
    for grid in solution.grids:
        for k, factor in enumerate(grid.factors):
            others = tuple(i for i in range(grid.merged.ndim) if i != k)
            marked[factor[marked[grid.merged].all(axis=others)]] = True
    return explain(coupling, marked, marked & solution.leaf, np.zeros_like(marked))


def test_a_renamed_weight_is_named_with_the_nearest() -> None:
    manifest = write_manifest(random_keep(units_of(tiny(NET))))
    other = tiny(NET)
    other.graph.rename(other.graph.tensors()["w1"], "weights_1")
    with pytest.raises(UsageError, match=r"1 weights that this model lacks: 'w1'.*same names"):
        read_manifest(units_of(other).coupling, manifest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["weights"]["w1"]["removed"].update({"1": [99]}), "does not have"),
        (lambda m: m["weights"]["w1"]["removed"].update({"4": [0]}), "does not have"),
        (lambda m: m["weights"]["w1"]["removed"].update({"0": [0]}), "cannot be pruned here"),
        (lambda m: m["weights"]["w2"].update({"shape": [16, 11]}), "extents"),
        (lambda m: m["weights"]["w1"]["removed"]["1"].pop(), "whole units"),
        (lambda m: m["weights"]["w2"].pop("removed"), "lacks its shape or removed"),
        (lambda m: m.update({"format": "other"}), "not a keep-set manifest"),
    ],
)
def test_a_wrong_manifest_is_refused(change, message: str) -> None:
    units = units_of(tiny(NET))
    manifest = json.loads(json.dumps(write_manifest(random_keep(units))))
    change(manifest)
    with pytest.raises(UsageError, match=message):
        read_manifest(units.coupling, manifest)


def test_a_missing_or_damaged_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_manifest(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        load_manifest(tmp_path / "bad.json")
    with pytest.raises(GraphoptError, match="cannot be read"):
        run(tiny(NET), f"prune:replay='{tmp_path / 'none.json'}'")


def test_undo_puts_trained_weights_back() -> None:
    original, pruned = tiny(NET), tiny(NET)
    before = original.serialize()
    units = units_of(pruned)
    keep = random_keep(units)
    manifest = write_manifest(keep)
    mask = keep.mask(units.coupling.record.axes[pruned.graph.tensors()["w1"]][1])
    slicing.apply(keep)
    assert undo(pruned, original, manifest).serialize() == before
    small = pruned.graph.tensors()["w1"]
    pruned.graph.set_weight(small, small.values + 1)
    back = undo(pruned, original, manifest).graph.tensors()["w1"].values
    old = original.graph.tensors()["w1"].values
    assert np.array_equal(back[:, mask], old[:, mask] + 1)
    assert np.array_equal(back[:, ~mask], old[:, ~mask])
    assert original.serialize() == before
    with pytest.raises(UsageError, match="extents"):
        undo(tiny(NET), original, manifest)
