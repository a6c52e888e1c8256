"""Awkward but legal inputs through ``quantize``: the right result, or an error that names the culprit.

The rows follow what other quantizers get wrong: files that do not load, silent noise, messages that help nobody.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt import load
from graphopt.data.interface import read_interface
from graphopt.data.open import open_data
from graphopt.errors import DataError, UnsupportedError
from graphopt.pipeline.context import Settings
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.pipeline import Pipeline
from graphopt.pipeline.registry import Registry

CHANNELS, SIDE = 32, 14
SHAPE = (1, CHANNELS, SIDE, SIDE)
FORCED = "quantize:include=*:fidelity=0"


def value(name, shape=SHAPE, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def weight(seed=0, scale=0.05):
    return (np.random.default_rng(seed).standard_normal((CHANNELS, CHANNELS, 3, 3)) * scale).astype(np.float32)


def conv(name, source, result, *constants, **attrs):
    return helper.make_node("Conv", [source, *constants], [result], name, pads=[1] * 4, **attrs)


def build(nodes, weights, inputs=None, outputs=None, opset=17, ir=8):
    graph = helper.make_graph(
        nodes,
        "g",
        inputs or [value("x")],
        outputs or [value("y")],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def two_convs(opset=17, names=("a", "b"), weights=("w1", "w2"), bias=None, ir=8):
    known = {weights[0]: weight(1), weights[1]: weight(2)}
    extra = []
    if bias is not None:
        known["bias"] = bias
        extra = ["bias"]
    nodes = [
        conv(names[0], "x", "c", weights[0], *extra),
        helper.make_node("Relu", ["c"], ["r"]),
        conv(names[1], "r", "y", weights[1]),
    ]
    return build(nodes, known, opset=opset, ir=ir)


def samples(count=8, seed=3):
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal(SHAPE).astype(np.float32)} for _ in range(count)]


def quantized(proto, data, text=FORCED, **settings):
    """The result as a proto, and what was said of each node."""
    registry = Registry()
    feeds = open_data(data, read_interface(proto.SerializeToString()))
    done = PassManager(registry, Settings(data=feeds, **settings)).run(load(proto), Pipeline.parse(text, registry))
    result = done.model.to_proto()
    onnx.checker.check_model(result, full_check=True)
    return result, [f"{r.node}: {r.message}" for p in done.passes for r in p.remarks]


def run(proto, feeds, optimized=True):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feeds)


def sqnr(wanted, got):
    wanted, got = np.float64(wanted), np.float64(got)
    return 10 * np.log10(np.square(wanted).sum() / max(np.square(wanted - got).sum(), 1e-30))


def ops(proto):
    return [n.op_type for n in proto.graph.node]


def near(proto, data=None, least=28.0, text=FORCED, integer=2, against=None):
    """Quantize; the result must be near the float model and quantize at least ``integer`` tensors."""
    data = data or samples()
    result, said = quantized(proto, data, text)
    assert ops(result).count("QuantizeLinear") >= integer
    feeds = data[0]
    assert sqnr(run(against or proto, feeds)[0], run(result, feeds)[0]) > least
    return result, said


@pytest.mark.parametrize("opset", [9, 11, 12])
def test_old_opsets_with_scales_per_channel(opset):
    result, said = near(two_convs(opset))
    assert result.opset_import[0].version >= 13
    assert any(f"opset raised from {opset} to 13" in message for message in said)
    axes = [helper.get_node_attr_value(n, "axis") for n in result.graph.node if len(n.attribute) and "w" in n.name]
    assert axes


def test_initializers_that_are_also_inputs_before_ir_4():
    """There they are constants by definition only if the runtime says so; names and interface must not change."""
    proto = two_convs(9, ir=3)
    proto.graph.input.extend([value("w1", (CHANNELS, CHANNELS, 3, 3)), value("w2", (CHANNELS, CHANNELS, 3, 3))])
    result, said = quantized(proto, samples())
    required = {i.name for i in result.graph.input} - {t.name for t in result.graph.initializer}
    assert required == {"x"}
    assert sqnr(run(proto, samples(1)[0])[0], run(result, samples(1)[0])[0]) > 28
    assert said


def branch(name, op, source="r"):
    return helper.make_graph([helper.make_node(op, [source], [f"{name}_out"])], name, [], [value(f"{name}_out")])


def test_a_branch_that_reads_an_outer_tensor():
    nodes = [
        conv("a", "x", "c", "w1"),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        conv("b", "r", "d", "w2"),
        helper.make_node("ReduceSum", ["x"], ["t"], keepdims=0),
        helper.make_node("Greater", ["t", "zero"], ["f"]),
        helper.make_node("If", ["f"], ["i"], then_branch=branch("then", "Neg"), else_branch=branch("other", "Abs")),
        helper.make_node("Add", ["d", "i"], ["y"], "add"),
    ]
    proto = build(nodes, {"w1": weight(1), "w2": weight(2), "zero": np.float32(0)})
    result, _ = near(proto)
    for sign in (1, -1):
        feeds = {"x": sign * np.abs(samples(1)[0]["x"])}
        assert sqnr(run(proto, feeds)[0], run(result, feeds)[0]) > 15


def test_a_loop_whose_body_computes():
    body = helper.make_graph(
        [conv("inner", "s", "o", "w1"), helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("s")],
        [value("on", [], TensorProto.BOOL), value("o")],
    )
    nodes = [
        conv("a", "x", "c", "w1"),
        helper.make_node("Loop", ["n", "yes", "c"], ["l"], "loop", body=body),
        conv("b", "l", "y", "w2"),
    ]
    near(build(nodes, {"w1": weight(), "w2": weight(2), "n": np.int64(2), "yes": np.bool_(True)}), least=20)


def half(proto):
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for info in (*proto.graph.input, *proto.graph.output):
        info.type.tensor_type.elem_type = TensorProto.FLOAT16
    return proto


def half_samples():
    return [{"x": s["x"].astype(np.float16)} for s in samples()]


def test_a_float16_model_is_refused_with_the_weight_and_the_way_out():
    with pytest.raises(UnsupportedError, match=r"'w1' are float16.*cast.*float32"):
        quantized(half(two_convs()), half_samples())


def test_a_float16_model_works_after_the_cast():
    near(half(two_convs()), half_samples(), text=f"cast:to=float32,{FORCED}")


def test_a_quantized_model_is_left_as_it_is():
    first, _ = quantized(two_convs(), samples())
    again, _ = quantized(first, samples())
    assert ops(again) == ops(first)
    assert np.array_equal(run(again, samples(1)[0])[0], run(first, samples(1)[0])[0])


def qoperator_model():
    """x -> Q -> QLinearConv -> DQ -> Conv -> y"""
    scale, zero = np.float32(0.03), np.uint8(128)
    known = {
        "s": scale, "z": zero, "ws": np.float32(0.002), "wz": np.int8(0), "s2": np.float32(0.05),
        "w8": np.clip(np.rint(weight(1) / 0.002), -127, 127).astype(np.int8), "w2": weight(2),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "q"),
        helper.make_node("QLinearConv", ["q", "s", "z", "w8", "ws", "wz", "s2", "z"], ["k"], "qconv", pads=[1] * 4),
        helper.make_node("DequantizeLinear", ["k", "s2", "z"], ["d"], "dq"),
        conv("b", "d", "y", "w2"),
    ]
    return build(nodes, known)


def test_integer_operators_stay_and_the_rest_is_quantized():
    proto = qoperator_model()
    result, _ = quantized(proto, samples())
    assert ops(result).count("QLinearConv") == 1
    assert sqnr(run(proto, samples(1)[0])[0], run(result, samples(1)[0])[0]) > 28


def test_a_dynamically_quantized_model_stays_as_it_is():
    """DynamicQuantizeLinear and ConvInteger, as onnxruntime's quantize_dynamic writes them."""
    known = {"w8": np.clip(np.rint(weight(1) / 0.002), -127, 127).astype(np.int8), "wz": np.int8(0),
             "ws": np.float32(0.002), "w2": weight(2)}  # fmt: skip
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], "dynamic"),
        helper.make_node("ConvInteger", ["q", "w8", "z", "wz"], ["i"], "integer", pads=[1] * 4),
        helper.make_node("Cast", ["i"], ["f"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "ws"], ["ss"], "scales"),
        helper.make_node("Mul", ["f", "ss"], ["m"], "scaled"),
        helper.make_node("Relu", ["m"], ["r"], "relu"),
        conv("b", "r", "y", "w2"),
    ]
    proto = build(nodes, known)
    result, _ = quantized(proto, samples())
    assert ops(result).count("ConvInteger") == 1
    assert sqnr(run(proto, samples(1)[0])[0], run(result, samples(1)[0])[0]) > 28


def test_a_weight_that_is_also_an_output():
    proto = two_convs()
    proto.graph.output.append(value("w1", (CHANNELS, CHANNELS, 3, 3)))
    result, _ = near(proto)
    assert np.array_equal(run(result, samples(1)[0])[1], weight(1))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_calibration_data_that_is_not_finite_names_the_input(bad):
    data = samples()
    data[1]["x"][0, 0, 0, 0] = bad
    with pytest.raises(DataError, match="'x'"):
        quantized(two_convs(), data)


def test_a_tensor_that_becomes_nan_is_named():
    nodes = [helper.make_node("Log", ["x"], ["l"], "log"), conv("a", "l", "y", "w1")]
    with pytest.raises(DataError, match="'l' is NaN"):
        quantized(build(nodes, {"w1": weight(1)}), samples())


def test_constant_calibration_data():
    data = [{"x": np.full(SHAPE, 0.25, np.float32)}] * 4
    near(two_convs(), data, least=25)


def test_all_zero_calibration_data():
    data = [{"x": np.zeros(SHAPE, np.float32)}] * 4
    result, _ = quantized(two_convs(bias=np.linspace(-1, 1, CHANNELS, dtype=np.float32)), data)
    assert np.isfinite(run(result, samples(1)[0])[0]).all()


def test_a_dead_relu():
    proto = two_convs(bias=np.full(CHANNELS, -100, np.float32))
    result, _ = quantized(proto, samples())
    assert not run(result, samples(1)[0])[0].any()


def test_all_zero_weights():
    proto = two_convs(bias=np.linspace(-1, 1, CHANNELS, dtype=np.float32))
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros_like(weight()), "w1"))
    near(proto)


@pytest.mark.parametrize("tiny", [1e-9, 1e-20, 1e-38])
def test_a_channel_with_tiny_weights_and_a_bias(tiny):
    proto = two_convs(bias=np.full(CHANNELS, 2.0, np.float32))
    small = weight(1)
    small[3] *= np.float32(tiny)
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(small, "w1"))
    near(proto)


def test_unnamed_nodes():
    near(two_convs(names=("", "")))


def test_duplicate_node_names():
    """ONNX Runtime refuses to load such a model, so it is compared with one of good names."""
    near(two_convs(names=("same", "same")), against=two_convs())


def test_names_that_clash_with_generated_ones():
    proto = two_convs(weights=("w1_quantized", "w1_scale"))
    nothing = np.float32(0)
    known = {"w1": weight(5), "x_scale": np.float32(1), "x_zero_point": nothing, "x_QuantizeLinear": nothing}
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in known.items())
    proto.graph.node.insert(0, conv("x_DequantizeLinear", "x", "k", "w1"))
    proto.graph.node.insert(1, helper.make_node("Mul", ["k", "x_scale"], ["k1"], "x_scale"))
    proto.graph.node.insert(2, helper.make_node("Add", ["k1", "x_zero_point"], ["k2"], "n2"))
    proto.graph.node.insert(3, helper.make_node("Add", ["k2", "x_QuantizeLinear"], ["r_quantized"], "n3"))
    proto.graph.node[4].input[0] = "r_quantized"
    result, _ = near(proto)
    tensors = [o for n in result.graph.node for o in n.output] + [t.name for t in result.graph.initializer]
    assert len(tensors) == len(set(tensors))


def test_constant_nodes_hold_the_weights():
    proto = two_convs()
    held = [helper.make_node("Constant", [], [t.name], value=t) for t in proto.graph.initializer]
    rest = list(proto.graph.node)
    del proto.graph.node[:], proto.graph.initializer[:]
    proto.graph.node.extend([*held, *rest])
    result, _ = near(proto)
    assert len(result.SerializeToString()) < 0.5 * len(proto.SerializeToString())


def test_an_empty_calibration_set():
    with pytest.raises(DataError, match="no feeds"):
        quantized(two_convs(), [])


def test_data_whose_names_do_not_match():
    with pytest.raises(DataError, match="no array for input 'x'; there is z"):
        quantized(two_convs(), [{"z": samples(1)[0]["x"]}])


def test_local_functions_are_kept_or_inlined_but_right():
    proto = two_convs()
    body = [helper.make_node("Neg", ["i"], ["n"]), helper.make_node("Neg", ["n"], ["o"])]
    proto.functions.append(helper.make_function("own", "Twice", ["i"], ["o"], body, [helper.make_opsetid("", 17)]))
    proto.opset_import.append(helper.make_opsetid("own", 1))
    proto.graph.node[2].input[0] = "t"
    proto.graph.node.insert(2, helper.make_node("Twice", ["r"], ["t"], "call", domain="own"))
    near(proto)


@pytest.mark.slow
def test_a_model_over_2_gb(tmp_path):
    """A table of 2.2 GB beside two convolutions; the file is sparse, so it takes no room on most disks."""
    rows, width = 550_000, 1000
    proto = two_convs()
    table = proto.graph.initializer.add(name="table", data_type=TensorProto.FLOAT, dims=[rows, width])
    table.data_location = TensorProto.EXTERNAL
    for key, item in (("location", "table.bin"), ("offset", "0"), ("length", str(4 * rows * width))):
        table.external_data.add(key=key, value=item)
    with open(tmp_path / "table.bin", "wb") as handle:
        handle.truncate(4 * rows * width)
    proto.graph.node.append(helper.make_node("Gather", ["table", "index"], ["picked"], "pick"))
    proto.graph.input.append(value("index", [1], TensorProto.INT64))
    proto.graph.output.append(value("picked", [1, width]))
    onnx.save(proto, tmp_path / "big.onnx")
    registry = Registry()
    data = [{**s, "index": np.array([7], np.int64)} for s in samples(4)]
    settings = Settings(data=open_data(data, read_interface(tmp_path / "big.onnx")))
    model = load(tmp_path / "big.onnx")
    PassManager(registry, settings).run(model, Pipeline.parse(FORCED, registry))
    model.save(tmp_path / "small.onnx")
    session = ort.InferenceSession(str(tmp_path / "small.onnx"), providers=["CPUExecutionProvider"])
    plain = run(two_convs(), {"x": data[0]["x"]})[0]
    assert sqnr(plain, session.run(None, data[0])[0]) > 28
