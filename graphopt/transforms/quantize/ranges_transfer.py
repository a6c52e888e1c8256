"""What the scalar functions behind a tensor make of its values, so that ranges are judged where the values are used.

HardSwish, for example, gives 0 for everything under -3: steps spent there are wasted, and clipping there is free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from graphopt.ir import Array, Node, Tensor, constant_value, is_constant

ScalarOp: TypeAlias = Callable[[list[Any], Mapping[str, Any]], Any]
_MOST_NODES = 12


@dataclass(frozen=True)
class Transfer:
    """Scalar nodes that depend on one tensor only, in order, and the tensors among them that others read."""

    source: Tensor
    nodes: tuple[Node, ...]
    ends: tuple[Tensor, ...]

    def __call__(self, values: Array) -> list[Array]:
        """What each end becomes for the given values of the source."""
        known: dict[int, Any] = {id(self.source): values}
        for node in self.nodes:
            inputs = [_operand(t, known) for t in node.inputs]
            known[id(node.outputs[0])] = SCALAR_OPS[node.op](inputs, node.attrs)
        return [np.broadcast_to(np.asarray(known[id(t)], np.float64), values.shape) for t in self.ends]


def transfer_of(tensor: Tensor, outputs: set[int]) -> Transfer | None:
    """The scalar functions behind ``tensor``; None when it is used as it is. ``outputs``: ids of graph outputs."""
    inside: dict[int, Tensor] = {id(tensor): tensor}
    nodes: list[Node] = []
    queue = list(tensor.outputs)
    while queue and len(nodes) <= _MOST_NODES:
        node = queue.pop(0)
        if any(node is n for n in nodes) or not _is_scalar(node, inside):
            continue
        nodes.append(node)
        inside[id(node.outputs[0])] = node.outputs[0]
        queue.extend(node.outputs[0].outputs)
    members = {id(n) for n in nodes}
    ends = [t for k, t in inside.items() if k in outputs or any(id(n) not in members for n in t.outputs)]
    if not nodes or any(t is tensor for t in ends):
        return None
    return Transfer(tensor, tuple(nodes), tuple(ends))


def _is_scalar(node: Node, inside: Mapping[int, Tensor]) -> bool:
    if node.domain or node.op not in SCALAR_OPS or len(node.outputs) != 1:
        return False
    for tensor in node.inputs:
        if tensor.is_empty() or id(tensor) in inside:
            continue
        value = constant_value(tensor) if is_constant(tensor) else None
        if value is None or value.size != 1 or value.dtype.kind != "f":
            return False
    return True


def _operand(tensor: Tensor, known: Mapping[int, Any]) -> Any:
    if tensor.is_empty():
        return None
    if id(tensor) in known:
        return known[id(tensor)]
    value = constant_value(tensor)
    assert value is not None
    return float(value.reshape(()))


def _sigmoid(x: Any) -> Any:
    return 1.0 / (1.0 + np.exp(-np.clip(x, -60, 60)))


def _erf(x: Any) -> Any:
    from scipy.special import erf

    return erf(x)


def _clip(inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
    low = inputs[1] if len(inputs) > 1 and inputs[1] is not None else attrs.get("min", -np.inf)
    high = inputs[2] if len(inputs) > 2 and inputs[2] is not None else attrs.get("max", np.inf)
    return np.clip(inputs[0], low, high)


def _hard_sigmoid(x: Any, alpha: float, beta: float) -> Any:
    return np.clip(alpha * x + beta, 0.0, 1.0)


def _gelu(x: Any, approximate: Any) -> Any:
    if approximate in ("tanh", b"tanh"):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + _erf(x / np.sqrt(2)))


SCALAR_OPS: Mapping[str, ScalarOp] = {
    "Add": lambda i, a: i[0] + i[1],
    "Sub": lambda i, a: i[0] - i[1],
    "Mul": lambda i, a: i[0] * i[1],
    "Div": lambda i, a: i[0] / np.where(np.asarray(i[1]) == 0, 1e-12, i[1]),
    "Relu": lambda i, a: np.maximum(i[0], 0),
    "LeakyRelu": lambda i, a: np.where(i[0] < 0, a.get("alpha", 0.01) * i[0], i[0]),
    "Clip": _clip,
    "Sigmoid": lambda i, a: _sigmoid(i[0]),
    "Tanh": lambda i, a: np.tanh(i[0]),
    "Erf": lambda i, a: _erf(i[0]),
    "HardSigmoid": lambda i, a: _hard_sigmoid(i[0], a.get("alpha", 0.2), a.get("beta", 0.5)),
    "HardSwish": lambda i, a: i[0] * _hard_sigmoid(i[0], 1 / 6, 0.5),
    "Gelu": lambda i, a: _gelu(i[0], a.get("approximate", "none")),
    "Softplus": lambda i, a: np.logaddexp(0, i[0]),
    "Neg": lambda i, a: -i[0],
    "Abs": lambda i, a: np.abs(i[0]),
}
