"""Q/DQ that is already in a model: constants behind it are stored as integers, and pairs that undo each other go."""

from __future__ import annotations

import numpy as np

from graphopt.graph import Graph
from graphopt.ir import Array, Node, Tensor, constant_value
from graphopt.model import Model
from graphopt.targets.checks.base import DEQUANTIZE, QUANTIZE, Quantizer, read_quantizer
from graphopt.transforms.legalize.fixes import Listener

_FOLDED = frozenset({"int8", "uint8", "int16", "uint16"})


def fold_qdq(model: Model, listener: Listener) -> None:
    """Both rewrites, on all graphs, in place. Exact."""
    for graph in list(model.graph.graphs()):
        members = {id(n) for n in graph.nodes}
        for node in list(graph.nodes):
            if node.is_op(QUANTIZE):
                _store(graph, node, listener)
                _undo(graph, node, members, listener)
    model.graph.sort()
    model.graph.remove_dead()


def _store(graph: Graph, node: Node, listener: Listener) -> None:
    """QuantizeLinear of a float constant becomes the integers it computes."""
    q = read_quantizer(node)
    value = constant_value(node.inputs[0])
    if value is None or value.dtype != np.float32 or q.scale is None or q.block_size or (q.has_zero and q.zero is None):
        return
    if node.outputs[0] in graph.outputs or str(q.type) not in _FOLDED or node.attrs.get("precision"):
        return
    if np.isnan(value).any():
        return
    if listener.allow(node, "store-integers"):
        name = node.inputs[0].name
        graph.replace_uses(node.outputs[0], graph.new_constant(f"{name}_quantized", quantize(value, q)))
        graph.remove_nodes([node])
        listener.did(node, f"{name!r} is stored as {q.type}")
        listener.count("weights stored as integers")


def quantize(value: Array, q: Quantizer) -> Array:
    """What a QuantizeLinear gives for ``value``: float32 division, rounding half to even, saturation."""
    assert q.scale is not None
    kind = np.dtype(q.type or np.uint8)
    shape = [1] * value.ndim
    if q.scale.size > 1:
        shape[q.axis] = -1
    scale = q.scale.astype(np.float32).reshape(shape if q.scale.size > 1 else ())
    zero = 0 if q.zero is None else q.zero.astype(np.float32).reshape(shape if q.zero.size > 1 else ())
    limits = np.iinfo(kind)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.clip(np.rint(value / scale) + zero, limits.min, limits.max)).astype(kind)


def _undo(graph: Graph, node: Node, members: set[int], listener: Listener) -> None:
    """DequantizeLinear then QuantizeLinear on the same grid gives back the integers, in float32."""
    if not node.inputs or not node.inputs[0].inputs or not node.inputs[0].inputs[0].is_op(DEQUANTIZE):
        return
    before = node.inputs[0].inputs[0]
    if id(before) not in members or node.outputs[0] in graph.outputs or not _same_grid(before, node):
        return
    if listener.allow(node, "undo-pair"):
        graph.replace_uses(node.outputs[0], before.inputs[0])
        graph.remove_nodes([node])
        listener.count("pairs undone")


def _same_grid(one: Node, two: Node) -> bool:
    a, b = read_quantizer(one), read_quantizer(two)
    if a.scale is None or b.scale is None or a.block_size or b.block_size or a.type != b.type:
        return False
    if str(a.type) not in _FOLDED or (a.has_zero and a.zero is None) or (b.has_zero and b.zero is None):
        return False
    if a.scale.dtype != np.float32 or b.scale.dtype != np.float32:
        return False
    zeros = [np.zeros(1) if q.zero is None else q.zero.reshape(-1) for q in (a, b)]
    if a.scale.size > 1 and a.axis != b.axis:
        return False
    one_zero, other_zero = np.broadcast_arrays(*zeros)
    return np.array_equal(a.scale.reshape(-1), b.scale.reshape(-1)) and np.array_equal(one_zero, other_zero)


def dequantized_by(tensor: Tensor) -> Node | None:
    """The DequantizeLinear that makes a tensor."""
    return tensor.inputs[0] if tensor.inputs and tensor.inputs[0].is_op(DEQUANTIZE) else None
