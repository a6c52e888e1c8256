"""The elementwise function that follows a tensor, as one numpy function: an activation node, or one in several nodes.

Exporters write GELU, SiLU and the like as several nodes. What counts here is only that everything that reads the tensor
is elementwise, with scalar constants, and comes together in one tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from graphopt.ir import Array, Node, Tensor, constant_value

_MOST_NODES = 12
_GRID = np.linspace(-8, 8, 4001, dtype=np.float32)
_STEEPEST = 2.0


@dataclass(frozen=True)
class Response:
    """An elementwise function, an upper bound of its slope, and the tensor that holds its values."""

    apply: Callable[[Array], Array]
    slope: float = 1.0
    end: Tensor | None = None


def response_of(tensor: Tensor, outputs: set[int]) -> Response | None:
    """The function that is all that ever reads the tensor; None when something else does.

    ``outputs`` are the graph's outputs by ``id``. Where several equal nodes follow, there is no single ``end``. The
    identity and functions steeper than 2 are no responses.
    """
    if id(tensor) in outputs or not tensor.outputs:
        return None
    region = _region(tensor, outputs)
    if region is None:
        return None
    nodes, ends = region
    functions = {id(n): _function(n) for n in nodes}

    def apply(values: Array) -> Array:
        found = {id(tensor): values}
        for node in nodes:
            found[id(node.outputs[0])] = functions[id(node)](*(_operand(t, found) for t in node.inputs))
        return np.asarray(found[id(ends[0])], values.dtype)

    with np.errstate(all="ignore"):
        sample = apply(_GRID)
        slope = float(np.abs(np.diff(sample) / np.diff(_GRID)).max())
    if not np.isfinite(sample).all() or not 0 < slope <= _STEEPEST or np.array_equal(sample, _GRID):
        return None
    return Response(apply, max(slope, 1.0) if slope > 0.5 else slope, ends[0] if len(ends) == 1 else None)


def _region(tensor: Tensor, outputs: set[int]) -> tuple[list[Node], list[Tensor]] | None:
    """Nodes that follow elementwise, in order, up to the last tensor that alone holds everything (or equal ones)."""
    first = tensor.outputs[0]
    if len(tensor.outputs) > 1 and all(_same(n, first) for n in tensor.outputs) and _usable(first, {id(tensor)}):
        return [first], [n.outputs[0] for n in tensor.outputs]
    nodes: list[Node] = []
    readers = {id(tensor): list(tensor.outputs)}
    found: tuple[list[Node], list[Tensor]] | None = None
    while len(nodes) < _MOST_NODES:
        ready = (n for waiting in readers.values() for n in waiting)
        node = next((n for n in ready if _usable(n, set(readers))), None)
        if node is None:
            break
        nodes.append(node)
        for key, waiting in readers.items():
            readers[key] = [n for n in waiting if n is not node]
        end = node.outputs[0]
        if not any(readers.values()):
            found = list(nodes), [end]
        if id(end) in outputs:
            break
        readers[id(end)] = list(end.outputs)
    return found


def _same(node: Node, other: Node) -> bool:
    return (
        node.op == other.op
        and node.domain == other.domain
        and node.attrs == other.attrs
        and [id(t) for t in node.inputs] == [id(t) for t in other.inputs]
    )


def _usable(node: Node, inside: set[int]) -> bool:
    """Whether the node is elementwise over tensors inside and scalar constants."""
    if node.domain or node.op not in _FUNCTIONS or len(node.outputs) != 1:
        return False
    given = [t for t in node.inputs if not t.is_empty()]
    return all(id(t) in inside or _scalar(t) is not None for t in given)


def _scalar(tensor: Tensor) -> Array | None:
    value = constant_value(tensor)
    if value is None or value.size != 1 or value.dtype.kind not in "fiu":
        return None
    return np.asarray(value.reshape(()), np.float32)


def _operand(tensor: Tensor, found: Mapping[int, Array]) -> Array | None:
    if tensor.is_empty():
        return None
    return found[id(tensor)] if id(tensor) in found else _scalar(tensor)


def _function(node: Node) -> Callable[..., Array]:
    return _FUNCTIONS[node.op](node)


def _clip(node: Node) -> Callable[..., Array]:
    low, high = np.float32(node.attrs.get("min", -np.inf)), np.float32(node.attrs.get("max", np.inf))
    return lambda x, a=None, b=None: np.clip(x, low if a is None else a, high if b is None else b)


def _leaky(node: Node) -> Callable[..., Array]:
    alpha = np.float32(node.attrs.get("alpha", 0.01))
    return lambda x: np.where(x > 0, x, alpha * x)


def _elu(node: Node) -> Callable[..., Array]:
    alpha = np.float32(node.attrs.get("alpha", 1.0))
    return lambda x: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _hard_sigmoid(node: Node) -> Callable[..., Array]:
    alpha, beta = np.float32(node.attrs.get("alpha", 0.2)), np.float32(node.attrs.get("beta", 0.5))
    return lambda x: np.clip(alpha * x + beta, 0, 1)


def _erf(x: Array) -> Array:
    from scipy.special import erf

    return np.asarray(erf(x))


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def _gelu(node: Node) -> Callable[..., Array]:
    if node.attrs.get("approximate", "none") in ("none", b"none"):
        return lambda x: 0.5 * x * (1 + _erf(x * np.float32(np.sqrt(0.5))))
    return lambda x: 0.5 * x * (1 + np.tanh(np.float32(np.sqrt(2 / np.pi)) * (x + 0.044715 * x**3)))


def _plain(function: Callable[..., Array]) -> Callable[[Node], Callable[..., Array]]:
    return lambda _: function


_FUNCTIONS: dict[str, Callable[[Node], Callable[..., Array]]] = {
    "Relu": _plain(lambda x: np.maximum(x, np.float32(0))),
    "Clip": _clip,
    "LeakyRelu": _leaky,
    "Elu": _elu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(lambda x: x * np.clip(x / 6 + np.float32(0.5), 0, 1)),
    "Sigmoid": _plain(_sigmoid),
    "Tanh": _plain(np.tanh),
    "Erf": _plain(_erf),
    "Softplus": _plain(lambda x: np.logaddexp(x, np.float32(0))),
    "Gelu": _gelu,
    "Add": _plain(np.add),
    "Sub": _plain(np.subtract),
    "Mul": _plain(np.multiply),
    "Div": _plain(np.divide),
    "Pow": _plain(np.power),
    "Neg": _plain(np.negative),
}
