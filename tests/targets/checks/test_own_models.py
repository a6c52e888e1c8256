"""The own models, quantized for TensorRT, in NVIDIA's builder: chosen layers are INT8, the rest explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt import load
from graphopt.data.interface import read_interface
from graphopt.data.open import open_data
from graphopt.targets import get_target, tensorrt_rtx
from graphopt.targets.checks import CheckConfig, check_model
from graphopt.transforms.quantize.qdq import QuantConfig, quantize_model

pytestmark = pytest.mark.skipif(not tensorrt_rtx.installed(), reason="the extra tensorrt is not installed")
MODELS = Path(__file__).parents[3] / "models"


@pytest.mark.parametrize("name", ["residual", "depthwise", "transformer", "lenet"])
def test_no_layer_that_graphopt_quantized_is_float(name):
    path = MODELS / f"{name}.onnx"
    model = load(path)
    data = open_data(str(MODELS / "data" / "fashion_mnist_calib.npz"), read_interface(path), samples=16)
    done = quantize_model(model, data, get_target("tensorrt"), QuantConfig())
    chosen = {u.node.name for u in done.plan.integer if u.rule.kind in ("compute", "pointwise")}
    report = check_model(model, get_target("tensorrt"), CheckConfig(capabilities=("sm80", "sm89")))
    assert report.runs, report.errors
    assert [e.capability for e in report.engines] == ["sm80", "sm89"]
    for engine in report.engines:
        assert engine.built
        assert engine.float_anyway == ()
        assert {layer.node for layer in engine.layers if layer.precision == "int8"} == chosen
        assert all(layer.reason for layer in engine.layers if layer.precision != "int8")
    assert chosen or name == "lenet"
