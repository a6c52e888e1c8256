"""The ``quantize`` pass through the manager: composite, remarks, options, place in a pipeline."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from graphopt import load
from graphopt.data.interface import read_interface
from graphopt.data.open import open_data
from graphopt.errors import UsageError
from graphopt.pipeline.context import Settings
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.pipeline import Pipeline
from graphopt.pipeline.registry import Registry


def raw_export():
    """Conv, BatchNormalization, Relu, Conv; 32 channels."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (32, 32, 3, 3), "w2": (32, 32, 3, 3), "s": (32,), "b": (32,), "m": (32,), "v": (32,)}
    weights = {k: (np.abs(rng.standard_normal(v)) * 0.2).astype(np.float32) for k, v in shapes.items()}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"], "conv1", pads=[1] * 4),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"], "norm"),
        helper.make_node("Relu", ["n"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "w2"], ["y"], "conv2", pads=[1] * 4),
    ]
    x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 32, 28, 28]) for n in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(v, k) for k, v in weights.items()])
    return load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def quantized(model, text="quantize", samples=8, **settings):
    rng = np.random.default_rng(1)
    feeds = [{"x": rng.standard_normal((1, 32, 28, 28)).astype(np.float32)} for _ in range(samples)]
    data = open_data(feeds, read_interface(model.serialize()))
    registry = Registry()
    manager = PassManager(registry, Settings(data=data, **settings))
    return manager.run(model, Pipeline.parse(text, registry))


def test_a_raw_export_is_cleaned_and_quantized():
    run = quantized(raw_export())
    ops = [n.op for n in run.model.graph.nodes]
    assert "BatchNormalization" not in ops
    assert run.passes[0].statistics["integer kernels"] == 2
    assert {r.message for r in run.passes[0].remarks if r.kind == "did"} >= {"runs as QLinearConv"}


def test_remarks_say_why_a_layer_stays_in_float():
    run = quantized(raw_export(), "quantize:exclude=conv2")
    skipped = {r.node: r.message for r in run.passes[0].remarks if r.kind == "skipped"}
    assert skipped["conv2"] == "left in float: excluded by the options"


def test_the_profile_that_decided_is_named():
    run = quantized(raw_export())
    assert any("latency profile" in r.message for r in run.passes[0].remarks)


def test_float_rewrites_after_it_are_refused():
    with pytest.raises(UsageError, match="move it before quantize"):
        quantized(raw_export(), "quantize,clip:below=0.1")


def test_types_that_the_target_does_not_take():
    with pytest.raises(UsageError, match="it takes s8s8"):
        quantized(raw_export(), "quantize:types=u8s8", target="tensorrt")


def test_options_go_through_to_the_inner_pass():
    run = quantized(raw_export(), "quantize:method=minmax:fidelity=0")
    assert run.passes[0].statistics["ranges by minmax"] >= 2


def test_without_data_it_says_so():
    registry = Registry()
    with pytest.raises(UsageError, match="needs calibration data"):
        PassManager(registry, Settings()).run(raw_export(), Pipeline.parse("quantize", registry))


def test_it_is_deterministic():
    first, second = (quantized(raw_export()).model.serialize() for _ in range(2))
    assert first == second


def types_of(model):
    return {str(c.dtype) for c in model.graph.initializers}


@pytest.mark.parametrize(("types", "kind"), [("u16s8", "uint16"), ("s16s8", "int16")])
def test_16_bit_activations(types, kind):
    plain = raw_export().serialize()
    run = quantized(raw_export(), f"quantize:types={types}")
    assert kind in types_of(run.model)
    assert run.model.opsets[""] == 21
    messages = {r.message for r in run.passes[0].remarks}
    assert "opset raised from 17 to 21, which Q/DQ of these types need" in messages
    assert any("in float" in m and kind in m for m in messages)
    assert noise_db(plain, run.model.serialize()) > noise_db(plain, quantized(raw_export()).model.serialize())


def test_float8_for_tensorrt():
    plain = raw_export().serialize()
    run = quantized(raw_export(), "quantize:types=f8f8", target="tensorrt")
    assert "float8_e4m3fn" in types_of(run.model)
    assert run.model.opsets[""] >= 19
    assert noise_db(plain, run.model.serialize()) > 20


def test_float8_on_a_target_without_it():
    with pytest.raises(UsageError, match="does not take types=f8f8"):
        quantized(raw_export(), "quantize:types=f8f8")


def noise_db(plain, other):
    feeds = {"x": np.random.default_rng(5).standard_normal((1, 32, 28, 28)).astype(np.float32)}
    values = []
    for model in (plain, other):
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        values.append(session.run(None, feeds)[0].astype(np.float64))
    return 10 * np.log10(np.square(values[0]).sum() / np.square(values[0] - values[1]).sum())
