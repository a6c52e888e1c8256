"""Parameters and multiply-accumulates of an ONNX file."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

MAC_OPS = ("Conv", "Gemm", "MatMul", "LSTM")
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


def count_parameters(model: onnx.ModelProto) -> int:
    """Elements of the floating-point initializers of rank 1 and more, BatchNorm statistics included."""
    weights = (t for t in model.graph.initializer if t.data_type in _FLOATS and t.dims)
    return sum(math.prod(t.dims) for t in weights)


def count_macs(model: onnx.ModelProto, feeds: Mapping[str, NDArray[np.generic]]) -> int:
    """Multiply-accumulates of Conv, Gemm, MatMul and LSTM for one run on `feeds`.

    The shapes are those of a real run, so shapes that the graph computes need no inference.
    """
    nodes = [node for node in model.graph.node if node.op_type in MAC_OPS]
    shapes = _shapes(model, nodes, feeds)
    return sum(_node_macs(node, shapes) for node in nodes)


def _shapes(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], feeds: Mapping[str, NDArray[np.generic]]
) -> dict[str, tuple[int, ...]]:
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    shapes |= {name: value.shape for name, value in feeds.items()}
    wanted = {name for node in nodes for name in (*node.input[:2], node.output[0])} - shapes.keys()
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    known = {output.name for output in probe.graph.output}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(wanted - known))
    session = ort.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return shapes | dict(zip(names, (value.shape for value in session.run(names, dict(feeds))), strict=True))


def _node_macs(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    first, second, output = shapes[node.input[0]], shapes[node.input[1]], shapes[node.output[0]]
    if node.op_type == "Conv":
        return math.prod(output) * math.prod(second[1:])
    if node.op_type == "LSTM":
        steps, batch, inputs = first
        directions, gates, _ = second
        return steps * batch * directions * gates * (inputs + gates // 4)
    if node.op_type == "Gemm":
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return math.prod(output) * first[0 if transposed else 1]
    return math.prod(output) * first[-1]
