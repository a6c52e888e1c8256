"""Layers keep their identity through renaming, and show their new shape and precision."""

from __future__ import annotations

import numpy as np
import onnx

from graphopt import Model, load
from graphopt.analysis.layers import integer_layers, layer_changes


def two_layers(width: int, prefix: str) -> Model:
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,3] y) {{
        [{prefix}one] {prefix}a = MatMul(x, w)  {prefix}b = Relu({prefix}a)
        [{prefix}two] y = MatMul({prefix}b, v) }}"""
    proto = onnx.parser.parse_model(text)
    for name, shape in (("w", (4, width)), ("v", (width, 3))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), name))
    return load(proto)


def test_layers_are_matched_by_name_and_show_what_is_left():
    one, two = layer_changes(two_layers(8, "").graph, two_layers(4, "").graph)
    assert (one.name, one.before, one.after, one.kept) == ("one", (4, 8), (4, 4), 0.5)
    assert (two.name, two.after) == ("two", (4, 3))


def test_renamed_layers_are_matched_in_order():
    changes = layer_changes(two_layers(8, "").graph, two_layers(4, "new_").graph)
    assert [c.after for c in changes] == [(4, 4), (4, 3)]


def test_a_layer_that_is_gone_has_no_shape():
    after = two_layers(8, "")
    last = after.graph.nodes[-1]
    after.graph.replace_uses(last.outputs[0], last.inputs[0])
    after.graph.remove_dead()
    changes = layer_changes(two_layers(8, "").graph, after.graph)
    assert changes[1].after == ()
    assert changes[1].kept == 0.0


def test_products_of_indices_are_no_integer_layers():
    text = """<ir_version: 8, opset_import: ["" : 17]> g (int64[N,4] i, float[N,4] x) => (int64[N,2] j, float[N,2] y) {
        j = MatMul(i, steps)  y = MatMul(x, w) }"""
    proto = onnx.parser.parse_model(text)
    for name, dtype in (("steps", np.int64), ("w", np.float32)):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 2), dtype), name))
    assert integer_layers(load(proto).graph) == 0


def test_layers_that_read_bytes_are_integer_layers():
    text = """<ir_version: 8, opset_import: ["" : 17]> g (uint8[N,4] i) => (int32[N,2] j) { j = MatMulInteger(i, w) }"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 2), np.int8), "w"))
    assert integer_layers(load(proto).graph) == 1
