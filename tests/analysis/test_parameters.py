"""One definition of a parameter: the same count for a model in float and quantized, as initializers and constants."""

from __future__ import annotations

import onnx
from chain_net import chain, quantized

from graphopt import load
from graphopt.analysis.inspection import inspect_model
from graphopt.analysis.parameters import count_parameters
from graphopt.pipeline.stats import measure


def test_shapes_and_grids_are_no_parameters():
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[2,6] x) => (float[3,4] y)
      <float[6] w = {1,2,3,4,5,6}, int64[2] s = {3,4}, float sc = {0.5}, int8 z = {0}, int8[6] q = {1,2,3,4,5,6}> {
        c = Constant <value = float[6] {1,2,3,4,5,6}> ()
        d = DequantizeLinear(q, sc, z)  a = Add(x, w)  b = Mul(a, c)  e = Add(b, d)  y = Reshape(e, s) }"""
    model = load(onnx.parser.parse_model(text))
    assert count_parameters(model.graph) == 18


def test_quantizing_changes_no_count_and_all_places_agree():
    model = load(chain(4, width=64))
    integer = quantized(chain(4, width=64))
    assert any(n.op == "QuantizeLinear" for n in integer.graph.nodes)
    for one in (model, integer):
        assert count_parameters(one.graph) == 4 * 64 * 64 * 9
        assert measure(one).parameters == inspect_model(one).parameters == 4 * 64 * 64 * 9


def test_qlinear_operators(tmp_path):
    text = """<ir_version: 8, opset_import: ["" : 17]> g (uint8[1,2] x) => (uint8[1,2] y)
      <float sc = {0.5}, uint8 z = {0}, int8 wz = {0}, int8[2,2] w = {1,2,3,4}> {
        y = QLinearMatMul(x, sc, z, w, sc, wz, sc, z) }"""
    assert count_parameters(load(onnx.parser.parse_model(text)).graph) == 4
