"""How the weights of each layer are spread, before and after a run."""

from __future__ import annotations

from math import prod
from typing import TypeAlias

import numpy as np

from graphopt.analysis.layers import match_layers
from graphopt.graph import Graph
from graphopt.ir import Array, Node, Tensor, constant_value
from graphopt.results import WeightHistogram

_BINS = 61
_SAMPLE = 200_000


def weight_histograms(before: Graph, after: Graph, limit: int = 12) -> tuple[WeightHistogram, ...]:
    """Histograms of the layers with the most weights, in the same bins before and after; at most ``limit``.

    Quantized weights are shown as the floats they stand for. Large weights are thinned to 200,000 values.
    """
    rows = [(n, w, f) for n, w, f in match_layers(before, after) if f is not None and _is_float(w)]
    rows.sort(key=lambda r: -prod(r[1].shape or (0,)))  # type: ignore[arg-type]
    return tuple(_histogram(node, weight, *found) for node, weight, found in rows[:limit])


def _is_float(weight: Tensor) -> bool:
    value = constant_value(weight)
    return value is not None and value.dtype.kind == "f" and value.size > 1


def _histogram(node: Node, weight: Tensor, other: Node, other_weight: Tensor) -> WeightHistogram:
    one = _thin(constant_value(weight))
    two, step, grid = _dequantized(other, other_weight)
    kept = float(two.min()), float(two.max())
    low, high = min(float(one.min()), kept[0]), max(float(one.max()), kept[1])
    if not (np.isfinite(low) and np.isfinite(high)) or low == high:
        low, high = -1.0, 1.0
    counts = [tuple(int(c) for c in np.histogram(v, _BINS, (low, high))[0]) for v in (one, two)]
    return WeightHistogram(node.name or node.outputs[0].name, low, high, counts[0], counts[1], step, grid, kept)


Grid: TypeAlias = tuple[float, float]


def _dequantized(node: Node, weight: Tensor) -> tuple[Array, float | None, Grid | None]:
    """Values of a weight as floats; when it is quantized its median step and the ends of the widest grid."""
    value = constant_value(weight)
    assert value is not None
    user = next((n for n in weight.outputs if n.is_op("DequantizeLinear")), None)
    scale = None if user is None else constant_value(user.inputs[1])
    if value.dtype.kind == "f" or user is None or scale is None:
        return _thin(value), None, None
    step = float(np.median(scale))
    limits = np.iinfo(value.dtype) if value.dtype.kind in "iu" else None
    zero = constant_value(user.inputs[2]) if len(user.inputs) > 2 and not user.inputs[2].is_empty() else None
    middle = 0.0 if zero is None else float(np.median(zero.astype(np.float32)))
    widest = float(np.max(scale))
    grid = None if limits is None else ((limits.min - middle) * widest, (limits.max - middle) * widest)
    shape = [1] * value.ndim
    if scale.size > 1:
        axis = int(user.attrs.get("axis", 1))
        if scale.ndim != 1 or scale.size != value.shape[axis]:
            return _thin(value), step, None
        shape[axis] = scale.size
    middles = np.zeros((), np.float32) if zero is None else zero.astype(np.float32)
    centred = value.astype(np.float32) - middles.reshape(shape if middles.size > 1 else [1] * value.ndim)
    return _thin(centred * scale.reshape(shape)), step, grid


def _thin(value: Array | None) -> Array:
    assert value is not None
    flat = np.asarray(value, np.float32).reshape(-1)
    return flat[:: max(1, flat.size // _SAMPLE)]
