"""Operators that numpy computes to the last bit as every runtime does: data movement and exactly defined arithmetic.

One row an operator. A row gives None for the types and opsets that it does not speak for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx

from graphopt.ir import Array, Constant, Node

Kernel: TypeAlias = "Callable[[Node, Sequence[Array], int], Array | None]"

_FAILURES = (ValueError, TypeError, IndexError, KeyError, OverflowError)


def exact(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    """The output of a node of ``ai.onnx`` with one output and all inputs given; None when there is no row for it.

    It may share memory with an input.
    """
    kernel = None if node.domain or len(node.outputs) != 1 else KERNELS.get(node.op)
    if kernel is None:
        return None
    try:
        with np.errstate(all="ignore"):
            return kernel(node, inputs, opset)
    except _FAILURES:
        return None


def _ints(values: Any) -> list[int]:
    return [int(v) for v in np.asarray(values).reshape(-1)]


def _axes(node: Node, inputs: Sequence[Array], opset: int) -> list[int] | None:
    if opset >= 13:
        return _ints(inputs[1]) if len(inputs) > 1 else None
    return node.attrs.get("axes")


def _reshape(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    if opset < 5:
        return None
    data, target = inputs[0], _ints(inputs[1])
    if not node.attrs.get("allowzero"):
        target = [data.shape[i] if d == 0 else d for i, d in enumerate(target)]
    return data.reshape(target)


def _unsqueeze(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    axes = _axes(node, inputs, opset)
    if axes is None:
        return None
    rank = inputs[0].ndim + len(axes)
    gone = {a % rank for a in axes}
    rest = iter(inputs[0].shape)
    return inputs[0].reshape([1 if i in gone else next(rest) for i in range(rank)])


def _squeeze(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    axes = _axes(node, inputs, opset)
    if axes is not None and not axes:
        return None
    return inputs[0].squeeze(None if axes is None else tuple(axes))


def _transpose(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    return inputs[0].transpose(node.attrs.get("perm"))


def _concat(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    return np.concatenate(inputs, node.attrs.get("axis", 1))


def _gather(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    return np.asarray(inputs[0].take(inputs[1], node.attrs.get("axis", 0)))


def _expand(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    return np.broadcast_to(inputs[0], np.broadcast_shapes(inputs[0].shape, tuple(_ints(inputs[1])))).copy()


def _identity(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    return inputs[0]


def _constant_of_shape(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    fill = node.attrs.get("value")
    fill = np.zeros(1, np.float32) if fill is None else np.asarray(fill.values if isinstance(fill, Constant) else fill)
    return np.full(_ints(inputs[0]), fill.reshape(-1)[0], fill.dtype)


def _shape(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    return np.array(inputs[0].shape[slice(node.attrs.get("start", 0), node.attrs.get("end"))], np.int64)


def _slice(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    if opset < 10:
        return None
    starts, ends = _ints(inputs[1]), _ints(inputs[2])
    axes = _ints(inputs[3]) if len(inputs) > 3 else list(range(len(starts)))
    steps = _ints(inputs[4]) if len(inputs) > 4 else [1] * len(starts)
    chosen: list[slice] = [slice(None)] * inputs[0].ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        chosen[axis] = picked(inputs[0].shape[axis], start, end, step)
    return inputs[0][tuple(chosen)]


def picked(extent: int, start: int, end: int, step: int) -> slice:
    """What Slice takes of an axis. Python's slices differ where they run backwards and begin or end before the axis."""
    return slice(max(start, -extent), None if end < -extent else end, step) if step < 0 else slice(start, end, step)


def _exact(compute: Callable[[Array, Array], Array]) -> Kernel:
    """Addition, subtraction and multiplication are correctly rounded everywhere."""

    def kernel(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
        plain = len(inputs) == 2 and all(i.dtype in (np.float32, np.float64, np.int64, np.int32) for i in inputs)
        if opset < 7 or not plain:
            return None
        return np.asarray(compute(inputs[0], inputs[1]))

    return kernel


def _divided(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    """Division: of floats correctly rounded, of integers cut towards zero."""
    a, b = inputs
    if opset < 7 or a.dtype != b.dtype:
        return None
    if a.dtype in (np.float32, np.float64):
        return np.asarray(a / b)
    if a.dtype not in (np.int32, np.int64) or np.any(b == 0) or any(np.any(i == np.iinfo(i.dtype).min) for i in inputs):
        return None
    return np.asarray(np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b)), a.dtype)


def _root(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    """The square root of what has one, correctly rounded everywhere."""
    if inputs[0].dtype not in (np.float32, np.float64) or not np.all(inputs[0] >= 0):
        return None
    return np.asarray(np.sqrt(inputs[0]))


def _where(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    return np.asarray(np.where(*inputs)) if inputs[1].dtype == inputs[2].dtype != object else None


def _compared(compute: Callable[[Array, Array], Any]) -> Kernel:
    """Comparison of numbers of one type."""

    def kernel(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
        same = inputs[0].dtype == inputs[1].dtype and inputs[0].dtype.kind in "biuf"
        return np.asarray(compute(inputs[0], inputs[1])) if opset >= 7 and same else None

    return kernel


def _logical(compute: Callable[[Array, Array], Any]) -> Kernel:
    def kernel(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
        return np.asarray(compute(inputs[0], inputs[1])) if opset >= 7 else None

    return kernel


def _unary(compute: Callable[[Array], Any]) -> Kernel:
    """Rounding and signs: no digit is made up."""

    def kernel(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
        plain = opset >= 6 and inputs[0].dtype in (np.float32, np.float64, np.int32, np.int64)
        return np.asarray(compute(inputs[0]), inputs[0].dtype) if plain else None

    return kernel


def _range(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    """Of integers; floats are added up differently here and there. A step of 0 is an error of the model."""
    if inputs[0].dtype not in (np.int32, np.int64):
        return None
    start, limit, delta = (int(i.reshape(())) for i in inputs)
    if delta == 0:
        return None
    made: Array = np.arange(start, limit, delta, dtype=inputs[0].dtype)
    return made


def _tile(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    return np.tile(inputs[0], _ints(inputs[1])) if opset >= 6 else None


def _not(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    return np.asarray(~inputs[0])


def _scatter_nd(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    """Without a reduction; where indices repeat, the order is the runtime's."""
    data, indices, updates = inputs
    if node.attrs.get("reduction", "none") not in ("none", b"none") or data.dtype == object:
        return None
    flat = indices.reshape(-1, indices.shape[-1])
    flat = np.where(flat < 0, flat + np.array(data.shape[: flat.shape[1]], flat.dtype), flat)
    if len(np.unique(flat, axis=0)) < len(flat):
        return None
    made = data.copy()
    made[tuple(np.moveaxis(indices, -1, 0))] = updates
    return made


def _cast(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    """Only casts that every machine does alike: to the same type, to a wider integer type, from integer to float."""
    kind = int(node.attrs["to"])
    if kind == onnx.TensorProto.STRING or inputs[0].dtype == object:
        return None
    target = onnx.helper.tensor_dtype_to_np_dtype(kind)
    if inputs[0].dtype == target:
        return inputs[0]
    safe = inputs[0].dtype.kind in "biu" and target.kind in "iu" and np.can_cast(inputs[0].dtype, target)
    safe = safe or (inputs[0].dtype.kind in "bi" and target in (np.float32, np.float64))
    return inputs[0].astype(target) if safe else None


KERNELS: Mapping[str, Kernel] = {
    "Reshape": _reshape,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Concat": _concat,
    "Gather": _gather,
    "Expand": _expand,
    "Identity": _identity,
    "ConstantOfShape": _constant_of_shape,
    "Shape": _shape,
    "Slice": _slice,
    "Cast": _cast,
    "Add": _exact(np.add),
    "Sub": _exact(np.subtract),
    "Mul": _exact(np.multiply),
    "Div": _divided,
    "Sqrt": _root,
    "Where": _where,
    "Equal": _compared(np.equal),
    "Greater": _compared(np.greater),
    "GreaterOrEqual": _compared(np.greater_equal),
    "Less": _compared(np.less),
    "LessOrEqual": _compared(np.less_equal),
    "And": _logical(np.logical_and),
    "Or": _logical(np.logical_or),
    "Not": _not,
    "Neg": _unary(np.negative),
    "Abs": _unary(np.abs),
    "Floor": _unary(np.floor),
    "Ceil": _unary(np.ceil),
    "Range": _range,
    "Tile": _tile,
    "ScatterND": _scatter_nd,
}
