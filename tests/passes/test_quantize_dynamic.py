"""The ``quantize_dynamic`` pass: what is inserted, what it computes, and what stays in float and why."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt import load
from graphopt.data.interface import read_interface
from graphopt.data.open import open_data
from graphopt.errors import UsageError
from graphopt.pipeline.context import Settings
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.pipeline import Pipeline
from graphopt.pipeline.registry import Registry

MODELS = Path(__file__).resolve().parents[2] / "models"


def rng(seed=0):
    return np.random.default_rng(seed)


def build(nodes, weights, inputs, outputs, opset=17):
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (inputs | outputs).items()]
    constants = [numpy_helper.from_array(v, k) for k, v in weights.items()]
    graph = helper.make_graph(nodes, "g", infos[: len(inputs)], infos[len(inputs) :], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def product(op="MatMul", width=256, rows=64, **attrs):
    weights = {"w": (rng().standard_normal((width, width)) / width**0.5).astype(np.float32)}
    inputs = ["x", "w"]
    if op == "Gemm":
        weights["b"] = rng(1).standard_normal(width).astype(np.float32)
        inputs.append("b")
    return build([helper.make_node(op, inputs, ["y"], "layer", **attrs)], weights, {"x": [rows, width]}, {"y": None})


def lstm(hidden=64, given=64, directions=1, steps=12, op="LSTM", extra=(), **attrs):
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    shapes = {"W": (given,), "R": (hidden,)}
    weights = {
        k: (rng(i).standard_normal((directions, gates * hidden, *s)) / s[0] ** 0.5).astype(np.float32)
        for i, (k, s) in enumerate(shapes.items())
    }
    weights["B"] = (rng(3).standard_normal((directions, 2 * gates * hidden)) * 0.1).astype(np.float32)
    if directions == 2:
        attrs["direction"] = "bidirectional"
    node = helper.make_node(op, ["x", "W", "R", "B", *extra], ["y"], "cell", hidden_size=hidden, **attrs)
    return build([node], weights, {"x": [steps, 1, given]}, {"y": None})


def quantized(proto, text="quantize_dynamic", data=None, **settings):
    registry = Registry()
    if data is not None:
        data = open_data(data, read_interface(proto.SerializeToString()))
    manager = PassManager(registry, Settings(data=data, **settings))
    done = manager.run(load(proto), Pipeline.parse(text, registry))
    result = done.model.to_proto()
    return result, {r.node: r.message for r in done.passes[-1].remarks if r.kind in ("did", "skipped")}


def run(proto, feeds, optimized=None):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feeds)


def sqnr(wanted, got):
    wanted, got = np.float64(wanted), np.float64(got)
    return 10 * np.log10(np.square(wanted).sum() / max(np.square(wanted - got).sum(), 1e-30))


def near(proto, result, feeds, least=35.0):
    assert sqnr(run(proto, feeds)[0], run(result, feeds)[0]) > least


def x(*shape):
    return {"x": rng(9).standard_normal(shape).astype(np.float32)}


def test_a_product_becomes_one_kernel(tmp_path):
    proto = product()
    result, said = quantized(proto)
    assert said["layer"].startswith("MatMul runs on integers")
    assert [n.op_type for n in result.graph.node] == ["DynamicQuantizeLinear", "MatMulInteger", "Cast", "Mul", "Mul"]
    near(proto, result, x(64, 256))
    run(result, x(64, 256), tmp_path / "optimized.onnx")
    assert [n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node] == ["DynamicQuantizeMatMul"]


@pytest.mark.parametrize("attrs", [{}, {"transB": 1}, {"alpha": 0.5, "beta": 2.0}])
def test_gemm_attributes(attrs, tmp_path):
    proto = product("Gemm", **attrs)
    result, _ = quantized(proto)
    near(proto, result, x(64, 256))
    run(result, x(64, 256), tmp_path / "optimized.onnx")
    assert [n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node] == ["DynamicQuantizeMatMul"]


def test_a_transposed_input_stays_in_float():
    result, said = quantized(product("Gemm", rows=256, transA=1))
    assert [n.op_type for n in result.graph.node] == ["Gemm"]
    assert "transposed input" in said["layer"]


def test_products_of_one_input_quantize_it_once():
    weights = {c: (rng(i).standard_normal((256, 256)) / 16).astype(np.float32) for i, c in enumerate("qkv")}
    nodes = [helper.make_node("MatMul", ["x", c], [f"{c}_out"], f"{c}_layer") for c in "qkv"]
    proto = build(nodes, weights, {"x": [64, 256]}, {f"{c}_out": None for c in "qkv"})
    result, _ = quantized(proto)
    assert sum(n.op_type == "DynamicQuantizeLinear" for n in result.graph.node) == 1
    near(proto, result, x(64, 256))


def test_shared_weights_are_stored_once():
    weights = {"w": (rng().standard_normal((256, 256)) / 16).astype(np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"], "a"), helper.make_node("MatMul", ["m", "w"], ["y"], "b")]
    proto = build(nodes, weights, {"x": [64, 256]}, {"y": None})
    result, _ = quantized(proto)
    assert sum(list(t.dims) == [256, 256] for t in result.graph.initializer) == 1
    near(proto, result, x(64, 256))


def test_what_the_profile_shows_slower_stays_in_float():
    result, said = quantized(product(width=16, rows=1))
    assert [n.op_type for n in result.graph.node] == ["MatMul"]
    assert "profile shows integers slower" in said["layer"]
    result, said = quantized(product(width=16, rows=1), "quantize_dynamic:include=layer")
    assert "MatMulInteger" in {n.op_type for n in result.graph.node}


def test_other_targets_leave_it_in_float():
    result, said = quantized(product(), target="tensorrt")
    assert [n.op_type for n in result.graph.node] == ["MatMul"]
    assert "tensorrt has no MatMul kernel" in said["layer"]


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("per_channel", ["true", "false"])
def test_an_lstm(directions, per_channel):
    proto = lstm(directions=directions)
    result, _ = quantized(proto, f"quantize_dynamic:per_channel={per_channel}")
    assert [n.op_type for n in result.graph.node] == ["DynamicQuantizeLSTM"]
    assert result.graph.node[0].name == "cell"
    near(proto, result, x(12, 1, 64), 30.0)
    assert len(result.SerializeToString()) < 0.35 * len(proto.SerializeToString())


def test_an_lstm_with_initial_state_and_peepholes_and_lengths():
    proto = lstm(extra=("lengths", "h", "c", "P"))
    values = {
        "lengths": np.array([7], np.int32),
        "h": rng(5).standard_normal((1, 1, 64)).astype(np.float32),
        "c": rng(6).standard_normal((1, 1, 64)).astype(np.float32),
        "P": (rng(7).standard_normal((1, 192)) * 0.1).astype(np.float32),
    }
    proto.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in values.items())
    result, _ = quantized(proto)
    assert [n.op_type for n in result.graph.node] == ["DynamicQuantizeLSTM"]
    near(proto, result, x(12, 1, 64), 30.0)


def test_an_lstm_with_the_batch_first_is_named():
    result, said = quantized(lstm(layout=1, steps=1))
    assert [n.op_type for n in result.graph.node] == ["LSTM"]
    assert "layout=1" in said["cell"]


def test_a_plain_recurrent_node_is_named():
    result, said = quantized(lstm(op="RNN"))
    assert [n.op_type for n in result.graph.node] == ["RNN"]
    assert "RNN left in float: ort-cpu has no RNN kernel" in said["cell"]


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("before", [0, 1])
def test_a_gru(opset, direction, before):
    """Both outputs and both forms of the candidate; the float form alone is the same GRU to the last digits."""
    from graphopt.transforms.quantize.gru import scan_gru

    directions = 2 if direction == "bidirectional" else 1
    proto = lstm(48, 24, directions, op="GRU", linear_before_reset=before)
    node = proto.graph.node[0]
    if direction == "reverse":
        node.attribute.append(helper.make_attribute("direction", direction))
    node.output.append("last")
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4))
    proto.graph.output.append(helper.make_tensor_value_info("last", TensorProto.FLOAT, [directions, None, 48]))
    proto.opset_import[0].version = opset
    feeds = x(12, 1, 24)
    model = load(proto)
    products = scan_gru(model.graph, model.graph.nodes[0])
    assert len(products) == directions * (3 - before)
    model.graph.sort()
    floating = model.to_proto()
    onnx.checker.check_model(floating, full_check=True)
    result, said = quantized(proto, "quantize_dynamic:include=cell")
    assert said["cell"].startswith("GRU runs on integers")
    assert {n.op_type for n in result.graph.node} >= {"Scan", "MatMulInteger"}
    for name, output in enumerate(run(proto, feeds)):
        assert sqnr(output, run(floating, feeds)[name]) > 100
        assert sqnr(output, run(result, feeds)[name]) > 35


def test_a_gru_with_an_initial_state_and_an_open_batch():
    proto = lstm(32, 32, 2, op="GRU", extra=("", "h0"))
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "N"
    proto.graph.input.append(helper.make_tensor_value_info("h0", TensorProto.FLOAT, [2, "N", 32]))
    result, _ = quantized(proto, "quantize_dynamic:include=cell")
    near(proto, result, x(12, 3, 32) | {"h0": rng(5).standard_normal((2, 3, 32)).astype(np.float32)}, 30.0)


def test_a_wide_gru_gains_and_a_narrow_one_does_not():
    assert "runs on integers" in quantized(lstm(640, 640, op="GRU", linear_before_reset=1))[1]["cell"]
    assert "the profile shows integers slower" in quantized(lstm(64, 64, op="GRU", linear_before_reset=1))[1]["cell"]


@pytest.mark.parametrize(
    ("attrs", "extra", "why"),
    [
        ({"clip": 3.0}, (), "neither layout=1 nor clip"),
        ({"activations": ["Relu", "Tanh"]}, (), "not Sigmoid and Tanh"),
        ({}, ("lengths",), "no sequence lengths"),
    ],
)
def test_a_gru_that_the_integer_form_does_not_cover_is_named(attrs, extra, why):
    proto = lstm(op="GRU", extra=extra, **attrs)
    if extra:
        proto.graph.input.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, [1]))
    result, said = quantized(proto, "quantize_dynamic:include=cell")
    assert [n.op_type for n in result.graph.node] == ["GRU"]
    assert why in said["cell"]


def test_a_branch_is_quantized_inside():
    weights = {"w": (rng().standard_normal((256, 256)) / 16).astype(np.float32), "zero": np.float32(0)}
    then = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["m"], "inner")],
        "then",
        [],
        [helper.make_tensor_value_info("m", TensorProto.FLOAT, [64, 256])],
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["n"])],
        "else",
        [],
        [helper.make_tensor_value_info("n", TensorProto.FLOAT, [64, 256])],
    )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["t"], keepdims=0),
        helper.make_node("Greater", ["t", "zero"], ["f"]),
        helper.make_node("If", ["f"], ["y"], "choose", then_branch=then, else_branch=other),
    ]
    proto = build(nodes, weights, {"x": [64, 256]}, {"y": [64, 256]})
    result, said = quantized(proto)
    assert said["inner"].startswith("MatMul runs on integers")
    for sign in (1, -1):
        feeds = {"x": sign * np.abs(x(64, 256)["x"])}
        near(proto, result, feeds)


def test_noise_is_measured_and_the_worst_layer_stays_in_float():
    """The second layer reads one value a thousand times the others, so that 8 bits a tensor lose the rest."""
    wide = np.ones(256, np.float32)
    wide[0] = 3e4
    unwide = np.zeros((256, 256), np.float32)
    unwide[1:] = rng(2).standard_normal((255, 256)) / 16
    weights = {"w": (rng().standard_normal((256, 256)) / 16).astype(np.float32), "s": wide, "u": unwide}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "good"),
        helper.make_node("Mul", ["m", "s"], ["k"]),
        helper.make_node("MatMul", ["k", "u"], ["y"], "bad"),
    ]
    proto = build(nodes, weights, {"x": [64, 256]}, {"y": None})
    result, said = quantized(proto, data=[x(64, 256)] * 2)
    assert "leaves" in said["bad"]
    assert said["good"].startswith("MatMul runs")
    near(proto, result, x(64, 256), 30.0)


def test_reduced_range():
    result, _ = quantized(product(), "quantize_dynamic:reduce_range=yes")
    stored = [numpy_helper.to_array(t) for t in result.graph.initializer if list(t.dims) == [256, 256]]
    assert np.abs(stored[0].astype(int)).max() <= 63


def test_a_reduced_range_that_is_asked_for_is_kept_on_every_target():
    """Also where the target would not reduce by itself; ``auto`` does not there."""
    from dataclasses import replace

    from graphopt.pipeline.analyses import Analyses
    from graphopt.pipeline.budget import Budget
    from graphopt.pipeline.context import Context, RunState
    from graphopt.pipeline.dynamic_quantization import DynamicConfig, run_dynamic
    from graphopt.targets.registry import get_target

    target = replace(get_target("ort-cpu"), reduced_without="")
    for asked, most in ((True, 63), (None, 127)):
        model = load(product())
        ctx = Context("quantize_dynamic", RunState(Settings(), Budget(None), Analyses(model)))
        run_dynamic(model, ctx, target, DynamicConfig(reduced=asked))
        stored = [c.values for c in model.graph.initializers if c.dtype == np.int8 and c.values.ndim == 2]
        assert np.abs(stored[0].astype(int)).max() == most


def test_half_precision_and_computed_weights_are_named():
    proto = product()
    proto.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(proto.graph.initializer[0]).astype(np.float16), "w")
    )
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    _, said = quantized(proto)
    assert "'w' is float16" in said["layer"]


def test_an_old_model_is_refused_with_what_to_do():
    proto = product()
    proto.opset_import[0].version = 9
    with pytest.raises(UsageError, match="needs opset 11"):
        quantized(proto)


def test_the_own_recurrent_model():
    calibration = np.load(MODELS / "data" / "fashion_mnist_calib.npz")["x"]
    proto = onnx.load(MODELS / "recurrent.onnx")
    result, _ = quantized(proto, "cleanup,quantize_dynamic", [{"x": calibration[i : i + 1]} for i in range(8)])
    assert [n.op_type for n in result.graph.node].count("DynamicQuantizeLSTM") == 2
    near(proto, result, {"x": calibration[100:164]}, 40.0)


def test_quantize_uses_the_integer_lstm():
    calibration = np.load(MODELS / "data" / "fashion_mnist_calib.npz")["x"]
    proto = onnx.load(MODELS / "recurrent.onnx")
    result, said = quantized(proto, "quantize", [{"x": calibration[i : i + 1]} for i in range(16)])
    assert said["/first/LSTM"].startswith("LSTM runs on integers")
    near(proto, result, {"x": calibration[100:164]}, 30.0)


def test_quantize_names_the_recurrent_nodes_it_leaves():
    proto = lstm(op="GRU")
    _, said = quantized(proto, "quantize", [x(12, 1, 64)] * 4)
    assert "GRU left in float" in said["cell"]


def test_quantize_leaves_an_lstm_that_would_be_too_noisy():
    proto = lstm(hidden=128, given=128)
    _, said = quantized(proto, "quantize:fidelity=70", [x(12, 1, 128)] * 4)
    assert "alone it leaves" in said["cell"]
