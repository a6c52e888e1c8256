"""Each fix of ``legalize`` on its own: what it changes, and that the numbers stay what the fix promises."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from qdq_net import SCALE, Flavour, qdq_net

from graphopt import load
from graphopt.ir import constant_value
from graphopt.passes.legalize import Legalize
from graphopt.pipeline.context import Settings
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.pipeline import Pipeline
from graphopt.pipeline.registry import Registry
from graphopt.runtime.session import Session, SessionConfig
from graphopt.targets import get_target
from graphopt.targets.checks import CheckConfig, check_model
from graphopt.transforms.legalize.fixes import Notes, legalize_model
from graphopt.transforms.legalize.regions import nonnegative
from graphopt.verifier import verify

HEAD = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>\n'
STEP = SCALE


def legalized(proto, target="tensorrt", symmetric=True):
    """The fixed model and what was said; the model given stays."""
    model, notes = load(proto), Notes()
    legalize_model(model, get_target(target), notes, symmetric)
    verify(model.graph)
    onnx.checker.check_model(model.to_proto(), full_check=True)
    return model, notes


def outputs(model, feeds):
    session = Session(model.serialize(), SessionConfig(optimize="off"))
    return session.run({k: v for k, v in feeds.items() if k in {i.name for i in session.interface.inputs}})


def samples(channels=16):
    """Values that reach beyond the range of the grid on both sides, borders of steps included."""
    rng = np.random.default_rng(7)
    x = rng.normal(scale=4, size=(1, channels, 8, 8)).astype(np.float32)
    x.reshape(-1)[:64] = (np.arange(64, dtype=np.float32) - 32) * np.float32(STEP / 2)
    return {"x": x}


def same(proto, fixed, feeds):
    before, after = outputs(load(proto), feeds), outputs(fixed, feeds)
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name])
    assert any(np.ptp(v.astype(np.float64)) > 0 for v in before.values())


def problems(model):
    report = check_model(model, get_target("tensorrt"), CheckConfig(ask_runtime=False))
    return {p.rule for p in report.problems}


def said(notes, kind="did"):
    return " | ".join(r.message for r in notes.remarks if r.kind == kind)


EXACT = [
    (Flavour(act="uint8", zero=128), "zero-point", "uint8 with zero point 128 is int8"),
    (Flavour(weight="uint8", weight_zero=128), "zero-point", "uint8 weights with zero point 128"),
    (Flavour(bias="int32"), "int32-bias", "int32 bias"),
    (Flavour(scale_shape=(1,)), "scale-rank", "scalars now"),
    (Flavour(act="uint8", zero=128, weight="uint8", weight_zero=128, bias="int32"), "zero-point", "int32 bias"),
]


@pytest.mark.parametrize(("flavour", "rule", "message"), EXACT)
def test_exact_fix(flavour, rule, message):
    proto = qdq_net(flavour)
    assert rule in problems(load(proto))
    fixed, notes = legalized(proto)
    assert problems(fixed) == set()
    assert message in said(notes)
    same(proto, fixed, samples())


def test_a_legal_model_stays_as_it_is():
    proto = qdq_net(Flavour())
    before = load(proto).serialize()
    fixed, notes = legalized(proto)
    assert fixed.serialize() == before
    assert notes.remarks == ()


def test_missing_zero_point_is_written_down():
    proto = qdq_net(Flavour(has_zero=False))
    fixed, notes = legalized(proto, "ort-cpu")
    zeros = [constant_value(n.inputs[2]) for n in fixed.graph.nodes if n.op in ("QuantizeLinear", "DequantizeLinear")]
    assert "uint8" in said(notes)
    assert {z.dtype for z in zeros} == {np.dtype(np.uint8), np.dtype(np.int8)}
    same(proto, fixed, samples())


def test_asymmetric_range_becomes_symmetric_within_its_new_step():
    flavour = Flavour(zero=-28, relu=False)
    proto = qdq_net(flavour)
    fixed, notes = legalized(proto)
    assert problems(fixed) == set()
    assert f"{155 / 127:.2f} times" in said(notes)
    x = np.linspace(-100 * STEP, 155 * STEP, 1024, dtype=np.float32).reshape(1, 16, 8, 8)
    before, after = _dequantized(proto, x), _dequantized(fixed.to_proto(), x)
    assert np.abs(before - after).max() <= (STEP + STEP * 155 / 127) / 2 + 1e-5


def _dequantized(proto, x):
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    name = next(n.output[0] for n in proto.graph.node if n.name == "dq_x")
    del proto.graph.output[:]
    proto.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return next(iter(outputs(load(proto), {"x": x}).values()))


def test_a_one_sided_range_gets_back_the_relu_that_it_stood_for():
    proto = qdq_net(Flavour(zero=-128, relu=False))
    fixed, notes = legalized(proto)
    assert [n.op for n in fixed.graph.nodes].count("Relu") == 2
    assert "Relu is in front" in said(notes)
    feeds = samples()
    before, after = outputs(load(proto), feeds)["y"], outputs(fixed, feeds)["y"]
    assert after.min() >= 0
    assert np.abs(before - after).max() < 0.02 * np.ptp(before) + 4 * STEP
    without = qdq_net(Flavour(relu=False))
    assert outputs(load(without), feeds)["y"].min() < 0


def test_a_relu_that_is_there_is_not_doubled():
    fixed, _ = legalized(qdq_net(Flavour(zero=-128)))
    producers = {n.name: n.inputs[0].inputs[0].op for n in fixed.graph.nodes if n.name in ("q_y",)}
    assert producers == {"q_y": "Relu"}
    assert [n.op for n in fixed.graph.nodes].count("Relu") == 2  # x has no sign, the conv's Relu was there


def test_a_range_below_zero_is_clipped_there():
    proto = qdq_net(Flavour(zero=127, relu=False, output=False))
    fixed, notes = legalized(proto)
    assert "Clip is in front" in said(notes)
    x = samples()["x"]
    assert _dequantized(fixed.to_proto(), x).max() <= 0
    assert _dequantized(proto, x).max() <= 0


def test_symmetric_no_leaves_what_would_lose_precision():
    proto = qdq_net(Flavour(zero=3, weight_zero=1, bias="int32"))
    fixed, notes = legalized(proto, symmetric=False)
    assert problems(fixed) == {"zero-point"}
    assert "symmetric=no" in said(notes, "skipped")
    same(proto, fixed, samples())


def test_asymmetric_weights_are_rounded_to_their_own_range():
    proto = qdq_net(Flavour(weight="uint8", weight_zero=100))
    fixed, _ = legalized(proto)
    assert problems(fixed) == set()
    old = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
    node = next(n for n in fixed.graph.nodes if n.name == "dq_w")
    stored, scale = constant_value(node.inputs[0]), constant_value(node.inputs[1])
    first = (old["w"].astype(np.float64) - 100) * old["w_scale"].reshape(-1, 1, 1, 1)
    second = stored.astype(np.float64) * scale.reshape(-1, 1, 1, 1)
    assert stored.dtype == np.int8
    assert stored.min() >= -127
    assert np.abs(first - second).max() <= scale.max() / 2 + 1e-7


def test_a_region_with_movers_changes_as_a_whole():
    text = """g (float[1,4,4,4] x) => (float[1,4,2,2] y) <float s = {0.1}, uint8 z = {128}> {
        q = QuantizeLinear(x, s, z) p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(q)
        t = Transpose<perm=[0,1,3,2]>(p) y = DequantizeLinear(t, s, z) }"""
    proto = onnx.parser.parse_model(HEAD + text)
    fixed, _ = legalized(proto)
    same(proto, fixed, {"x": np.random.default_rng(0).normal(size=(1, 4, 4, 4)).astype(np.float32) * 8})
    assert problems(fixed) == set()


@pytest.mark.parametrize(
    "text",
    [
        "g (float[4] x) => (uint8[4] y) <float s = {0.1}, uint8 z = {128}> { y = QuantizeLinear(x, s, z) }",
        "g (uint8[4] x) => (float[4] y) <float s = {0.1}, uint8 z = {128}> { y = DequantizeLinear(x, s, z) }",
        """g (float[4] x) => (float[4] y) <float s = {0.1}, uint8 z = {128}> {
            q = QuantizeLinear(x, s, z) c = Cast<to=3>(q) y = DequantizeLinear(c, s) }""",
    ],
)
def test_integers_that_others_see_stay(text):
    proto = onnx.parser.parse_model(HEAD + text)
    fixed, notes = legalized(proto)
    assert "stays uint8" in said(notes, "skipped")
    assert {n.op for n in fixed.graph.nodes} == {n.op_type for n in proto.graph.node}


QOPERATORS = [
    ("q = QLinearConv<pads=[1,1,1,1]>(xq, s, z, w, ws, wz, t, z, b) ", [1, 4, 4, 4]),
    ("v = Flatten(xq) q = QLinearMatMul(v, s, z, m, s, z, t, z) ", [1, 64]),
    ("v = Flatten(xq) q = com.microsoft.QGemm<transB=1, alpha=0.5>(v, s, z, m, s, z, c, t, z) ", [1, 64]),
    ("q = com.microsoft.QLinearAdd(xq, s, z, xq, t, z, t, z) ", [1, 4, 4, 4]),
    ("q = com.microsoft.QLinearMul(xq, s, z, xq, s, z, t, z) ", [1, 4, 4, 4]),
    ("q = com.microsoft.QLinearAveragePool<kernel_shape=[3,3]>(xq, s, z, s, z) ", [1, 4, 2, 2]),
    ("q = com.microsoft.QLinearGlobalAveragePool(xq, s, z, s, z) ", [1, 4, 1, 1]),
    ("q = com.microsoft.QLinearLeakyRelu<alpha=0.1>(xq, s, z, s, z) ", [1, 4, 4, 4]),
    ("q = com.microsoft.QLinearSigmoid(xq, s, z, s, z) ", [1, 4, 4, 4]),
]


@pytest.mark.parametrize(("nodes", "shape"), QOPERATORS)
def test_integer_operator_becomes_qdq(nodes, shape):
    rng = np.random.default_rng(1)
    text = (
        "g (float[1,4,4,4] x) => (float y) { xq = QuantizeLinear(x, s, z) " + nodes + "y = DequantizeLinear(q, o, z) }"
    )
    proto = onnx.parser.parse_model(HEAD + text)
    del proto.graph.output[:]
    proto.graph.output.append(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape))
    step = np.float32(0.05 if "t, z" in nodes else 0.02)
    values = {
        "s": np.float32(0.02),
        "t": np.float32(0.05),
        "o": step,
        "z": np.uint8(128),
        "w": rng.integers(-127, 128, (4, 4, 3, 3)).astype(np.int8),
        "ws": rng.uniform(0.005, 0.01, 4).astype(np.float32),
        "wz": np.zeros(4, np.int8),
        "b": rng.integers(-900, 900, 4).astype(np.int32),
        "c": rng.integers(-900, 900, 64).astype(np.int32),
        "m": rng.integers(0, 256, (64, 64)).astype(np.uint8),
    }
    used = {name for node in proto.graph.node for name in node.input}
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in values.items() if k in used)
    fixed, notes = legalized(proto)
    assert "between DQ and Q" in said(notes)
    assert not problems(fixed) & {"operator", "zero-point"}
    feeds = {"x": rng.normal(size=(1, 4, 4, 4)).astype(np.float32)}
    before, after = outputs(load(proto), feeds)["y"], outputs(fixed, feeds)["y"]
    assert np.abs(before - after).max() <= step * 1.01
    assert np.mean(before != after) < 0.1
    assert np.ptp(before) > 4 * step


def test_a_layout_without_a_float_form_stays():
    text = """g (uint8[1,4,4,4] x) => (uint8[1,1,1,4] y) <float s = {0.1}, uint8 z = {128}> {
        y = com.microsoft.QLinearGlobalAveragePool<channels_last=1>(x, s, z, s, z) }"""
    fixed, notes = legalized(onnx.parser.parse_model(HEAD + text))
    assert [n.op for n in fixed.graph.nodes] == ["QLinearGlobalAveragePool"]
    assert "layout" in said(notes, "skipped")


def test_quantizers_of_the_microsoft_domain():
    proto = qdq_net(Flavour(domain="com.microsoft"))
    fixed, notes = legalized(proto)
    assert {n.domain or "" for n in fixed.graph.nodes} == {""}
    assert "of ai.onnx" in said(notes)
    same(proto, fixed, samples())


def test_opset_stamp_is_lowered_when_no_operator_changed():
    proto = onnx.parser.parse_model(
        '<ir_version: 13, opset_import: ["" : 26]> g (float[4] x) => (float[4] y) { a = Tanh(x) y = Add(a, x) }'
    )
    fixed, notes = legalized(proto)
    assert fixed.opsets[""] == 25
    assert "stamped 25" in said(notes)
    same(proto, fixed, {"x": np.linspace(-2, 2, 4, dtype=np.float32)})


def test_opset_stamp_stays_when_an_operator_changed(monkeypatch):
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 13]> g (float[4] x) => (float[4] y) { y = Relu(x) }'
    )
    target = replace(get_target("tensorrt"), max_opset=12)
    model, notes = load(proto), Notes()
    legalize_model(model, target, notes)
    assert model.opsets[""] == 13
    assert "Relu changed" in said(notes, "skipped")


def test_ir_stamp(monkeypatch):
    from graphopt.runtime.limits import Limits

    monkeypatch.setattr("graphopt.transforms.legalize.stamps.ort_limits", lambda: Limits("0", 21, 9))
    fixed, _ = legalized(qdq_net(Flavour(ir_version=10)), "ort-cpu")
    assert fixed.ir_version == 9
    fixed, notes = legalized(qdq_net(Flavour(weight="int4", opset=21, ir_version=11)), "ort-cpu")
    assert fixed.ir_version == 11
    assert "needs 10" in said(notes, "skipped")


def test_nonnegative_looks_through_movers():
    text = """g (float[1,4,4,4] x) => (float[1,16,2,2] y, float[1,4,4,4] n) {
        a = Relu(x) p = AveragePool<kernel_shape=[2,2],strides=[2,2]>(a) c = Concat<axis=1>(p, p, p, p)
        y = Identity(c) n = Add(a, x) }"""
    model = load(onnx.parser.parse_model(HEAD + text))
    y, n = model.graph.outputs
    assert nonnegative(y)
    assert not nonnegative(n)


def test_as_a_pass_with_a_limit_and_counts():
    proto = qdq_net(Flavour(act="uint8", zero=128, bias="int32"))
    run = PassManager(Registry(), Settings(target="tensorrt")).run(load(proto), Pipeline([Legalize()]))
    assert run.passes[0].statistics["float_bias"] == 1
    assert run.passes[0].statistics["uint8_to_int8"] == 2
    assert problems(run.model) == set()
    limited = PassManager(Registry(), Settings(target="tensorrt"), limit=1).run(load(proto), Pipeline([Legalize()]))
    assert len(limited.applied) == 1
    assert "zero-point" in problems(limited.model)


def test_the_option_names_another_target():
    proto = qdq_net(Flavour(act="uint8", zero=128))
    run = PassManager(Registry(), Settings(target="tensorrt")).run(load(proto), Pipeline([Legalize(target="ort-cpu")]))
    assert not run.passes[0].changed
