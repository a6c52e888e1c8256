"""Quantizing weights: scale per tensor or per channel, plain rounding, and the range that minimises the error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.ir import Array
from graphopt.targets.base import IntType

_REDUCED_BITS = 64
_SHRINKS = np.linspace(1.0, 0.4, 31)
_BIAS_LIMIT = 2.0**30


@dataclass(frozen=True)
class QuantizedWeight:
    """``stored`` integers; real = (stored - zero_point) * scale. ``scale`` is float32, a scalar or along ``axis``."""

    stored: Array
    scale: Array
    axis: int | None
    zero_point: int
    type: IntType

    @property
    def real(self) -> Array:
        """The values that the integers stand for, float32."""
        return ((self.stored.astype(np.float32) - np.float32(self.zero_point)) * along(self.scale, self)).astype(
            np.float32
        )


def along(scale: Array, weight: QuantizedWeight) -> Array:
    """A scale shaped to broadcast against the weight."""
    return spread(scale, weight.axis, weight.stored.ndim)


def spread(scale: Array, axis: int | None, rank: int) -> Array:
    """A vector along ``axis`` shaped to broadcast against a tensor of ``rank``; a scalar stays one."""
    if axis is None:
        return scale
    shape = [1] * rank
    shape[axis] = -1
    return scale.reshape(shape)


def limits(kind: IntType, reduced: bool) -> tuple[int, int, int]:
    """Lowest and highest stored value and zero point of symmetric weights; ``reduced`` leaves one bit unused."""
    if kind.low == 0:
        middle = (kind.high + 1) // 2
        half = middle - 1
        return middle - half, middle + half, middle
    half = min(kind.high, _REDUCED_BITS - 1) if reduced and kind.high >= _REDUCED_BITS else kind.high
    return -half, half, 0


def weight_scale(weight: Array, axis: int | None, kind: IntType, reduced: bool = False, search: bool = False) -> Array:
    """Symmetric scales, float32: the largest magnitude, or with ``search`` the shrunk one of least squared error.

    A channel of zeros gets the scale of the whole tensor (1 when that is zero too).
    """
    _, high, zero = limits(kind, reduced)
    flat = _channels(weight, axis)
    bound = np.abs(flat).max(axis=1, initial=0.0).astype(np.float64)
    if search:
        bound = bound * _best_shrink(flat, bound, high - zero)
    whole = float(bound.max(initial=0.0)) or float(high - zero)
    bound = np.where(bound > whole * 1e-12, bound, whole)
    scale = (bound / (high - zero)).astype(np.float32)
    scale = np.maximum(scale, np.float32(np.finfo(np.float32).tiny))
    return scale if axis is not None else scale.reshape(())


def raise_for_bias(scale: Array, bias: Array | None, activation_scale: float) -> Array:
    """Scales large enough that ``bias / (activation_scale * scale)`` fits an int32; most stay as they are."""
    if bias is None or scale.ndim == 0:
        return scale
    floor = np.abs(bias.astype(np.float64)) / (activation_scale * _BIAS_LIMIT)
    return np.maximum(scale, floor.astype(np.float32))


def quantize_weight(
    weight: Array, scale: Array, axis: int | None, kind: IntType, reduced: bool = False
) -> QuantizedWeight:
    """Round to nearest (ties to even, as QuantizeLinear)."""
    low, high, zero = limits(kind, reduced)
    real = spread(scale.astype(np.float64), axis, weight.ndim)
    stored = kind.store(np.rint(weight / real) + zero if zero else weight / real, low, high)
    return QuantizedWeight(stored, scale, axis, zero, kind)


def _channels(weight: Array, axis: int | None) -> Array:
    if axis is None:
        return weight.reshape(1, -1)
    return np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)


def _best_shrink(flat: Array, bound: Array, steps: int) -> Array:
    best = np.full(len(flat), np.inf)
    chosen = np.ones(len(flat))
    safe = np.where(bound > 0, bound, 1.0)
    for shrink in _SHRINKS:
        scale = (safe * shrink / steps)[:, None]
        rounded = np.clip(np.rint(flat / scale), -steps, steps) * scale
        error = np.square(rounded - flat).sum(axis=1)
        better = error < best
        best, chosen = np.where(better, error, best), np.where(better, shrink, chosen)
    return chosen
