"""Concrete interpretation."""

from __future__ import annotations

import time
from types import ModuleType

import numpy as np
import onnx
import pytest
from transforms.pruning import prune_and_check, random_keep, tiny, units_of

from graphopt import load
from graphopt.analysis.labels import analyse
from graphopt.analysis.shapes import infer_shapes, interpret, interpret_best

DYNAMIC = """(float[N,S,12] x, float[12,8] w1) => (float y) <int64 i0 = {0}, int64 i1 = {1}, int64[1] z = {0},
    int64[2] hd = {2,4}> {
    a = MatMul(x, w1) s = Shape(a) n = Gather(s, i0) t = Gather(s, i1) n1 = Unsqueeze(n, z) t1 = Unsqueeze(t, z)
    c = Concat<axis=0>(n1, t1, hd) y = Reshape(a, c) }"""
HALVED = """(float[N,3,H,W] x, float[8,3,3,3] w1, float[8,8,3,3] w2, float[8,8,3,3] w3, float[8,8,3,3] w4,
    float[4,8] w5) => (float y) {
    a = Conv<strides=[2,2]>(x, w1) b = Conv<strides=[2,2]>(a, w2) c = Conv<strides=[2,2]>(b, w3)
    d = Conv<strides=[2,2]>(c, w4) p = GlobalAveragePool(d) f = Flatten(p) y = Gemm<transB=1>(f, w5) }"""

ONE_SAMPLE = """(float[N,S,12] x, float[12,8] w1) => (float y) <int64[3] one = {1,-1,8}> {
    a = MatMul(x, w1) r = Reshape(a, one) y = Add(a, r) }"""


def test_a_graph_that_only_works_for_one_sample_is_read_with_one() -> None:
    facts = interpret_best(tiny(ONE_SAMPLE).graph)
    assert not facts.problems
    assert facts.dims["N"] == 1
    assert facts.dims["S"] > 1


def test_frames_that_are_cut_into_clips_get_a_multiple() -> None:
    text = """(float[N,12] x, float[12,8] w1) => (float y) <int64[3] s = {-1,8,12}> {
        r = Reshape(x, s) y = MatMul(r, w1) }"""
    facts = interpret_best(tiny(text).graph)
    assert not facts.problems
    assert facts.dims["N"] % 8 == 0


def test_dims_that_must_be_equal_but_are_named_apart_get_one_number() -> None:
    text = "(float[N,S,12] x, float[M,T,12] v, float[12,8] w1) => (float y) { a = Add(x, v) y = MatMul(a, w1) }"
    for other in (False, True):
        facts = interpret_best(tiny(text).graph, other)
        assert not facts.problems
        assert facts.dims["N"] == facts.dims["M"] != facts.dims["S"] == facts.dims["T"]


def test_values_follow_from_shapes_and_are_marked() -> None:
    model = tiny(DYNAMIC)
    facts = interpret(model.graph, {"N": 7, "S": 9})
    by_name = {t.name: facts[t] for n in model.graph.nodes for t in n.outputs}
    assert by_name["y"].shape == (7, 9, 2, 4)
    assert by_name["c"].value is not None
    assert by_name["c"].value.tolist() == [7, 9, 2, 4]
    assert by_name["c"].from_shape
    assert not facts.problems


def test_symbolic_dims_become_distinct_primes() -> None:
    facts = interpret(tiny(DYNAMIC).graph)
    assert len(set(facts.dims.values())) == 2
    assert set(facts.dims) == {"N", "S"}


def test_images_of_any_size_get_numbers_that_survive_halving() -> None:
    model = tiny(HALVED)
    assert interpret(model.graph).problems
    assert not interpret_best(model.graph).problems
    units = units_of(model)
    assert [len(f) for f in units.families] == [8, 8, 8, 8]
    assert prune_and_check(model, random_keep(units), units).passed


def test_data_dependent_extents_are_marked() -> None:
    model = tiny("(float[4,5] x) => (float y) { i = NonZero(x) t = Transpose<perm=[1,0]>(i) y = GatherND(x, t) }")
    facts = interpret(model.graph)
    shape = facts.shape(model.graph.outputs[0])
    assert shape is not None
    assert shape[0] in facts.guessed


def test_random_nodes_are_not_evaluated() -> None:
    model = tiny("(float[3] x) => (float y) { r = RandomNormal<shape=[3]>() y = Add(x, r) }")
    facts = interpret(model.graph)
    assert facts.shape(model.graph.outputs[0]) == (3,)
    assert facts.value(model.graph.nodes[0].outputs[0]) is None


def test_infer_shapes_writes_symbols() -> None:
    model = tiny("(float[N,5] x, float[5,8] w1) => (float y) { a = MatMul(x, w1) y = Relu(a) }")
    infer_shapes(model)
    assert model.graph.nodes[0].outputs[0].shape == ["N", 8]
    assert model.graph.nodes[0].outputs[0].dtype == np.float32


@pytest.mark.parametrize("length", [500, 4000])
def test_long_chains_are_linear(length: int) -> None:
    nodes = [onnx.helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(length)]
    x = onnx.helper.make_tensor_value_info("t0", 1, [2, 64])
    y = onnx.helper.make_tensor_value_info(f"t{length}", 1, [2, 64])
    model = load(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [x], [y])))
    start = time.process_time()
    coupling = analyse(model.graph)
    assert coupling.record.space.count == 0
    assert time.process_time() - start < 0.001 * length


def test_zoo_shapes_agree_with_the_runtime(zoo: ModuleType) -> None:
    """Every tensor of a few graphs has the shape that ONNX Runtime gives it."""
    from conftest import ZOO

    from graphopt.transforms.prune.equivalence import _session

    for name in ("lenet.dynamo", "hf_llama_gqa.torchscript", "bilstm_tagger.torchscript"):
        proto = zoo.fill(str(ZOO / f"{name}.onnx.gz"))
        feeds = zoo.random_inputs(proto, 0)
        model = load(proto.SerializeToString())
        facts = interpret(model.graph)
        assert not facts.problems
        ends = set(model.graph.outputs)
        tensors = [
            t
            for n in model.graph.nodes
            for t in n.outputs
            if not t.is_empty() and t not in ends and not n.is_op("Constant")
        ]
        values = _session(model, [t.name for t in tensors]).run([t.name for t in tensors], feeds)
        for tensor, value in zip(tensors, values, strict=True):
            assert facts.shape(tensor) == value.shape, (name, tensor.name)
            assert facts[tensor].dtype == value.dtype, (name, tensor.name)


def test_classical_operators_in_front_do_not_hide_shapes() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>
    g (float[N,4] x) => (int64[N] label, float[N,3] score) <float[4,6] w = {
        0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0}> {
        s = ai.onnx.ml.Scaler<offset=[0.0,0.0,0.0,0.0], scale=[1.0,1.0,1.0,1.0]>(x) h = MatMul(s, w)
        label, score = ai.onnx.ml.LinearClassifier<classlabels_ints=[0,1,2], coefficients=[1.0]>(h) }"""
    model = load(onnx.parser.parse_model(text))
    facts = interpret(model.graph, {"N": 7})
    shapes = {t.name: facts.shape(t) for n in model.graph.nodes for t in n.outputs}
    assert shapes == {"s": (7, 4), "h": (7, 6), "label": (7,), "score": (7, 3)}


def test_a_loop_keeps_the_extents_that_no_round_changes() -> None:
    text = """(float[2,12] x, int64 n, float[12,8] w1, float[8,6] w2) => (float y) <bool t = {1}> {
        a = MatMul(x, w1)
        l, grown, all = Loop<body = b (int64 k, bool c, float[2,8] s, float[m,12] g)
            => (bool d, float[2,8] r, float[q,12] h, float[2,8] o) {
            d = Identity(c) r = Tanh(s) h = Concat<axis=0>(g, x) o = Exp(s) }>(n, t, a, x)
        y = MatMul(l, w2) }"""
    model = tiny(text)
    facts = interpret(model.graph)
    shapes = {t.name: facts.shape(t) for node in model.graph.nodes for t in node.outputs}
    assert shapes["l"] == (2, 8)
    assert shapes["y"] == (2, 6)
    grown, everything = shapes["grown"], shapes["all"]
    assert grown is not None
    assert everything is not None
    assert grown[1] == 12
    assert everything[1:] == (2, 8)
    assert {grown[0], everything[0]} <= facts.guessed
