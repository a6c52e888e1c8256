"""NVIDIA's parser and builder, without a GPU: what they say agrees with the static rules and with our reading of it."""

from __future__ import annotations

import onnx
import pytest
from qdq_net import Flavour, qdq_net

from graphopt import load
from graphopt.results import BuiltKernel
from graphopt.targets import get_target, tensorrt_rtx
from graphopt.targets.checks import CheckConfig, check_model
from graphopt.targets.checks.nvidia import kernel_precision

pytestmark = pytest.mark.skipif(not tensorrt_rtx.installed(), reason="the extra tensorrt is not installed")


def check(model, **config):
    return check_model(load(model), get_target("tensorrt"), CheckConfig(**config))


def test_the_wanted_style_runs_in_int8():
    report = check(qdq_net(Flavour()))
    (engine,) = report.engines
    (layer,) = engine.layers
    assert engine.built
    assert (layer.node, layer.quantized, layer.precision) == ("conv", True, "int8")
    assert report.problems == ()


@pytest.mark.parametrize(
    ("flavour", "rule"),
    [
        (Flavour(scale_shape=(1,)), "scale-rank"),
        (Flavour(axis=1), "weight-axis"),
        (Flavour(scale_shape=(16,)), "channel-activation"),
        (Flavour(op="ConvTranspose", axis=None), "transposed-conv"),
    ],
)
def test_what_the_rules_say_stays_float_does(flavour, rule):
    report = check(qdq_net(flavour))
    (layer,) = report.engines[0].float_anyway
    assert layer.precision == "float32"
    assert rule in {p.rule for p in report.problems}
    assert "float-layer" in {p.rule for p in report.problems}
    assert rule in layer.reason


@pytest.mark.parametrize(
    "flavour",
    [
        Flavour(zero=3),
        Flavour(act="uint8", zero=128),
        Flavour(weight_zero=1),
        Flavour(weight="uint8"),
        Flavour(bias="int32"),
        Flavour(act="uint16", opset=21, ir_version=10),
        Flavour(scale=-0.1),
        Flavour(weight="int4", opset=21, ir_version=10),
    ],
)
def test_what_the_rules_call_an_error_does_not_build(flavour):
    found = tensorrt_rtx.inspect(load(qdq_net(flavour)))
    assert not found.parsed or not found.builds[0].built
    report = check(qdq_net(flavour))
    assert not report.runs


def test_a_layer_without_quantization_is_listed_with_its_reason():
    report = check(qdq_net(Flavour(quantize_weight=False)))
    (layer,) = report.engines[0].layers
    assert (layer.quantized, layer.precision) == (False, "float32")
    assert "no Q/DQ" in layer.reason


def test_the_parsers_words_name_the_node():
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[3,3] x) => (float y, float z) { y = Det(x) z = Det(x) }'
    )
    model.graph.node[0].name, model.graph.node[1].name = "first]odd, name", "second"
    found = tensorrt_rtx.inspect(load(model))
    assert not found.parsed
    assert {e.node for e in found.errors} >= {"first]odd, name"}


def test_nodes_without_names_and_with_the_same_name_are_told_apart():
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,8,6,6] x, float[8,8,3,3] w) => (float[1,8,2,2] y)'
        "{ a = Conv(x, w) y = Conv(a, w) }"
    )
    model.graph.node[0].name = model.graph.node[1].name = "same"
    names = [layer.node for layer in check(model).engines[0].layers]
    assert names == ["same", "same#1"]


def test_free_dims_without_numbers_are_parsed_but_not_built():
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,L] x) => (float[1,L] y) { y = Relu(x) }'
    )
    report = check(model)
    assert report.engines == ()
    assert "L" in " ".join(report.not_checked)
    assert check(model, dims={"L": 7}).engines[0].built


def test_every_capability_is_reported():
    report = check(qdq_net(Flavour()), capabilities=("sm75", "sm80"))
    assert [e.capability for e in report.engines] == ["sm75", "sm80"]
    assert [len(e.float_anyway) for e in report.engines] == [1, 0]


def test_time_limit():
    found = tensorrt_rtx.inspect(load(qdq_net(Flavour())), seconds=0.01)
    assert not found.parsed
    assert "0.01 s" in found.crash
    report = check(qdq_net(Flavour()), seconds=0.01)
    assert "0.01 s" in " ".join(report.not_checked)


def test_kernel_precision():
    def kernel(inputs, constants):
        return BuiltKernel("k", "gemm", (), inputs, constants, ("Float",))

    assert kernel_precision(kernel(("Int8",), ("Int8", "Float"))) == "int8"
    assert kernel_precision(kernel(("Float",), ("Int8", "Float"))) == "int8 weights"
    assert kernel_precision(kernel(("Half",), ("Half",))) == "float16"
    assert kernel_precision(kernel(("Int8", "Int8"), ())) == "int8"
    assert kernel_precision(kernel(("Int8", "Float"), ("Int8", "Float"))) == "int8"
    assert kernel_precision(kernel(("Int8", "Float"), ())) == "float32"
    assert kernel_precision(kernel((), ("Float",))) == "float32"
    assert kernel_precision(kernel(("Int8", "Float"), ("Float",)), weighted=False) == "int8"
    assert kernel_precision(kernel(("Float", "Float"), ("Int8",)), weighted=False) == "float32"


def test_an_operator_of_the_plugin_library_is_not_called_an_error():
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[3,3] x) => (int64[2,N] y) { y = NonZero(x) }'
    report = check(onnx.parser.parse_model(text))
    assert report.runs
    assert {p.rule for p in report.problems} == {"operator", "plugin"}
    assert report.not_checked


LAYERS = """Layers:
Name: graphopt_node_1__myl0_1, LayerType: gemm, Inputs: [ { Name: a, Dimensions: [16,8], Strides: [8,1], \
Datatype: Int8, Format: x }], Constants: [ { Name: w, Dimensions: [8,8], Datatype: Int8, Format: x }, \
{ Name: s, Dimensions: [8], Datatype: Float, Format: x }], Outputs: [ { Name: y, Dimensions: [16,8], \
Datatype: Float, Format: x }], TacticName: t, StreamId: 0, Metadata: [ONNX Layer: graphopt_node_1_][ONNX Layer: q]
Name: __myl_Cast, LayerType: kgen, Inputs: [], Constants: [], Outputs: [ { Name: z, Datatype: Half }], TacticName: t
Name: something else of graphopt, Metadata: [ONNX Layer: graphopt_node_2_]

I/O Tensors:
 Name: x, IOMode: Input
"""


def test_layers_are_read_and_none_is_lost():
    first, second, third = tensorrt_rtx.parse_layers(LAYERS, {"graphopt_node_1_": "fc", "graphopt_node_2_": "odd"})
    assert first == BuiltKernel("fc", "gemm", ("fc",), ("Int8",), ("Int8", "Float"), ("Float",))
    assert second == BuiltKernel("__myl_Cast", "kgen", (), (), (), ("Half",))
    assert (third.kind, third.nodes) == (tensorrt_rtx.UNREADABLE, ("odd",))


def test_a_crash_of_nvidias_code_is_reported_and_not_taken_for_a_refusal(monkeypatch):
    import subprocess

    real = subprocess.run

    def crash(command, **options):
        return real([command[0], "-c", "import os; os.kill(os.getpid(), 11)"], **options)

    monkeypatch.setattr("graphopt.targets.tensorrt_rtx.subprocess.run", crash)
    report = check(qdq_net(Flavour()))
    assert "-11" in " ".join(report.not_checked)
    assert report.engines == ()
    assert report.problems == ()
