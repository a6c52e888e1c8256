"""What graphopt quantizes for TensorRT runs in int8; what ONNX Runtime quantizes by default does after the fixes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt import load
from graphopt.data.interface import read_interface
from graphopt.data.open import open_data
from graphopt.runtime.session import Session, SessionConfig
from graphopt.targets import get_target, tensorrt_rtx
from graphopt.targets.checks import CheckConfig, check_model
from graphopt.transforms.legalize.fixes import Notes, legalize_model
from graphopt.transforms.quantize.qdq import QuantConfig, quantize_model

pytestmark = pytest.mark.skipif(not tensorrt_rtx.installed(), reason="the extra tensorrt is not installed")


def network():
    """Three convolutions, a residual addition, pooling, a matrix product; 32 channels, free batch."""
    rng = np.random.default_rng(0)
    shapes = {"w0": (32, 3, 3, 3), "w1": (32, 32, 3, 3), "w2": (32, 32, 1, 1), "w3": (32, 10)}
    values = {k: rng.normal(size=s) / np.sqrt(np.prod(s[1:])) for k, s in shapes.items()}
    values |= {f"b{i}": rng.normal(size=32) for i in range(3)} | {"b3": rng.normal(size=10)}
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], "conv0", pads=[1] * 4),
        helper.make_node("Relu", ["c0"], ["r0"], "relu0"),
        helper.make_node("MaxPool", ["r0"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "w1", "b1"], ["c1"], "conv1", pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "conv2"),
        helper.make_node("Add", ["c2", "p"], ["a"], "add"),
        helper.make_node("Relu", ["a"], ["r2"], "relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["g"], "gap"),
        helper.make_node("Flatten", ["g"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], "fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def files(tmp_path):
    """The network and data for it, as files."""
    onnx.save(network(), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(1).normal(size=(16, 3, 16, 16)).astype(np.float32))
    return tmp_path


def test_every_node_that_graphopt_quantizes_is_int8(files):
    model = load(files / "net.onnx")
    data = open_data(str(files / "data.npz"), read_interface(files / "net.onnx"))
    done = quantize_model(model, data, get_target("tensorrt"), QuantConfig())
    report = check_model(model, get_target("tensorrt"), CheckConfig(capabilities=("sm80", "sm86", "sm89", "sm120")))
    chosen = {u.node.name for u in done.plan.integer if u.rule.kind in ("compute", "pointwise")}
    assert {"conv1", "conv2", "add"} <= chosen
    assert report.runs
    for engine in report.engines:
        assert {layer.node for layer in engine.layers if layer.precision == "int8"} == chosen
        assert engine.float_anyway == ()
        assert all(layer.reason for layer in engine.layers if layer.precision != "int8")


def _settings():
    from onnxruntime.quantization import QuantFormat, QuantType

    unsigned = {"activation_type": QuantType.QUInt8}
    return {
        "default": {},
        "u8s8": unsigned,
        "u8u8": {**unsigned, "weight_type": QuantType.QUInt8},
        "u8s8 per channel": {**unsigned, "weight_type": QuantType.QInt8, "per_channel": True},
        "symmetric": {"extra_options": {"ActivationSymmetric": True}},
        "QOperator": {"quant_format": QuantFormat.QOperator},
    }


@pytest.mark.parametrize("name", ["default", "u8s8", "u8u8", "u8s8 per channel", "symmetric", "QOperator"])
def test_onnxruntimes_models_are_refused_explained_and_fixed(files, name):
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    samples = np.load(files / "data.npz")["x"]

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = iter([{"x": samples}])

        def get_next(self):
            return next(self.left, None)

    path = files / "quantized.onnx"
    quantize_static(files / "net.onnx", path, Reader(), **_settings()[name])
    target, model = get_target("tensorrt"), load(path)
    before = check_model(model, target)
    assert not before.runs
    assert all(p.fix and p.node for p in before.errors)
    fixed = model.clone()
    legalize_model(fixed, target, Notes())
    after = check_model(fixed, target)
    assert after.runs
    (engine,) = after.engines
    assert engine.built
    assert engine.float_anyway == ()
    assert {layer.node.split("_quant")[0] for layer in engine.layers if layer.quantized} >= {"conv0", "conv1", "conv2"}
    exact, first, second = (
        Session(m.serialize(), SessionConfig(optimize="off")).run({"x": samples})["y"]
        for m in (load(files / "net.onnx"), model, fixed)
    )
    power = np.square(exact).mean()
    assert np.square(second - exact).mean() < max(4 * np.square(first - exact).mean(), power / 1000)
