import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.data.interface import read_interface
from graphopt.data.npz import ArrayDataset


def _make(nodes, inputs, outputs, weights):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(v, n) for n, v in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return graphopt.load(proto)


def _dataset(model, arrays):
    return ArrayDataset(arrays, read_interface(model.serialize()), "arrays")


@pytest.fixture
def conv_model():
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((6, 3, 3, 3)).astype(np.float32),
        "w2": rng.standard_normal((4, 6, 1, 1)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["y"]),
    ]
    return _make(nodes, {"x": ["N", 3, 9, 8]}, ["y"], weights)


@pytest.fixture
def images():
    return np.random.default_rng(1).standard_normal((23, 3, 9, 8)).astype(np.float32)


@pytest.fixture
def make():
    return _make


@pytest.fixture
def dataset():
    return _dataset
