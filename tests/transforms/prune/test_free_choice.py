"""Inside groups that need equal numbers, whichever units score least go; elsewhere the same places everywhere."""

from __future__ import annotations

import json

import numpy as np
import pytest
from transforms.pruning import prune_and_check, random_keep, tiny, units_of

from graphopt.transforms.prune import slicing
from graphopt.transforms.prune.free_choice import refine
from graphopt.transforms.prune.keepset import KeepSet
from graphopt.transforms.prune.manifest import read_manifest, write_manifest
from graphopt.transforms.prune.selection import Policy, by_ratio
from graphopt.transforms.prune.selection_units import Units
from graphopt.transforms.prune.undo import undo

# name: (graph, opset, how many groups are free)
FREE: dict[str, tuple[str, int, int]] = {
    "grouped_conv": (
        """(float[1,3,6,6] x, float[12,3,1,1] w1, float[24,4,3,3] w2, float[24] b2, float[4,24,1,1] w3) => (float y) {
        a = Conv(x, w1) r = Relu(a) c = Conv<group=3>(r, w2, b2) y = Conv(c, w3) }""",
        17,
        2,
    ),
    "grouped_after_grouped": (
        """(float[1,3,6,6] x, float[12,3,1,1] w1, float[24,4,1,1] w2, float[12,8,1,1] w3, float[4,12,1,1] w4)
        => (float y) { a = Conv(x, w1) c = Conv<group=3>(a, w2) d = Conv<group=3>(c, w3) e = Add(d, a)
        y = Conv(e, w4) }""",
        17,
        2,
    ),
    "grouped_transpose": (
        """(float[1,3,6,6] x, float[12,3,1,1] w1, float[12,5,3,3] w2, float[15] b2, float[4,15,1,1] w3) => (float y) {
        a = Conv(x, w1) c = ConvTranspose<group=3>(a, w2, b2) y = Conv(c, w3) }""",
        17,
        2,
    ),
    "group_norm": (
        """(float[1,3,6,6] x, float[12,3,3,3] w1, float[12] b1, float[12] b2, float[4,12,1,1] w2) => (float y) {
        a = Conv(x, w1) n = GroupNormalization<num_groups=3>(a, b1, b2) y = Conv(n, w2) }""",
        21,
        1,
    ),
    "attention_groups": (
        """(float[2,5,12] x, float[12,24] w1, float[12,8] w2, float[12,8] w3, float[24,6] w4) => (float y) {
        q = MatMul(x, w1) k = MatMul(x, w2) v = MatMul(x, w3) o = Attention<q_num_heads=6, kv_num_heads=2>(q, k, v)
        y = MatMul(o, w4) }""",
        23,
        1,
    ),
    "decomposed_groups": (
        """(float[2,5,12] x, float[12,24] w1, float[12,8] w2, float[12,8] w3, float[24,6] w4) => (float y)
        <int64[4] i1 = {2,5,6,4}, int64[4] i2 = {2,5,2,4}, int64[5] i3 = {2,2,3,5,4}, int64[4] i4 = {2,6,5,4},
         int64[1] i5 = {2}, int64[3] i6 = {2,5,24}> {
        q = MatMul(x, w1) k = MatMul(x, w2) v = MatMul(x, w3) q4 = Reshape(q, i1) k4 = Reshape(k, i2)
        v4 = Reshape(v, i2) qt = Transpose<perm=[0,2,1,3]>(q4) kt = Transpose<perm=[0,2,1,3]>(k4)
        vt = Transpose<perm=[0,2,1,3]>(v4) ku = Unsqueeze(kt, i5) ke = Expand(ku, i3) kr = Reshape(ke, i4)
        vu = Unsqueeze(vt, i5) ve = Expand(vu, i3) vr = Reshape(ve, i4) kk = Transpose<perm=[0,1,3,2]>(kr)
        l = MatMul(qt, kk) p = Softmax<axis=-1>(l) o = MatMul(p, vr) r = Transpose<perm=[0,2,1,3]>(o)
        f = Reshape(r, i6) y = MatMul(f, w4) }""",
        17,
        1,
    ),
    "shared_weight": (
        """(float[1,3,6,6] x, float[12,3,1,1] w1, float[12,4,1,1] w2, float[4,12,1,1] w3) => (float y) {
        a = Conv(x, w1) c = Conv<group=3>(a, w2) d = Conv<group=3>(c, w2) e = Add(a, d) y = Conv(e, w3) }""",
        17,
        1,
    ),
    "regrouped": (
        """(float[1,3,6,6] x, float[12,3,1,1] w1, float[12,4,1,1] w2, float[4,12,1,1] w3) => (float y)
        <int64[5] i1 = {1,3,4,6,6}, int64[4] i2 = {1,12,6,6}> { a = Conv(x, w1) c = Conv<group=3>(a, w2)
        r = Reshape(c, i1) t = Transpose<perm=[0,2,1,3,4]>(r) u = Reshape(t, i2) y = Conv(u, w3) }""",
        17,
        1,
    ),
}


def freely(units: Units, seed: int) -> KeepSet:
    """A part of the places of every free group removed, other ones in each block."""
    leaves = np.zeros(len(units.family_of), bool)
    for grid in units.coupling.free_grids:
        leaves[grid.places[: max(1, len(grid.places) // 2)]] = True
    scores = np.random.default_rng(seed).random(len(leaves))
    for grid in units.coupling.free_grids:
        scores[grid.merged[0, 0]], scores[grid.merged[1, 0]] = 0, 1  # the first two blocks differ
    return refine(KeepSet.removing(units.coupling, leaves), scores)


@pytest.mark.parametrize("name", FREE)
@pytest.mark.parametrize("seed", range(4))
def test_free_groups_are_proven(name: str, seed: int) -> None:
    text, opset, number = FREE[name]
    model = tiny(text, opset, seed=seed)
    units = units_of(model)
    assert len(units.coupling.free_grids) == number
    keep = freely(units, seed)
    mixed = [g for g in units.coupling.free_grids if len(np.unique(keep.removed[g.merged], axis=0)) > 1]
    assert len(mixed) == number, "blocks choose for themselves"
    found = prune_and_check(model, keep, units, seed)
    assert found.passed, found
    assert found.tested
    assert not found.inconclusive


@pytest.mark.parametrize("name", [n for n in FREE if FREE[n][2]])
def test_manifests_hold_free_choices(name: str) -> None:
    text, opset, _ = FREE[name]
    model, other = tiny(text, opset), tiny(text, opset, seed=9)
    units, again = units_of(model), units_of(other)
    keep = freely(units, 0)
    manifest = write_manifest(keep)
    replayed = read_manifest(again.coupling, json.loads(json.dumps(manifest)))
    assert write_manifest(replayed) == manifest
    assert prune_and_check(other, replayed, again).passed


def test_all_blocks_may_choose_the_same_other_place() -> None:
    """The places that stand for the number are not those that go."""
    text, opset, _ = FREE["grouped_after_grouped"]
    model = tiny(text, opset)
    units = units_of(model)
    leaves = np.zeros(len(units.family_of), bool)
    scores = np.ones(len(leaves))
    for grid in units.coupling.free_grids:
        leaves[grid.places[0]] = True
        scores[grid.merged[:, 2]] = 0
    keep = refine(KeepSet.removing(units.coupling, leaves), scores)
    for grid in units.coupling.free_grids:
        assert all(np.flatnonzero(row).tolist() == [2] for row in keep.removed[grid.merged])
    assert read_manifest(units.coupling, write_manifest(keep)).removed.tolist() == keep.removed.tolist()
    assert prune_and_check(model, keep, units).passed


@pytest.mark.parametrize("name", ["grouped_conv", "grouped_transpose", "grouped_after_grouped"])
def test_undo_knows_the_blocks(name: str) -> None:
    text, opset, _ = FREE[name]
    model, original = tiny(text, opset), tiny(text, opset)
    units = units_of(model)
    keep = freely(units, 1)
    manifest = json.loads(json.dumps(write_manifest(keep)))
    assert any("by_block" in entry for entry in manifest["weights"].values())
    slicing.apply(keep)
    assert undo(model, original, manifest).serialize() == original.serialize()


def test_each_group_loses_its_own_least() -> None:
    text, opset, _ = FREE["group_norm"]
    units = units_of(tiny(text, opset))
    [grid] = units.coupling.free_grids
    scores = np.ones(len(units.family_of))
    for block, weak in zip(grid.merged, ([0, 1], [2, 3], [0, 3]), strict=True):
        scores[block[weak]] = 0.1
    keep = by_ratio(units, scores, Policy(0.5, prefer="inner"))
    gone = [np.flatnonzero(keep.removed[block]).tolist() for block in grid.merged]
    assert gone == [[0, 1], [2, 3], [0, 3]]
    aligned = by_ratio(units, scores, Policy(0.5, prefer="inner", free=False))
    assert len(np.unique(aligned.removed[grid.merged], axis=0)) == 1


def test_whole_groups_still_go() -> None:
    text, opset, _ = FREE["grouped_conv"]
    model = tiny(text, opset)
    units = units_of(model)
    keep = random_keep(units, policy=Policy(0.4, prefer="outer"))
    assert prune_and_check(model, keep, units).passed
    assert {n.attrs["group"] for n in model.graph.nodes if n.attrs.get("group")} == {2}
