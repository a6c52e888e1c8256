"""Raises a model to operator set 13, the first with per-channel Q/DQ. Nothing else is touched.

Between 11 and 13 six operators changed their form: Squeeze, Unsqueeze and ReduceSum take their axes as an input, Split
its sizes, Dropout its ratio (12), and Softmax no longer flattens. Older models go through onnx's own converter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from graphopt.errors import UnsupportedError
from graphopt.graph import Graph
from graphopt.ir import Node, Tensor
from graphopt.model import Model

QDQ_OPSET = 13
_OWN_FROM = 11
_IR_FOR_13 = 7


def raise_opset(model: Model, ranks: Mapping[str, int]) -> bool:
    """Raise the model to opset 13 if it is older; whether it was. ``ranks`` of tensors are needed for Softmax.

    Raises:
        UnsupportedError: the model is older than opset 11 and onnx cannot convert it, or it calls local functions.
    """
    if model.opsets[""] >= QDQ_OPSET:
        return False
    if model.functions:
        model.inline_functions()
    if model.opsets[""] < _OWN_FROM:
        _convert(model)
    else:
        for graph in list(model.graph.graphs()):
            for node in list(graph.nodes):
                if not node.domain and node.op in _UPGRADES:
                    _UPGRADES[node.op](graph, node, ranks)
            graph.sort()
    model.opsets[""] = QDQ_OPSET
    model.ir_version = max(model.ir_version, _IR_FOR_13)
    return True


def _convert(model: Model) -> None:
    try:
        model.convert_opset(QDQ_OPSET)
    except UnsupportedError as error:
        raise UnsupportedError(
            f"Q/DQ need opset {QDQ_OPSET}. {error}. Export it again with opset 13 or newer"
        ) from error


def _axes_input(graph: Graph, node: Node, ranks: Mapping[str, int]) -> None:
    axes = node.attrs.pop("axes", None)
    if axes is not None:
        node.inputs.append(graph.new_constant(f"{node.name or node.op}_axes", np.array(axes, np.int64)))


def _split_input(graph: Graph, node: Node, ranks: Mapping[str, int]) -> None:
    sizes = node.attrs.pop("split", None)
    if sizes is not None:
        node.inputs.append(graph.new_constant(f"{node.name or node.op}_split", np.array(sizes, np.int64)))


def _dropout(graph: Graph, node: Node, ranks: Mapping[str, int]) -> None:
    ratio = node.attrs.pop("ratio", None)
    if ratio is not None and len(node.inputs) == 1:
        node.inputs.append(graph.new_constant(f"{node.name or node.op}_ratio", np.float32(ratio)))


def _softmax(graph: Graph, node: Node, ranks: Mapping[str, int]) -> None:
    """Softmax over the flattened axes from ``axis`` on; the same as over the last axis when that is ``axis``."""
    axis = int(node.attrs.get("axis", 1))
    rank = ranks.get(node.outputs[0].name, ranks.get(node.inputs[0].name))
    if axis == -1 or (rank is not None and axis % rank == rank - 1):
        node.attrs["axis"] = -1
        return
    source, target = node.inputs[0], node.outputs[0]
    shape = graph.add_node("Shape", [source])
    flat = graph.add_node("Flatten", [source], attrs={"axis": axis})
    made: Tensor = graph.new_variable(f"{target.name}_flat", np.dtype(np.float32))
    node.inputs[0], node.outputs[0] = flat.outputs[0], made
    node.attrs["axis"] = -1
    graph.add_node("Reshape", [made, shape.outputs[0]], [target])


_UPGRADES: Mapping[str, Callable[[Graph, Node, Mapping[str, int]], None]] = {
    "Squeeze": _axes_input,
    "Unsqueeze": _axes_input,
    "ReduceSum": _axes_input,
    "Split": _split_input,
    "Dropout": _dropout,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
}
