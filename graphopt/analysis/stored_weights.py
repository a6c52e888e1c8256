"""Weights as a model stores them: their real shape, their precision, and the numbers that integers stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from graphopt.ir import Array, Node, Tensor, constant_node, constant_value, is_constant
from graphopt.targets.qoperators import CONVERTIBLE

_PACKED = ("MatMulNBits",)
_NARROW = {
    np.dtype(ml_dtypes.int4): (-8, 7),
    np.dtype(ml_dtypes.uint4): (0, 15),
    np.dtype(ml_dtypes.int2): (-2, 1),
    np.dtype(ml_dtypes.uint2): (0, 3),
}


@dataclass(frozen=True)
class StoredValues:
    """A weight as numbers, float32. ``step`` and ``grid``: the quantization step (median) and the ends of the widest
    grid, None for a float weight."""

    values: Array
    step: float | None = None
    grid: tuple[float, float] | None = None


def stored_shape(node: Node, weight: Tensor) -> tuple[int, ...]:
    """The shape of the matrix or kernel that a weight stands for: packed integers unpacked, [inputs, outputs]."""
    if node.op in _PACKED:
        return int(node.attrs["K"]), int(node.attrs["N"])
    holder = constant_node(weight)
    if holder is not None and "value" in holder.attrs:
        return tuple(int(d) for d in holder.attrs["value"].shape)
    return tuple(int(d) for d in weight.shape or ())  # type: ignore[arg-type]


def stored_precision(node: Node, weight: Tensor) -> str:
    """The type that a weight is stored in; for packed integers their bits."""
    if node.op in _PACKED:
        return f"int{int(node.attrs.get('bits', 4))}"
    return str(weight.dtype)


def stored_values(node: Node, weight: Tensor) -> StoredValues | None:
    """The numbers that a weight of ``node`` stands for; None when its scale is not found or does not fit."""
    value = constant_value(weight)
    if value is None:
        return None
    if node.op in _PACKED:
        return _unpacked(node, value)
    if value.dtype.kind == "f" or value.dtype == ml_dtypes.bfloat16:
        return StoredValues(value.astype(np.float32))
    found = _scale_of(node, weight)
    if found is None:
        return None
    scale, zero, axis, block = found
    return _on_grid(value, scale, zero, axis, block)


def _scale_of(node: Node, weight: Tensor) -> tuple[Array, Array | None, int, int] | None:
    """Scale, zero point, axis and block size of an integer weight: of its DequantizeLinear, of the operator itself, or
    of the multiplication behind an integer product."""
    user = next((n for n in weight.outputs if n.op == "DequantizeLinear" and n.inputs[0] is weight), None)
    if user is not None:
        scale = constant_value(user.inputs[1])
        zero = _optional(user, 2)
        axis, block = int(user.attrs.get("axis", 1)), int(user.attrs.get("block_size", 0))
        return None if scale is None else (scale, zero, axis, block)
    row = CONVERTIBLE.get(node.op)
    if row is not None and row.weight is not None:
        _, scale_at, zero_at = row.operands[row.weight]
        scale = constant_value(node.inputs[scale_at])
        axis = 0 if row.op == "Conv" or node.attrs.get("transB", 0) else -1
        return None if scale is None else (scale, _optional(node, zero_at), axis, 0)
    if node.op in ("MatMulInteger", "ConvInteger"):
        scale = _factor_behind(node.outputs[0])
        axis = 0 if node.op == "ConvInteger" else -1
        return None if scale is None else (scale, _optional(node, 3), axis, 0)
    return None


def _factor_behind(product: Tensor) -> Array | None:
    """The constant factor of an integer product: Cast, then Mul by (scale of the input times scale of the weight)."""
    tensor = product
    while len(tensor.outputs) == 1:
        reader = tensor.outputs[0]
        if reader.op == "Mul":
            other = reader.inputs[1] if reader.inputs[0] is tensor else reader.inputs[0]
            scales = other.inputs[0] if other.inputs else None
            parts = [other] if scales is None or scales.op != "Mul" else list(scales.inputs)
            return next((constant_value(p) for p in parts if is_constant(p)), None)
        if reader.op != "Cast":
            return None
        tensor = reader.outputs[0]
    return None


def _on_grid(value: Array, scale: Array, zero: Array | None, axis: int, block: int) -> StoredValues | None:
    middle = np.zeros((), np.float32) if zero is None else zero.astype(np.float32)
    scale = scale.astype(np.float32)
    if block:
        scale, middle = (
            np.take(np.repeat(a, block, axis), range(value.shape[axis]), axis) if a.ndim else a for a in (scale, middle)
        )
    elif scale.size > 1:
        shape = [1] * value.ndim
        shape[axis] = scale.size
        if scale.ndim > 1 or scale.size != value.shape[axis]:
            return None
        scale, middle = scale.reshape(shape), middle.reshape(shape) if middle.size > 1 else middle
    low, high = _limits(value.dtype)
    centre, widest = float(np.median(middle)), float(np.max(scale))
    numbers = (value.astype(np.float32) - middle) * scale
    return StoredValues(numbers, float(np.median(scale)), ((low - centre) * widest, (high - centre) * widest))


def _limits(dtype: np.dtype[Any]) -> tuple[float, float]:
    if dtype in _NARROW:
        return _NARROW[dtype]
    limits: Any = np.iinfo(dtype) if dtype.kind in "iu" else ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    return float(limits.min), float(limits.max)


def _unpacked(node: Node, packed: Array) -> StoredValues | None:
    """The matrix of MatMulNBits, [outputs, inputs]: low bits first, a scale for each block of inputs."""
    bits, block = int(node.attrs.get("bits", 4)), int(node.attrs["block_size"])
    rows, columns = int(node.attrs["N"]), int(node.attrs["K"])
    scale = constant_value(node.inputs[2])
    if scale is None or bits not in (2, 4, 8):
        return None
    blocks = -(-columns // block)
    zero = _optional(node, 3)
    middle = np.float32(2 ** (bits - 1)) if zero is None else _zeros(zero, bits, rows, blocks)
    scale = scale.astype(np.float32).reshape(rows, blocks, 1)
    stored = _spread(packed, bits).reshape(rows, blocks, block).astype(np.float32)
    numbers = ((stored - middle) * scale).reshape(rows, -1)[:, :columns]
    widest, centre = float(np.max(np.abs(scale))), float(np.median(middle))
    grid = (-centre * widest, (2**bits - 1 - centre) * widest)
    return StoredValues(numbers, float(np.median(np.abs(scale))), grid)


def _zeros(zero: Array, bits: int, rows: int, blocks: int) -> Array:
    if zero.dtype != np.uint8:
        return zero.astype(np.float32).reshape(rows, blocks, 1)
    return _spread(zero.reshape(rows, -1), bits)[:, :blocks].astype(np.float32).reshape(rows, blocks, 1)


def _spread(packed: Array, bits: int) -> Array:
    """Integers of 2, 4 or 8 bits out of bytes, along the last axis."""
    parts = [(packed >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(*packed.shape[:-1], -1)


def _optional(node: Node, index: int) -> Array | None:
    given = len(node.inputs) > index and not node.inputs[index].is_empty()
    return constant_value(node.inputs[index]) if given else None
