"""Slicing: nothing pruned changes nothing, twice equals the union, manifests replay, shared tables do not couple."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime as ort
import pytest
from transforms.pruning import prune_and_check, random_keep, tiny, units_of

from graphopt.errors import UsageError
from graphopt.transforms.prune import slicing
from graphopt.transforms.prune.keepset import KeepSet
from graphopt.transforms.prune.manifest import read_manifest, write_manifest
from graphopt.transforms.prune.selection import Policy

MLP = """(float[2,5] x, float[5,12] w1, float[12,8] w2, float[8,4] w3) => (float y) {
    a = MatMul(x, w1) r = Relu(a) b = MatMul(r, w2) t = Tanh(b) y = MatMul(t, w3) }"""
SHARED = """(float[2,5] x, float[5,8] w1, float[8,8] w2, float[8,4] w3) => (float y) <float[8] z = {1,1,1,1,1,1,1,1}> {
    a = MatMul(x, w1) p = Add(a, z) r = Relu(p) b = MatMul(r, w2) q = Add(b, z) y = MatMul(q, w3) }"""
HEADS = """(float[2,5,12] x, float[12,16] w1, float[12,16] w2, float[16,6] w4) => (float y)
    <int64[4] s = {0,0,4,4}, int64[3] t = {0,0,16}> {
    q = MatMul(x, w1) v = MatMul(x, w2) q4 = Reshape(q, s) v4 = Reshape(v, s) qt = Transpose<perm=[0,2,1,3]>(q4)
    kt = Transpose<perm=[0,2,3,1]>(q4) vt = Transpose<perm=[0,2,1,3]>(v4) l = MatMul(qt, kt) p = Softmax<axis=-1>(l)
    o = MatMul(p, vt) r = Transpose<perm=[0,2,1,3]>(o) f = Reshape(r, t) y = MatMul(f, w4) }"""


def test_keeping_everything_changes_no_byte() -> None:
    model = tiny(MLP)
    before = model.serialize()
    units = units_of(model)
    slicing.apply(random_keep(units, 0.0))
    assert model.serialize() == before


def test_pruning_twice_equals_pruning_the_union() -> None:
    first, second = tiny(MLP), tiny(MLP)
    units = units_of(first)
    leaves = [f.classes for f in units.families]
    flags = [np.isin(np.arange(len(units.family_of)), np.concatenate([c[:2] for c in leaves]))]
    flags.append(np.isin(np.arange(len(units.family_of)), np.concatenate([c[5:7] for c in leaves])))
    slicing.apply(KeepSet.removing(units.coupling, flags[0] | flags[1]))
    for start in (0, 3):  # after the first round positions 5 and 6 are 3 and 4
        again = units_of(second)
        picked = np.concatenate([f.classes[start : start + 2] for f in again.families])
        slicing.apply(KeepSet.removing(again.coupling, np.isin(np.arange(len(again.family_of)), picked)))
    for name in ("w1", "w2", "w3"):
        assert np.array_equal(first.graph.tensors()[f"{name}"].values, second.graph.tensors()[f"{name}"].values)


def test_a_small_table_in_two_places_does_not_couple_them() -> None:
    model = tiny(SHARED)
    units = units_of(model)
    assert [len(f) for f in units.families] == [8, 8]
    keep = KeepSet.removing(units.coupling, np.isin(np.arange(len(units.family_of)), units.families[0].classes[:5]))
    assert prune_and_check(model, keep, units).passed
    shapes = sorted(c.shape for c in model.graph.initializers if len(c.shape) == 1)
    assert shapes == [(3,), (8,)]


def test_a_weight_in_two_places_stays_one() -> None:
    text = """(float[2,8] x, float[8,8] w1, float[8,6] w2, float[6,4] w3) => (float y, float z) {
        a = MatMul(x, w1) b = Relu(a) c = MatMul(b, w2) d = MatMul(a, w2) y = MatMul(c, w3) z = MatMul(d, w3) }"""
    model = tiny(text)
    units = units_of(model)
    assert prune_and_check(model, random_keep(units), units).passed
    assert len(model.graph.initializers) == 3


@pytest.mark.parametrize("text", [MLP, HEADS])
@pytest.mark.parametrize("prefer", ["outer", "inner"])
def test_a_manifest_replays_on_another_training(text: str, prefer: str) -> None:
    model, other = tiny(text), tiny(text, seed=7)
    units = units_of(model)
    keep = random_keep(units, policy=Policy(0.5, prefer=prefer))  # type: ignore[arg-type]
    manifest = json.loads(json.dumps(write_manifest(keep)))
    assert prune_and_check(model, keep, units).passed
    again = units_of(other)
    replayed = read_manifest(again.coupling, manifest)
    assert prune_and_check(other, replayed, again).passed
    for name in ("w1", "w2"):
        assert other.graph.tensors()[name].shape == model.graph.tensors()[name].shape
    assert write_manifest(replayed) == manifest


def test_a_manifest_of_another_model_is_refused() -> None:
    units = units_of(tiny(MLP))
    manifest = write_manifest(random_keep(units))
    with pytest.raises(UsageError, match="lacks"):
        read_manifest(units_of(tiny(HEADS.replace("w1", "w7").replace("w2", "w8"))).coupling, manifest)
    broken = json.loads(json.dumps(manifest))
    broken["weights"]["w1"]["shape"] = [5, 13]
    with pytest.raises(UsageError, match="extents"):
        read_manifest(units.coupling, broken)


def test_a_runtime_value_that_mixes_dims_is_frozen_by_the_pass() -> None:
    """The extent of a pruned axis, times the batch, is used as data."""
    from graphopt.transforms.prune.slicing_values import SliceConflict

    text = """(float[N,5] x, float[5,8] w1, float[8,4] w2) => (float y) {
        a = MatMul(x, w1) s = Size(a) f = Cast<to=1>(s) d = Div(a, f) y = MatMul(d, w2) }"""
    model = tiny(text)
    units = units_of(model)
    with pytest.raises(SliceConflict) as error:
        slicing.apply(random_keep(units))
    assert {t.name for t in error.value.tensors} == {"a"}


def test_batch_times_heads_is_rescaled() -> None:
    """torch's MultiheadAttention reshapes to N * heads, with the number of heads as a literal."""
    text = """(float[N,5,12] x, float[12,16] w1, float[16,6] w4) => (float y)
        <int64 i0 = {0}, int64 four = {4}, int64[1] z = {0}, int64[1] five = {5}, int64[1] d = {4}, int64[1] h = {4},
         int64[1] e = {16}> {
        q = MatMul(x, w1) s = Shape(q) n = Gather(s, i0) nh = Mul(n, four) u = Unsqueeze(nh, z) n1 = Unsqueeze(n, z)
        c4 = Concat<axis=0>(n1, five, h, d) q4 = Reshape(q, c4) t = Transpose<perm=[0,2,1,3]>(q4)
        c3 = Concat<axis=0>(u, five, d) f = Reshape(t, c3) g = Relu(f)
        c5 = Concat<axis=0>(n1, h, five, d) b = Reshape(g, c5) k = Transpose<perm=[0,2,1,3]>(b)
        c6 = Concat<axis=0>(n1, five, e) o = Reshape(k, c6) y = MatMul(o, w4) }"""
    model = tiny(text)
    units = units_of(model)
    keep = random_keep(units, policy=Policy(0.5, prefer="outer"))
    assert prune_and_check(model, keep, units).passed
    assert model.graph.tensors()["w1"].shape == (12, 8)
    session = ort.InferenceSession(model.serialize(), providers=["CPUExecutionProvider"])
    for batch in (1, 7):
        assert session.run(None, {"x": np.ones((batch, 5, 12), np.float32)})[0].shape == (batch, 5, 6)


def test_a_computed_table_behind_a_pruned_sum_keeps_its_scale_and_is_computed_anew() -> None:
    """Learned queries, projected and divided by the root of a width that is read at run time: all of it is known."""
    text = """(float[5,10] x, float[6,8] w1, float[8,16] w2, float[10,16] w3) => (float y) <int64 i1 = {1}> {
        q = MatMul(w1, w2) s = Shape(q) d = Gather(s, i1) c = Cast<to=1>(d) r = Sqrt(c) m = Div(q, r)
        t = Transpose(m) h = MatMul(x, w3) y = MatMul(h, t) }"""
    model = tiny(text)
    units = units_of(model)
    assert prune_and_check(model, random_keep(units), units).passed
    assert model.graph.tensors()["w2"].shape == (4, 8)
