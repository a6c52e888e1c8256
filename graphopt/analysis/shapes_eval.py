"""Evaluation of small nodes whose inputs are all known: shape arithmetic, masks, tables. Nothing random."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from graphopt.analysis.opnames import ops
from graphopt.ir import Array, Node

Values: TypeAlias = "Sequence[Array | None]"

_RANDOM = frozenset(ops("RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Bernoulli"))
_HEAVY = frozenset(ops("Conv ConvTranspose LSTM GRU RNN Einsum NonMaxSuppression Unique StringNormalizer"))


def evaluate(node: Node, values: Values, opset: int, cap: int) -> list[Array] | None:
    """The outputs of ``node`` for these input values, or None: too large, random, or not computable here."""
    if node.op in _RANDOM or node.op in _HEAVY:
        return None
    direct = _DIRECT.get(node.op)
    try:
        with np.errstate(all="ignore"):
            if direct is not None:
                if not _fits(node, values, cap):
                    return None
                found = [direct(node, values)]
            else:
                found = _reference(node, values, opset)
    except (ValueError, TypeError, IndexError, KeyError, NotImplementedError, RuntimeError, AttributeError):
        return None
    if any(not isinstance(v, np.ndarray) or v.size > cap for v in found):
        return None
    return found


def _fits(node: Node, values: Values, cap: int) -> bool:
    if node.op in ("Expand", "ConstantOfShape"):
        target = values[-1]
        return target is not None and abs(int(np.prod(target, dtype=np.int64))) <= cap
    if node.op == "Range":
        start, limit, delta = (float(np.asarray(v).reshape(())) for v in values)
        return delta != 0 and abs((limit - start) / delta) <= cap
    if node.op == "Tile":
        return int(np.prod(_need(values, 1), dtype=np.int64)) * _need(values, 0).size <= cap
    return True


def _reference(node: Node, values: Values, opset: int) -> list[Array]:
    from onnx.reference import ReferenceEvaluator

    from graphopt.serde.exporter import GraphExporter, Weights

    proto = GraphExporter(Weights("none"))._node(node)
    session = ReferenceEvaluator(proto, opsets={"": opset})
    feeds = {t.name: np.array(v) for t, v in zip(node.inputs, values, strict=True) if v is not None}
    return [np.asarray(v) for v in session.run(None, feeds)]


def _need(values: Values, index: int) -> Array:
    value = values[index] if index < len(values) else None
    if value is None:
        raise ValueError("missing")
    return value


def _binary(function: Callable[..., Any]) -> Callable[[Node, Values], Array]:
    return lambda node, values: np.asarray(function(_need(values, 0), _need(values, 1)))


def _unary(function: Callable[..., Any]) -> Callable[[Node, Values], Array]:
    def run(node: Node, values: Values) -> Array:
        given = _need(values, 0)
        return np.asarray(function(given)).astype(given.dtype, copy=False)

    return run


def _div(node: Node, values: Values) -> Array:
    a, b = _need(values, 0), _need(values, 1)
    if a.dtype.kind not in "iu":
        return np.asarray(a / b)
    if np.any(b == 0):
        raise ValueError("division by zero")
    return np.asarray(np.trunc(np.true_divide(a, b)).astype(a.dtype))


def _axes(node: Node, values: Values) -> list[int] | None:
    if "axes" in node.attrs:
        return [int(a) for a in node.attrs["axes"]]
    return [int(a) for a in np.atleast_1d(_need(values, 1))] if len(values) > 1 and values[1] is not None else None


def _squeeze(node: Node, values: Values) -> Array:
    axes = _axes(node, values)
    return np.squeeze(_need(values, 0), None if axes is None else tuple(axes))


def _unsqueeze(node: Node, values: Values) -> Array:
    axes = _axes(node, values)
    if axes is None:
        raise ValueError("axes")
    return np.expand_dims(_need(values, 0), tuple(axes))


def _slice(node: Node, values: Values) -> Array:
    data = _need(values, 0)
    if len(values) > 1:
        starts, ends = _need(values, 1), _need(values, 2)
        axes = values[3] if len(values) > 3 and values[3] is not None else np.arange(len(starts))
        steps = values[4] if len(values) > 4 and values[4] is not None else np.ones(len(starts), np.int64)
    else:
        starts, ends = np.array(node.attrs["starts"]), np.array(node.attrs["ends"])
        axes = np.array(node.attrs.get("axes", range(len(starts))))
        steps = np.ones(len(starts), np.int64)
    index = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        n = data.shape[int(axis)]
        low, high = int(start), int(end)
        stop: int | None = high
        if step < 0 and high < -n:
            stop = None
        index[int(axis)] = slice(low, stop, int(step))
    return data[tuple(index)]


def _reshape(node: Node, values: Values) -> Array:
    data, wanted = _need(values, 0), [int(e) for e in _need(values, 1)]
    if not node.attrs.get("allowzero", 0):
        wanted = [data.shape[i] if e == 0 else e for i, e in enumerate(wanted)]
    return data.reshape(wanted)


def _constant_of_shape(node: Node, values: Values) -> Array:
    fill = node.attrs.get("value")
    value = np.zeros(1, np.float32) if fill is None else np.asarray(getattr(fill, "values", fill))
    return np.full([int(e) for e in _need(values, 0)], value.reshape(-1)[0], value.dtype)


def _range(node: Node, values: Values) -> Array:
    start, limit, delta = (np.asarray(v).reshape(()) for v in (_need(values, 0), _need(values, 1), _need(values, 2)))
    made: Array = np.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)
    return made


def _cast(node: Node, values: Values) -> Array:
    from onnx.helper import tensor_dtype_to_np_dtype

    return _need(values, 0).astype(tensor_dtype_to_np_dtype(node.attrs["to"]))


def _gather(node: Node, values: Values) -> Array:
    return np.asarray(np.take(_need(values, 0), _need(values, 1), axis=node.attrs.get("axis", 0)))


def _concat(node: Node, values: Values) -> Array:
    return np.concatenate([_need(values, i) for i in range(len(values))], axis=node.attrs["axis"])


def _where(node: Node, values: Values) -> Array:
    return np.where(_need(values, 0), _need(values, 1), _need(values, 2))


def _transpose(node: Node, values: Values) -> Array:
    return np.transpose(_need(values, 0), node.attrs.get("perm"))


def _expand(node: Node, values: Values) -> Array:
    data, shape = _need(values, 0), tuple(int(e) for e in _need(values, 1))
    return np.broadcast_to(data, np.broadcast_shapes(data.shape, shape))


def _tile(node: Node, values: Values) -> Array:
    return np.tile(_need(values, 0), _need(values, 1))


_DIRECT: Mapping[str, Callable[[Node, Values], Array]] = {
    "Add": _binary(np.add),
    "Sub": _binary(np.subtract),
    "Mul": _binary(np.multiply),
    "Div": _div,
    "Equal": _binary(np.equal),
    "Greater": _binary(np.greater),
    "Less": _binary(np.less),
    "LessOrEqual": _binary(np.less_equal),
    "GreaterOrEqual": _binary(np.greater_equal),
    "And": _binary(np.logical_and),
    "Or": _binary(np.logical_or),
    "Not": lambda node, values: np.asarray(np.logical_not(_need(values, 0))),
    "Floor": _unary(np.floor),
    "Ceil": _unary(np.ceil),
    "Sqrt": _unary(np.sqrt),
    "Neg": _unary(np.negative),
    "Abs": _unary(np.abs),
    "Identity": lambda node, values: _need(values, 0),
    "Reciprocal": _unary(np.reciprocal),
    "Cast": _cast,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Reshape": _reshape,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Gather": _gather,
    "Concat": _concat,
    "Where": _where,
    "Transpose": _transpose,
    "Expand": _expand,
    "Tile": _tile,
}
