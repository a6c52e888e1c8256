"""Models from and to a ModelProto: nothing of the caller's message is changed, kept or left out."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt import load
from graphopt.errors import InvalidModelError


def _tensor(name: str, values: int, raw: bool = True) -> TensorProto:
    array = np.arange(values, dtype=np.float32)
    return numpy_helper.from_array(array, name) if raw else helper.make_tensor(name, 1, [values], array.tolist())


def _proto() -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    c = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    inner = helper.make_node("Constant", [], ["inner"], value=_tensor("t", 600))
    branch = helper.make_graph([inner], "b", [], [onnx.ValueInfoProto(name="inner")])
    nodes = [
        helper.make_node("Constant", [], ["k"], value=_tensor("t", 600)),
        helper.make_node("If", ["c"], ["f"], then_branch=branch, else_branch=branch),
        helper.make_node("Sum", ["x", "large", "unpacked", "k", "f"], ["s"], doc_string="sum"),
        helper.make_node("Mul", ["s", "small"], ["y"]),
    ]
    weights = [_tensor("large", 600), _tensor("unpacked", 600, raw=False), _tensor("small", 1)]
    weights[0].doc_string = "of a layer"
    graph = helper.make_graph(nodes, "g", [x, c], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_same_as_from_bytes() -> None:
    proto = _proto()
    data = proto.SerializeToString()
    model = load(proto)
    assert proto.SerializeToString() == data
    assert model.serialize() == load(data).serialize()
    assert model.to_proto() == onnx.ModelProto.FromString(data)


def test_later_changes_of_the_proto_do_not_reach_the_model() -> None:
    proto = _proto()
    expected = load(proto.SerializeToString()).serialize()
    model = load(proto)
    for tensor in (*proto.graph.initializer, proto.graph.node[0].attribute[0].t):
        tensor.raw_data = bytes(len(tensor.raw_data))
        tensor.name = "other"
        del tensor.dims[:]
    proto.graph.node[2].doc_string = "changed"
    del proto.graph.node[1].attribute[:]
    assert model.serialize() == expected


def test_a_made_proto_does_not_reach_the_model_either() -> None:
    model = load(_proto())
    expected = model.serialize()
    made = model.to_proto()
    for tensor in made.graph.initializer:
        tensor.raw_data = b""
    assert model.serialize() == expected


def test_too_few_bytes_are_refused() -> None:
    proto = _proto()
    proto.graph.initializer[0].raw_data = bytes(2000)
    with pytest.raises(InvalidModelError, match="tensor 'large' declares"):
        load(proto)
