"""Weighted layers of a model, and what became of them."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from graphopt.graph import Graph
from graphopt.ir import Node, Tensor, constant_node, is_constant
from graphopt.results import LayerChange

WEIGHT_INPUT = {
    "Conv": 1,
    "ConvTranspose": 1,
    "Gemm": 1,
    "MatMul": 1,
    "LSTM": 1,
    "GRU": 1,
    "RNN": 1,
    "QLinearConv": 3,
    "ConvInteger": 1,
    "MatMulInteger": 1,
    "QLinearMatMul": 3,
}


def weighted_nodes(graph: Graph) -> Iterator[tuple[Node, Tensor]]:
    """Each node with a constant weight, and the weight, seen through DequantizeLinear, Transpose and Cast."""
    for node in graph.walk():
        index = WEIGHT_INPUT.get(node.op)
        if index is None or index >= len(node.inputs):
            continue
        for candidate in (node.inputs[index], node.inputs[0]):
            weight = behind(candidate)
            if weight is not None:
                yield node, weight
                break


def behind(tensor: Tensor) -> Tensor | None:
    """The constant that a weight input holds, looking through operators that only change its form."""
    while not is_constant(tensor):
        producer = tensor.inputs[0] if tensor.inputs else None
        if producer is None or not producer.is_op(
            "DequantizeLinear", "Transpose", "Cast", "Identity", "QuantizeLinear"
        ):
            return None
        tensor = producer.inputs[0]
    return tensor


def match_layers(before: Graph, after: Graph) -> list[tuple[Node, Tensor, tuple[Node, Tensor] | None]]:
    """Each weighted layer of ``before`` with what it is in ``after``, or None.

    Matched by the name of the node or of an output. Where passes renamed nodes (a folded BatchNormalization), layers
    that are left over on both sides are matched in order, if their operators agree one by one.
    """
    now = list(weighted_nodes(after))
    by_name: dict[str, int] = {}
    for index, (node, _) in enumerate(now):
        for key in (node.name, *(t.name for t in node.outputs)):
            by_name.setdefault(key, index)
    rows: list[tuple[Node, Tensor, int | None]] = []
    for node, weight in weighted_nodes(before):
        keys = [k for k in (node.name, *(t.name for t in node.outputs)) if k in by_name]
        rows.append((node, weight, by_name[keys[0]] if keys else None))
    used = {index for _, _, index in rows}
    spare = [index for index in range(len(now)) if index not in used]
    lost = [place for place, (_, _, index) in enumerate(rows) if index is None]
    if [rows[p][0].op for p in lost] == [now[i][0].op for i in spare]:
        for place, index in zip(lost, spare, strict=True):
            rows[place] = (*rows[place][:2], index)
    return [(node, weight, None if index is None else now[index]) for node, weight, index in rows]


def layer_changes(before: Graph, after: Graph) -> tuple[LayerChange, ...]:
    """Weighted layers of ``before`` with what they are in ``after``."""
    changes = []
    for node, weight, found in match_layers(before, after):
        shape = _shape(weight)
        now = _shape(found[1]) if found else ()
        precision = str(found[1].dtype) if found else ""
        changes.append(
            LayerChange(node.name or node.outputs[0].name, node.op, shape, now, precision, prod(shape), _size(now))
        )
    return tuple(changes)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    node = constant_node(tensor)
    if node is not None and "value" in node.attrs:
        return tuple(int(d) for d in node.attrs["value"].shape)
    return tuple(int(d) for d in tensor.shape or ())  # type: ignore[arg-type]


def _size(shape: tuple[int, ...]) -> int:
    return prod(shape) if shape else 0
