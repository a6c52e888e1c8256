"""What each node costs: multiply-accumulates, parameters, bytes read and written.

MACs are counted for the operators that have weights, and for matrix products of two activations; everything else counts
as 0 MACs but not as 0 bytes (the usual convention: one MAC per kernel tap, output element and input channel).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

from graphopt.analysis.parameters import parameters_of
from graphopt.analysis.shapes import Facts, interpret
from graphopt.ir import Node, Shape, Tensor, Variable
from graphopt.model import Model


@dataclass(frozen=True)
class NodeCost:
    """Cost of one run of one node. ``known`` is false when a shape is missing; the figures are then 0."""

    node: str
    op: str
    macs: int
    parameters: int
    bytes_read: int
    bytes_written: int
    known: bool = True

    @property
    def intensity(self) -> float:
        """MACs per byte moved: low means bound by memory."""
        moved = self.bytes_read + self.bytes_written
        return self.macs / moved if moved else 0.0


def node_costs(model: Model, dims: Mapping[str, int] | None = None) -> tuple[NodeCost, ...]:
    """The cost of every node of the main graph for one sample: a symbolic first dim without a value counts as 1.

    Other symbolic dims without a value (``unbound_dims``) make the figures meaningless; give them values.
    """
    facts = interpret(model.graph, {**_batch(model), **(dims or {})})
    return tuple(_cost(node, facts) for node in model.graph.nodes if not node.is_op("Constant"))


def total_macs(model: Model, dims: Mapping[str, int] | None = None) -> int | None:
    """MACs of one run; None when a symbolic dim has no value or a node that multiplies has no known shape."""
    if unbound_dims(model, dims):
        return None
    costs = node_costs(model, dims)
    return sum(c.macs for c in costs) if all(c.known for c in costs) else None


def unbound_dims(model: Model, dims: Mapping[str, int] | None = None) -> list[str]:
    """Symbolic dims of the inputs, other than the batch, that have no value."""
    found = {d for shape in _shapes(model) for d in shape if isinstance(d, str)}
    return sorted(found - set(_batch(model)) - set(dims or {}))


def _shapes(model: Model) -> list[Shape]:
    return [t.shape for t in model.graph.inputs if isinstance(t, Variable) and t.shape is not None]


def _batch(model: Model) -> dict[str, int]:
    """One for the symbolic first dims of the inputs: costs are per sample."""
    return {shape[0]: 1 for shape in _shapes(model) if shape and isinstance(shape[0], str)}


def _cost(node: Node, facts: Facts) -> NodeCost:
    count = _MACS.get(node.op)
    macs = count(node, facts) if count is not None else 0
    name = node.name or node.outputs[0].name
    return NodeCost(
        node=name,
        op=node.op,
        macs=macs or 0,
        parameters=sum(map(parameters_of, node.inputs)),
        bytes_read=sum(_bytes(t, facts) for t in node.inputs),
        bytes_written=sum(_bytes(t, facts) for t in node.outputs),
        known=macs is not None,
    )


def _bytes(tensor: Tensor, facts: Facts) -> int:
    shape = None if tensor.is_empty() else facts.shape(tensor)
    dtype = tensor.dtype or facts[tensor].dtype
    return 0 if shape is None or dtype is None else prod(shape) * dtype.itemsize


def _conv(node: Node, facts: Facts) -> int | None:
    weight, out = facts.shape(node.inputs[_WEIGHT.get(node.op, 1)]), facts.shape(node.outputs[0])
    return None if weight is None or out is None else prod(out) * prod(weight[1:])


def _conv_transpose(node: Node, facts: Facts) -> int | None:
    weight, data = facts.shape(node.inputs[1]), facts.shape(node.inputs[0])
    return None if weight is None or data is None else prod(data) * prod(weight[1:])


def _matmul(node: Node, facts: Facts) -> int | None:
    left, out = facts.shape(node.inputs[0]), facts.shape(node.outputs[0])
    return None if not left or out is None else prod(out) * left[-1]


def _gemm(node: Node, facts: Facts) -> int | None:
    left, out = facts.shape(node.inputs[0]), facts.shape(node.outputs[0])
    return None if left is None or out is None else prod(out) * left[0 if node.attrs.get("transA", 0) else 1]


def _recurrent(node: Node, facts: Facts) -> int | None:
    data, weight, recurrence = (facts.shape(t) for t in node.inputs[:3])
    if data is None or weight is None or recurrence is None:
        return None
    return data[0] * data[1] * (prod(weight) + prod(recurrence))


def _matmul_nbits(node: Node, facts: Facts) -> int | None:
    out = facts.shape(node.outputs[0])
    return None if out is None else prod(out) * int(node.attrs["K"])


_WEIGHT = {"QLinearConv": 3}
_MACS: Mapping[str, Callable[[Node, Facts], int | None]] = {
    "Conv": _conv,
    "ConvInteger": _conv,
    "QLinearConv": _conv,
    "FusedConv": _conv,
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "MatMulNBits": _matmul_nbits,
    "Gemm": _gemm,
    "LSTM": _recurrent,
    "DynamicQuantizeLSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}
