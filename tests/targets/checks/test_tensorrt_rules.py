"""Each static rule of the tensorrt target: found where it is broken, silent where it is not."""

from __future__ import annotations

import onnx
import pytest
from qdq_net import Flavour, qdq_net

from graphopt import load
from graphopt.results import CheckReport
from graphopt.targets import get_target
from graphopt.targets.checks import CheckConfig, check_model
from graphopt.targets.checks.tensorrt import RULES, operator_table

STATIC = CheckConfig(ask_runtime=False)
HEAD = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>\n'


def check(model: onnx.ModelProto, config: CheckConfig = STATIC) -> CheckReport:
    return check_model(load(model), get_target("tensorrt"), config)


def found(report: CheckReport, rule: str) -> set[str]:
    return {p.node for p in report.problems if p.rule == rule}


FLAVOURS = [
    ("zero-point", "error", Flavour(zero=3), {"q_x", "dq_x", "q_y", "dq_y"}),
    ("zero-point", "error", Flavour(act="uint8", zero=128), {"q_x", "dq_x", "q_y", "dq_y"}),
    ("zero-point", "error", Flavour(weight_zero=1), {"dq_w"}),
    ("uint8-activation", "error", Flavour(act="uint8"), {"q_x", "dq_x", "q_y", "dq_y"}),
    ("missing-zero-point", "error", Flavour(has_zero=False), {"q_x", "q_y"}),
    ("uint8-weight", "error", Flavour(weight="uint8"), {"dq_w"}),
    ("int32-bias", "error", Flavour(bias="int32"), {"dq_b"}),
    ("qdq-type", "error", Flavour(act="uint16", opset=21, ir_version=10), {"q_x", "dq_x", "q_y", "dq_y"}),
    ("scale-value", "error", Flavour(scale=0.0), {"q_x", "dq_x", "q_y", "dq_y"}),
    ("int4-conv", "error", Flavour(weight="int4", opset=21, ir_version=10), {"conv"}),
    ("scale-rank", "warning", Flavour(scale_shape=(1,)), {"q_x", "dq_x", "q_y", "dq_y"}),
    ("weight-axis", "warning", Flavour(axis=1), {"conv"}),
    ("channel-activation", "warning", Flavour(scale_shape=(16,)), {"q_x", "dq_x", "q_y", "dq_y"}),
    ("transposed-conv", "warning", Flavour(op="ConvTranspose", axis=None), {"conv"}),
    ("half-quantized", "warning", Flavour(quantize_input=False), {"conv"}),
    ("half-quantized", "warning", Flavour(quantize_weight=False), {"conv"}),
    ("padded-channels", "note", Flavour(channels=18), {"conv"}),
    ("dynamic-shape", "warning", Flavour(batch="N"), {""}),
    ("opset", "error", Flavour(opset=8), {""}),
    ("opset", "warning", Flavour(opset=26, ir_version=13), {""}),
]


def test_the_style_that_tensorrt_wants_breaks_no_rule():
    assert check(qdq_net(Flavour())).problems == ()


@pytest.mark.parametrize(("rule", "severity", "flavour", "nodes"), FLAVOURS)
def test_flavour(rule, severity, flavour, nodes):
    report = check(qdq_net(flavour))
    assert found(report, rule) == nodes
    assert {p.severity for p in report.problems if p.rule == rule} == {severity}
    assert report.runs == (severity != "error")
    assert all(p.fix for p in report.problems)


GRAPHS = [
    ("operator", "g (float[4,4] x) => (float y) { y = Det(x) }", {"Det"}),
    ("operator", "g (float[4] x) => (float[4] y) { y = com.microsoft.FastGelu(x) }", {"FastGelu"}),
    (
        "operator",
        "g (float[4] x) => (uint8[4] y, float s, uint8 z) { y, s, z = DynamicQuantizeLinear(x) }",
        {"DynamicQuantizeLinear"},
    ),
    (
        "operator-restricted",
        "g (int64[3] x, int64 d, float[2] v) => (float[3,4] y) { y = OneHot(x, d, v) }",
        {"OneHot"},
    ),
    ("constant-input", "g (float[2,3] x, int64[1] a) => (float[2,1] y) { y = ReduceSum(x, a) }", {"ReduceSum"}),
    ("tensor-type", "g (int16[4] x) => (float[4] y) { y = Cast<to=1>(x) }", {""}),
]


@pytest.mark.parametrize(("rule", "text", "nodes"), GRAPHS)
def test_graph(rule, text, nodes):
    model = onnx.parser.parse_model(HEAD + text)
    for node in model.graph.node:
        node.name = node.op_type
    assert found(check(model), rule) == nodes


def test_every_rule_has_a_test():
    tested = {row[0] for row in (*FLAVOURS, *GRAPHS)}
    assert {rule.id for rule in RULES} == tested


def test_constant_axes_and_one_output_are_fine():
    axes = "g (float[2,3] x) => (float[2,1] y) <int64[1] a = {1}> { y = ReduceSum(x, a) }"
    norm = "g (float[2,3] x, float[3] s) => (float[2,3] y) { y = LayerNormalization(x, s) }"
    for text in (axes, norm):
        assert check(onnx.parser.parse_model(HEAD + text)).problems == ()


def test_a_dim_that_is_given_needs_no_profile():
    model = qdq_net(Flavour(batch="N"))
    assert found(check(model, CheckConfig({"N": 4}, ask_runtime=False)), "dynamic-shape") == set()


def test_a_scale_for_the_only_channel_is_no_scalar():
    net = qdq_net(Flavour(channels=1, scale_shape=(1,)))
    assert found(check(net), "scale-rank") == set()


def test_the_table_knows_what_nvidias_parser_knows():
    table = operator_table()
    assert len(table) > 190
    assert table["Conv"].known
    assert table["Conv"].passed == table["Conv"].cases > 0
    assert not table["DynamicQuantizeLinear"].known
    assert table["ReduceSum"].with_constants == table["ReduceSum"].cases


def test_what_was_not_asked_is_said():
    assert check(qdq_net(Flavour())).not_checked
