"""Rules of the ONNX Runtime targets, each beside what the runtime itself does."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper
from qdq_net import Flavour, qdq_net

from graphopt import load
from graphopt.runtime.limits import ort_limits
from graphopt.targets import get_target
from graphopt.targets.checks import CheckConfig, check_model

HEAD = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>\n'
FAST = Flavour(act="uint8", bias="int32")


def check(model, target="ort-cpu", **config):
    return check_model(load(model), get_target(target), CheckConfig(**config))


def rules(report):
    return {p.rule for p in report.problems}


def test_the_fast_flavour_runs_on_integers():
    report = check(qdq_net(FAST))
    assert report.problems == ()
    (layer,) = report.engines[0].layers
    assert (layer.node, layer.quantized, layer.precision, layer.kernel) == ("conv", True, "int8", "QLinearConv")


@pytest.mark.parametrize(
    ("rule", "flavour"), [("symmetric-relu", Flavour()), ("no-output-quantizer", Flavour(act="uint8", output=False))]
)
def test_what_the_rules_say_stays_float_does(rule, flavour):
    report = check(qdq_net(flavour))
    assert rule in rules(report)
    assert report.runs
    assert [layer.node for layer in report.engines[0].float_anyway] == ["conv"]


@pytest.mark.parametrize(
    ("rule", "flavour"),
    [
        ("uint8-weight", Flavour(act="uint8", weight="uint8", axis=None)),
        ("depthwise-int8", Flavour(act="uint8", depthwise=True)),
        ("scale-rank", Flavour(act="uint8", scale_shape=(1,))),
    ],
)
def test_slow_flavour(rule, flavour):
    report = check(qdq_net(flavour), ask_runtime=False)
    assert rules(report) == {rule}
    assert report.runs


def test_stamps_that_are_too_new(monkeypatch):
    limits = ort_limits()
    model = qdq_net(FAST)
    model.ir_version = limits.ir_version + 1
    assert rules(check(model, ask_runtime=False)) == {"ir-version"}
    monkeypatch.setattr("graphopt.targets.checks.ort.ort_limits", lambda: type(limits)("0", 16, 99))
    report = check(qdq_net(FAST), ask_runtime=False)
    assert rules(report) == {"opset"}
    assert not report.runs


def test_an_operator_that_does_not_load_is_named():
    model = onnx.parser.parse_model(HEAD + "g (float[4] x) => (float[4] y) { y = com.microsoft.NoSuchThing(x) }")
    model.graph.node[0].name = "strange"
    report = check(model)
    assert not report.runs
    assert "strange" in report.errors[0].node + report.errors[0].message


def test_float16_on_the_cpu():
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    half = TensorProto.FLOAT16
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", half, [2, 2])],
        [helper.make_tensor_value_info("y", half, [2, 2])],
        [helper.make_tensor("w", half, [2, 2], [1.0] * 4)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert rules(check(model, ask_runtime=False)) == {"float16"}


def test_integer_operators_bounce_from_cuda():
    text = """g (uint8[1,4] x, uint8[4,4] w, float s, uint8 z) => (uint8[1,4] y, int32[1,4] i)
    { y = QLinearMatMul(x, s, z, w, s, z, s, z) i = MatMulInteger(x, w) }"""
    report = check(onnx.parser.parse_model(HEAD + text), "ort-cuda", ask_runtime=False)
    assert [p.op for p in report.problems if p.rule == "cpu-only"] == ["QLinearMatMul", "MatMulInteger"]


def test_cuda_has_no_integer_kernels_and_is_not_claimed_to_be_there():
    report = check(qdq_net(Flavour()), "ort-cuda")
    assert "no-int8" in rules(report)
    from graphopt.runtime.providers import availability

    if not availability("cuda").usable:
        assert "CUDAExecutionProvider" in " ".join(report.not_checked)


def test_openvino():
    report = check(qdq_net(Flavour()), "openvino")
    from graphopt.targets.checks import openvino

    if openvino.installed():
        (layer,) = report.engines[0].layers
        assert (layer.quantized, layer.precision) == (True, "int8")
    else:
        assert "not installed" in " ".join(report.not_checked)
