"""Layers that passes wrote as other operators are still layers: their size, precision, time and weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphopt import Model, load
from graphopt.analysis.layer_times import layer_times
from graphopt.analysis.layers import layer_changes
from graphopt.analysis.node_profile import profile_model
from graphopt.analysis.weight_histograms import weight_histograms
from graphopt.pipeline import PassManager, Pipeline, Registry

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,64] x) => (float[N,32] z) {
    [one] a = MatMul(x, w)  [bias] b = Add(a, c)  [act] r = Relu(b)
    [two] z = Gemm(r, v, d) }"""


def products() -> Model:
    proto = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    for name, shape in (("w", (64, 128)), ("c", (128,)), ("v", (128, 32)), ("d", (32,))):
        value = rng.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return load(proto)


def after(passes: str) -> Model:
    model, registry = products(), Registry()
    PassManager(registry).run(model, Pipeline.parse(passes, registry))
    return model


@pytest.mark.parametrize(
    ("passes", "ops", "precision"),
    [
        ("quantize_dynamic:include=*", ("MatMulInteger", "MatMulInteger"), "int8"),
        ("quantize_weights:least=0", ("MatMulNBits", "MatMulNBits"), "int4"),
        ("quantize_weights:least=0:type=int8", ("MatMulNBits", "MatMulNBits"), "int8"),
        ("cleanup", ("Gemm", "Gemm"), "float32"),
    ],
)
def test_a_layer_that_became_another_operator_is_not_gone(passes, ops, precision):
    changes = layer_changes(products().graph, after(passes).graph)
    assert [c.name for c in changes] == ["one", "two"]
    assert tuple(c.op_after for c in changes) == ops
    assert [c.precision for c in changes] == [precision] * 2
    assert [c.kept for c in changes] == [1.0, 1.0]
    assert changes[0].after == (64, 128)


@pytest.mark.parametrize("passes", ["quantize_dynamic:include=*", "quantize_weights:least=0", "cleanup"])
def test_the_time_of_a_rewritten_layer_is_its_own(passes):
    one, two = products(), after(passes)
    feeds = {"x": np.ones((16, 64), np.float32)}
    times = profile_model(one, feeds), profile_model(two, feeds)
    rows = layer_times(one.graph, two.graph, times)
    assert [r.name for r in rows] == ["one", "two", "everything else"]
    assert all(r.before_us > 0 and r.after_us > 0 for r in rows[:2])
    assert sum(r.after_us for r in rows) == pytest.approx(sum(t.microseconds for t in times[1]))


def test_weights_of_rewritten_layers_are_shown_as_the_numbers_they_stand_for():
    for passes in ("quantize_dynamic:include=*", "quantize_weights:least=0"):
        found = weight_histograms(products().graph, after(passes).graph)
        assert [h.name for h in found] == ["one", "two"]
        for row in found:
            assert row.step is not None
            assert row.step < 1
            assert row.low == pytest.approx(row.kept[0], abs=8 * row.step)
            assert sum(row.after) == sum(row.before)
            moved = np.abs(np.cumsum(row.after) - np.cumsum(row.before)).max()
            assert moved < 0.25 * sum(row.before)


def test_a_layer_between_renamed_values_is_found_by_what_follows_it():
    text = TEXT.replace("[one] a = MatMul(x, w)  [bias] b = Add(a, c)", "[new] b = Gemm(x, w, c)")
    proto = onnx.parser.parse_model(text.replace("z = Gemm(r, v, d)", "y = Identity(r) z = Gemm(y, v, d)"))
    for constant in products().to_proto().graph.initializer:
        proto.graph.initializer.append(constant)
    first, second = layer_changes(products().graph, load(proto).graph)
    assert (first.name, first.op_after, first.after) == ("one", "Gemm", (64, 128))
    assert second.op_after == "Gemm"
