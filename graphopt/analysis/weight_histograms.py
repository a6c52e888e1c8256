"""How the weights of each layer are spread, before and after a run."""

from __future__ import annotations

from math import prod

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
    two, step = _dequantized(other, other_weight)
    low, high = float(min(one.min(), two.min())), float(max(one.max(), two.max()))
    if not (np.isfinite(low) and np.isfinite(high)) or low == high:
        low, high = -1.0, 1.0
    counts = [tuple(int(c) for c in np.histogram(v, _BINS, (low, high))[0]) for v in (one, two)]
    return WeightHistogram(node.name or node.outputs[0].name, low, high, counts[0], counts[1], step)


def _dequantized(node: Node, weight: Tensor) -> tuple[Array, float | None]:
    """Values of a weight as floats, and the median quantization step when it is quantized."""
    value = constant_value(weight)
    assert value is not None
    user = next((n for n in weight.outputs if n.is_op("DequantizeLinear")), None)
    if value.dtype.kind == "f" or user is None:
        return _thin(value), None
    scale = constant_value(user.inputs[1])
    if scale is None:
        return _thin(value), None
    shape = [1] * value.ndim
    if scale.ndim == 1 and scale.size > 1:
        shape[int(user.attrs.get("axis", 1))] = scale.size
        if scale.size != value.shape[int(user.attrs.get("axis", 1))]:
            return _thin(value), float(np.median(scale))
    elif scale.size > 1:
        return _thin(value), float(np.median(scale))
    return _thin(value.astype(np.float32) * scale.reshape(shape)), float(np.median(scale))


def _thin(value: Array | None) -> Array:
    assert value is not None
    flat = np.asarray(value, np.float32).reshape(-1)
    return flat[:: max(1, flat.size // _SAMPLE)]
