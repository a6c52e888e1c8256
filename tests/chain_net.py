"""A chain of convolutions, whole or damaged in one layer, in float or quantized."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphopt import load
from graphopt.data.interface import read_interface
from graphopt.data.open import open_data
from graphopt.data.synthetic import SyntheticDataset
from graphopt.model import Model
from graphopt.targets import get_target
from graphopt.transforms.quantize.qdq import QuantConfig, quantize_model


def chain(layers: int = 5, bad: int | None = None, prefix: str = "t", width: int = 16) -> onnx.ModelProto:
    """Convolution + Relu, ``layers`` times; ``bad`` has one filter of that layer turned round."""
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for i in range(layers):
        weight = (rng.normal(size=(width, width, 3, 3)) / np.sqrt(width * 9)).astype(np.float32)
        if i == bad:
            weight[: width // 4] *= -1
        weights.append(numpy_helper.from_array(weight, f"{prefix}w{i}"))
        out = "y" if i == layers - 1 else f"{prefix}r{i}"
        nodes.append(
            helper.make_node("Conv", [last, f"{prefix}w{i}"], [f"{prefix}c{i}"], f"{prefix}conv{i}", pads=[1] * 4)
        )
        nodes.append(helper.make_node("Relu", [f"{prefix}c{i}"], [out], f"{prefix}relu{i}"))
        last = out
    shape = ["N", width, 8, 8]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def data_for(model: onnx.ModelProto, count: int = 4):
    return SyntheticDataset(read_interface(model.SerializeToString()).bind({}, 2), count)


def quantized(proto: onnx.ModelProto) -> Model:
    model = load(proto)
    values = {"x": np.random.default_rng(1).normal(size=(16, 64, 8, 8)).astype(np.float32)}
    data = open_data(values, read_interface(proto.SerializeToString()))
    quantize_model(model, data, get_target("ort-cpu"), QuantConfig())
    return model
