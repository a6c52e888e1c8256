"""One definition of a parameter: the same count for a model in float and quantized, as initializers and constants."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from chain_net import chain, quantized

from graphopt import load
from graphopt.analysis.cost import node_costs
from graphopt.analysis.inspection import inspect_model
from graphopt.analysis.parameters import count_parameters
from graphopt.pipeline.context import Settings
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.pipeline import Pipeline
from graphopt.pipeline.registry import Registry
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


@pytest.mark.parametrize("kind", ["int4", "uint4", "int8"])
def test_packed_weights_count_as_the_values_that_they_hold(kind):
    matrix = np.random.default_rng(0).standard_normal((256, 64)).astype(np.float32)
    ends = [onnx.helper.make_tensor_value_info(n, 1, [4, c]) for n, c in (("x", 256), ("y", 64))]
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"], "a")
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], [onnx.numpy_helper.from_array(matrix, "w")])
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    registry = Registry()
    pipeline = Pipeline.parse(f"quantize_weights:type={kind}", registry)
    done = PassManager(registry, Settings()).run(load(proto), pipeline).model
    assert [n.op for n in done.graph.nodes] == ["MatMulNBits"]
    assert count_parameters(done.graph) == sum(c.parameters for c in node_costs(done)) == matrix.size
    assert measure(done).parameters == inspect_model(done).parameters == matrix.size
