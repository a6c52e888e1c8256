"""Exports of quantization-aware training through ``quantize``: kept, completed, folded."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt import load
from graphopt.data.interface import read_interface
from graphopt.data.open import open_data
from graphopt.pipeline.context import Settings
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.pipeline import Pipeline
from graphopt.pipeline.registry import Registry

CHANNELS, SHAPE = 32, (1, 32, 14, 14)


class Trained:
    """x -> Q/DQ -> Conv a (bias) -> Relu -> Q/DQ r -> Conv b -> Add of r -> y; weights behind Q and DQ."""

    def __init__(self, signed=True, weights=True, data=True):
        rng = np.random.default_rng(0)
        self.nodes, self.known = [], {"bias": np.linspace(-1, 1, CHANNELS, dtype=np.float32)}
        for name in ("w1", "w2"):
            self.known[name] = (rng.standard_normal((CHANNELS, CHANNELS, 3, 3)) * 0.05).astype(np.float32)
        kind = np.int8 if signed else np.uint8
        x = self.pair("x", 0.03, kind(0 if signed else 128)) if data else "x"
        self.conv("a", x, "c", "w1", weights, "bias")
        self.nodes.append(helper.make_node("Relu", ["c"], ["r"], "relu"))
        r = self.pair("r", 0.015, kind(-128 if signed else 0)) if data else "r"
        self.conv("b", r, "d", "w2", weights)
        self.nodes.append(helper.make_node("Add", ["d", r], ["y"], "add"))

    def pair(self, source, scale, zero, axis=None):
        self.known |= {f"{source}_s": np.asarray(scale, np.float32), f"{source}_z": np.asarray(zero)}
        attrs = {} if axis is None else {"axis": axis}
        parameters = [f"{source}_s", f"{source}_z"]
        made = (("QuantizeLinear", source, f"{source}_q"), ("DequantizeLinear", f"{source}_q", f"{source}_d"))
        for op, given, result in made:
            self.nodes.append(helper.make_node(op, [given, *parameters], [result], f"{source}_{op}", **attrs))
        return f"{source}_d"

    def conv(self, name, source, result, weight, quantized, *bias):
        if quantized:
            top = np.abs(self.known[weight]).max((1, 2, 3))
            weight = self.pair(weight, top / 127, np.zeros(CHANNELS, np.int8), 0)
        self.nodes.append(helper.make_node("Conv", [source, weight, *bias], [result], name, pads=[1] * 4))

    def proto(self):
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, SHAPE) for n in "xy"]
        constants = [numpy_helper.from_array(v, k) for k, v in self.known.items()]
        graph = helper.make_graph(self.nodes, "g", ends[:1], ends[1:], constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def samples(count=8):
    rng = np.random.default_rng(3)
    return [{"x": rng.standard_normal(SHAPE).astype(np.float32)} for _ in range(count)]


def quantized(proto, text="quantize:fidelity=0", **settings):
    registry = Registry()
    data = open_data(samples(), read_interface(proto.SerializeToString()))
    done = PassManager(registry, Settings(data=data, **settings)).run(load(proto), Pipeline.parse(text, registry))
    result = done.model.to_proto()
    onnx.checker.check_model(result, full_check=True)
    return result, [f"{r.node}: {r.message}" for p in done.passes for r in p.remarks]


def run(proto, optimized=None):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, samples(1)[0])[0]


def sqnr(wanted, got):
    wanted, got = np.float64(wanted), np.float64(got)
    return 10 * np.log10(np.square(wanted).sum() / max(np.square(wanted - got).sum(), 1e-30))


def constants(proto):
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def test_weights_behind_q_are_stored_as_integers_with_the_same_outputs():
    proto = Trained().proto()
    result, said = quantized(proto, "fold_qdq")
    assert np.array_equal(run(proto), run(result))
    assert len(result.SerializeToString()) < 0.4 * len(proto.SerializeToString())
    assert any("'w1' is stored as int8" in message for message in said)


@pytest.mark.parametrize("signed", [True, False])
def test_grids_are_kept_and_what_is_missing_is_added(signed, tmp_path):
    proto = Trained(signed).proto()
    result, said = quantized(proto)
    assert any("kept and completed: grids of 2 tensors and 2 weights" in message for message in said)
    run(result, tmp_path / "optimized.onnx")
    kernels = [n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kernels.count("QLinearConv") == 2
    assert kernels.count("QLinearAdd") == 1
    known = constants(result)
    scales = {float(known[n.input[1]]) for n in result.graph.node if n.op_type == "QuantizeLinear"}
    assert {np.float32(0.03), np.float32(0.015)} <= {np.float32(s) for s in scales}
    stored = [v for v in known.values() if v.dtype == np.int8 and v.ndim == 4]
    wanted = [np.rint(w / (np.abs(w).max((1, 2, 3), keepdims=True) / 127)) for w in
              (constants(proto)["w1"], constants(proto)["w2"])]  # fmt: skip
    assert all(any(np.array_equal(a, b) for b in stored) for a in wanted)
    assert sqnr(run(proto), run(result)) > 30


def test_the_bias_becomes_an_integer_on_ort_cpu():
    result, _ = quantized(Trained().proto())
    assert any(v.dtype == np.int32 and v.shape == (CHANNELS,) for v in constants(result).values())


def test_tensorrt_forgets_grids_that_it_cannot_hold():
    result, _ = quantized(Trained().proto(), target="tensorrt")
    zeros = [v for k, v in constants(result).items() if v.dtype == np.int8 and v.ndim == 0]
    assert zeros
    assert not any(z.any() for z in zeros)
    assert sqnr(run(Trained().proto()), run(result)) > 25


def test_only_activations_were_trained():
    proto = Trained(weights=False).proto()
    result, _ = quantized(proto)
    assert sum(v.dtype == np.int8 and v.ndim == 4 for v in constants(result).values()) == 2
    assert sqnr(run(proto), run(result)) > 30


def test_only_weights_were_trained():
    proto = Trained(data=False).proto()
    result, _ = quantized(proto, "quantize:fidelity=0:include=*")
    assert sum(n.op_type == "QuantizeLinear" for n in result.graph.node) >= 3
    assert sqnr(run(proto), run(result)) > 30


def test_best_effort_keeps_trained_weights():
    proto = Trained().proto()
    result, _ = quantized(proto, "quantize:fidelity=0:effort=best")
    known = constants(proto)["w1"]
    wanted = np.rint(known / (np.abs(known).max((1, 2, 3), keepdims=True) / 127))
    assert any(np.array_equal(wanted, v) for v in constants(result).values() if v.ndim == 4)


def test_a_complete_model_is_left_as_it_is():
    first, _ = quantized(Trained().proto())
    again, said = quantized(first)
    assert [n.op_type for n in again.graph.node] == [n.op_type for n in first.graph.node]
    assert not any("completed" in message for message in said)


def test_an_output_behind_q_and_dq_keeps_its_name_and_grid():
    net = Trained()
    net.nodes[-1].output[0] = "sum"
    net.known |= {"y_s": np.float32(0.05), "y_z": np.int8(-3)}
    net.nodes.append(helper.make_node("QuantizeLinear", ["sum", "y_s", "y_z"], ["y_q"], "y_Q"))
    net.nodes.append(helper.make_node("DequantizeLinear", ["y_q", "y_s", "y_z"], ["y"], "y_DQ"))
    proto = net.proto()
    result, _ = quantized(proto)
    assert result.graph.output[0].name == "y"
    made = {o: n for n in result.graph.node for o in n.output}
    assert made["y"].op_type == "DequantizeLinear"
    assert constants(result)[made["y"].input[1]] == np.float32(0.05)
    assert constants(result)[made["y"].input[2]] == 125
    assert sqnr(run(proto), run(result)) > 25


def test_a_trained_model_with_shared_weights_and_a_branch():
    net = Trained(weights=False)
    net.nodes[-2].input[1] = "w1"
    then = helper.make_graph([helper.make_node("Neg", ["r"], ["n"])], "t", [], [
        helper.make_tensor_value_info("n", TensorProto.FLOAT, SHAPE)])  # fmt: skip
    other = helper.make_graph([helper.make_node("Abs", ["r_d"], ["p"])], "e", [], [
        helper.make_tensor_value_info("p", TensorProto.FLOAT, SHAPE)])  # fmt: skip
    net.nodes[-1].output[0] = "sum"
    net.known |= {"zero": np.float32(0)}
    net.nodes += [
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["flag"]),
        helper.make_node("If", ["flag"], ["i"], then_branch=then, else_branch=other),
        helper.make_node("Add", ["sum", "i"], ["y"], "last"),
    ]
    proto = net.proto()
    result, _ = quantized(proto)
    assert sqnr(run(proto), run(result)) > 25


@pytest.mark.parametrize(("kind", "scale"), [(np.uint16, 0.37), (np.int8, 600)])
def test_a_pair_in_half_precision_loses_values_and_stays(kind, scale):
    numbers = np.arange(np.iinfo(kind).min, np.iinfo(kind).max + 1).astype(kind)
    element = helper.np_dtype_to_tensor_dtype(numbers.dtype)
    ends = [helper.make_tensor_value_info(n, element, numbers.shape) for n in "xy"]
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s", "z"], ["d"]),
        helper.make_node("QuantizeLinear", ["d", "s", "z"], ["q"]),
        helper.make_node("Identity", ["q"], ["y"]),
    ]
    known = [numpy_helper.from_array(np.asarray(v), n) for n, v in (("s", np.float16(scale)), ("z", kind(0)))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], known)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    registry = Registry()
    folded = PassManager(registry, Settings()).run(load(proto), Pipeline.parse("fold_qdq", registry)).model.to_proto()
    outputs = []
    for one in (proto, folded):
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(one.SerializeToString(), options, providers=["CPUExecutionProvider"])
        outputs += session.run(None, {"x": numbers})
    assert not np.array_equal(outputs[0], numbers)
    assert np.array_equal(*outputs)
