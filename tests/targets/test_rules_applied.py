"""Each operator rule of each target, applied: where Q/DQ are put, of which type, and that the result means the same to
ONNX's reference evaluator and to ONNX Runtime.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt import load
from graphopt.data.interface import read_interface
from graphopt.data.open import open_data
from graphopt.targets import get_target
from graphopt.transforms.quantize.qdq import QuantConfig, quantize_model

C, SIDE = 16, 8
NAMES = ("ort-cpu", "openvino", "tensorrt")
RULES = [(name, rule) for name in NAMES for rule in get_target(name).rules]


def weight(*shape, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) * 0.1).astype(np.float32)


def ints(*values):
    return np.array(values, np.int64)


BETWEEN = {
    "Add": (["t", "t2"], {}, {}),
    "Mul": (["t", "t2"], {}, {}),
    "AveragePool": (["t"], {"kernel_shape": [3, 3], "pads": [1] * 4}, {}),
    "MaxPool": (["t"], {"kernel_shape": [3, 3], "pads": [1] * 4}, {}),
    "GlobalAveragePool": (["t"], {}, {}),
    "LeakyRelu": (["t"], {"alpha": 0.1}, {}),
    "Sigmoid": (["t"], {}, {}),
    "Concat": (["t", "t2"], {"axis": 2}, {}),
    "Reshape": (["t", "shape"], {}, {"shape": ints(1, C, -1, SIDE)}),
    "Transpose": (["t"], {"perm": [0, 1, 3, 2]}, {}),
    "Flatten": (["t"], {}, {}),
    "Squeeze": (["t", "axes"], {}, {"axes": ints(0)}),
    "Unsqueeze": (["t", "axes"], {}, {"axes": ints(0)}),
    "Slice": (["t", "starts", "ends", "axes"], {}, {"starts": ints(1), "ends": ints(5), "axes": ints(2)}),
    "Split": (["t", "sizes"], {"axis": 2}, {"sizes": ints(3, 5)}),
    "Gather": (["t", "index"], {"axis": 2}, {"index": ints(0, 3, 5)}),
    "DepthToSpace": (["t"], {"blocksize": 2}, {}),
    "Expand": (["t", "shape"], {}, {"shape": ints(2, C, SIDE, SIDE)}),
    "Tile": (["t", "repeats"], {}, {"repeats": ints(1, 1, 2, 1)}),
    "Resize": (["t", "", "scales"], {"mode": "nearest"}, {"scales": np.array([1, 1, 2, 2], np.float32)}),
}
COMPUTE = {
    "Conv": (["x", "w", "b"], {"pads": [1] * 4}, {"w": weight(C, C, 3, 3), "b": weight(C)}, (1, C, SIDE, SIDE)),
    "ConvTranspose": (["x", "w", "b"], {}, {"w": weight(C, 12, 2, 2), "b": weight(12)}, (1, C, SIDE, SIDE)),
    "MatMul": (["x", "w"], {}, {"w": weight(32, 24)}, (20, 32)),
    "Gemm": (["x", "w", "b"], {"transB": 1}, {"w": weight(24, 32), "b": weight(24)}, (20, 32)),
}


def model(op):
    if op in COMPUTE:
        inputs, attrs, known, shape = COMPUTE[op]
        nodes = [helper.make_node(op, inputs, ["t"], op, **attrs)]
        outputs = ["t"]
    else:
        inputs, attrs, known = BETWEEN[op]
        shape, outputs = (1, C, SIDE, SIDE), ["y", "y2"] if op == "Split" else ["y"]
        known = known | {"w1": weight(C, C, 3, 3), "w2": weight(C, C, 3, 3, seed=1)}
        nodes = [helper.make_node("Conv", ["x", w], [t], t, pads=[1] * 4) for w, t in (("w1", "t"), ("w2", "t2"))]
        nodes = nodes if "t2" in inputs else nodes[:1]
        nodes.append(helper.make_node(op, inputs, outputs, op, **attrs))
    constants = [numpy_helper.from_array(v, k) for k, v in known.items()]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)], ends, constants
    )
    opsets = [helper.make_opsetid("", 21)]
    return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets, ir_version=10)), shape


def samples(shape, count=4):
    return [{"x": np.random.default_rng(i).standard_normal(shape).astype(np.float32)} for i in range(count)]


def quantized(op, target, **config):
    proto, shape = model(op)
    loaded = load(proto)
    data = open_data(samples(shape), read_interface(proto.SerializeToString()))
    settings = QuantConfig(force=lambda node: True, fidelity=0.0, check=False, **config)
    done = quantize_model(loaded, data, get_target(target), settings)
    return proto, None if done is None else loaded.to_proto(), shape


def run(proto, feeds):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feeds)


def makers(proto):
    return {o: n for n in proto.graph.node for o in n.output}


def test_every_rule_has_a_model_here():
    assert {rule.op for _, rule in RULES} == BETWEEN.keys() | COMPUTE.keys()


@pytest.mark.parametrize(("name", "rule"), RULES, ids=lambda v: v if isinstance(v, str) else v.op)
def test_rule(name, rule):
    target = get_target(name)
    _, result, _ = quantized(rule.op, name)
    if target.placement == "inputs" and rule.kind != "compute":
        return  # only inputs of compute operators are quantized there; residual Adds have a test of their own
    if result is None:
        pytest.fail(f"nothing was quantized around {rule.op}")
    made, known = makers(result), {t.name: t for t in result.graph.initializer}
    node = next(n for n in result.graph.node if n.name == rule.op)
    positions = rule.inputs or range(len(node.input))
    for place in positions:
        quantizer = made[node.input[place]]
        assert quantizer.op_type == "DequantizeLinear"
        zero = numpy_helper.to_array(known[quantizer.input[2]])
        wanted = target.weight if place == rule.weight else target.activation
        assert zero.dtype == wanted.type
        if wanted.symmetric:
            assert not zero.any()
        if place != rule.weight:
            assert numpy_helper.to_array(known[quantizer.input[1]]).ndim == target.scale_rank
    if rule.weight is not None:
        scale = numpy_helper.to_array(known[made[node.input[rule.weight]].input[1]])
        assert scale.shape == ({"MatMul": 24, "Gemm": 24, "ConvTranspose": 12}.get(rule.op, C),)
    if rule.bias is not None:
        source = made.get(node.input[rule.bias])
        assert (source is not None and source.op_type == "DequantizeLinear") == (target.bias == "int32")
    if rule.output == "required":
        assert all(made[o.name].op_type == "DequantizeLinear" for o in result.graph.output)


@pytest.mark.parametrize(("name", "rule"), RULES, ids=lambda v: v if isinstance(v, str) else v.op)
def test_it_means_the_same_to_the_reference(name, rule):
    proto, result, shape = quantized(rule.op, name)
    if result is None:
        pytest.skip("nothing is quantized there")
    feeds = samples(shape, 6)[5]
    wanted, plain = ReferenceEvaluator(result).run(None, feeds), run(result, feeds)
    for reference, value, exact in zip(wanted, plain, run(proto, feeds), strict=True):
        step = (np.abs(exact).max() or 1) / 127
        assert np.abs(reference - value).max() < 2.1 * step
        assert np.abs(reference - value).mean() < step / 20
        assert np.abs(exact - value).mean() < step


@pytest.mark.parametrize("types", ["u8s8", "s8s8", "u8u8", "u8s4", "s8s4", "u16s8", "s16s8"])
def test_types_mean_the_same_to_the_reference(types):
    _, result, shape = quantized("Conv", "ort-cpu", types=types)
    feeds = samples(shape, 6)[5]
    reference, value = ReferenceEvaluator(result).run(None, feeds)[0], run(result, feeds)[0]
    assert np.abs(reference - value).mean() < np.abs(value).max() / 2000


def test_float8_means_the_same_to_the_reference():
    _, result, shape = quantized("Conv", "tensorrt", types="f8f8")
    feeds = samples(shape, 6)[5]
    reference, value = ReferenceEvaluator(result).run(None, feeds)[0], run(result, feeds)[0]
    assert np.abs(reference - value).mean() < np.abs(value).max() / 2000
    stored = [t.data_type for t in result.graph.initializer]
    assert stored.count(TensorProto.FLOAT8E4M3FN) >= 3


FLOAT_RULES = [(n, r) for n in NAMES for r in get_target(n).keep_float]


@pytest.mark.parametrize(("name", "rule"), FLOAT_RULES, ids=lambda v: v if isinstance(v, str) else f"{v.op}-{v.test}")
def test_layers_that_stay_in_float(name, rule):
    """One layer that the rule names and one just outside of it."""
    shapes = {
        "grouped": ((C, 4, 3, 3), (C, 4, 1, 1)),
        "narrow": ((C, C, 3, 3), (8, 8, 3, 3)),
        "gemv": ((20, 32), (1, 32)),
    }
    outside, inside = shapes[rule.test]
    for shape, stays in ((outside, False), (inside, True)):
        if rule.op == "Conv":
            attrs = {"group": 4} if rule.test == "grouped" else {}
            feed, known = (1, shape[1] * attrs.get("group", 1), SIDE, SIDE), {"w": weight(*shape)}
        else:
            feed, attrs, known = shape, {}, {"w": weight(32, 24)}
        node = helper.make_node(rule.op, ["x", "w"], ["y"], "layer", **attrs)
        ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, feed),
                helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]  # fmt: skip
        graph = helper.make_graph([node], "g", ends[:1], ends[1:], [numpy_helper.from_array(known["w"], "w")])
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        data = open_data(samples(feed), read_interface(proto.SerializeToString()))
        done = quantize_model(load(proto), data, get_target(name), QuantConfig(fidelity=0.0))
        assert (done is None) == stays


def test_dynamic_weight_only_and_half_rules():
    assert get_target("ort-cpu").dynamic == ("MatMul", "Gemm", "LSTM", "GRU")
    assert not get_target("tensorrt").dynamic
    assert get_target("ort-cpu").weight_only == "matmulnbits"
    assert get_target("tensorrt").weight_only == get_target("openvino").weight_only == "dequantize"
    assert all("CumSum" in get_target(n).no_half for n in (*NAMES, "ort-cuda"))
