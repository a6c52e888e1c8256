"""How the weights of each layer are spread, before and after a run."""

from __future__ import annotations

from itertools import islice
from math import prod

import numpy as np

from graphopt.analysis.layers import LayerMatch, match_layers
from graphopt.analysis.stored_weights import stored_values
from graphopt.graph import Graph
from graphopt.ir import Array, Tensor, constant_value
from graphopt.results import WeightHistogram

_BINS = 61
_SAMPLE = 200_000


def weight_histograms(before: Graph, after: Graph, limit: int = 12) -> tuple[WeightHistogram, ...]:
    """Histograms of the layers with the most weights, in the same bins before and after; at most ``limit``.

    Quantized weights are shown as the floats they stand for. Large weights are thinned to 200,000 values.
    """
    rows = [m for m in match_layers(before, after) if m.now is not None and _is_float(m.weight)]
    rows.sort(key=lambda m: -prod(m.weight.shape or (0,)))  # type: ignore[arg-type]
    return tuple(islice((h for m in rows if (h := _histogram(m)) is not None), limit))


def _is_float(weight: Tensor) -> bool:
    value = constant_value(weight)
    return value is not None and value.dtype.kind == "f" and value.size > 1


def _histogram(match: LayerMatch) -> WeightHistogram | None:
    if match.now is None or match.now_weight is None:
        return None
    now = stored_values(match.now, match.now_weight)
    if now is None or not now.values.size:
        return None
    one, two = _thin(constant_value(match.weight)), _thin(now.values)
    kept = float(two.min()), float(two.max())
    low, high = min(float(one.min()), kept[0]), max(float(one.max()), kept[1])
    if not (np.isfinite(low) and np.isfinite(high)) or low == high:
        low, high = -1.0, 1.0
    counts = [tuple(int(c) for c in np.histogram(v, _BINS, (low, high))[0]) for v in (one, two)]
    name = match.node.name or match.node.outputs[0].name
    return WeightHistogram(name, low, high, counts[0], counts[1], now.step, now.grid, kept)


def _thin(value: Array | None) -> Array:
    assert value is not None
    flat = np.asarray(value, np.float32).reshape(-1)
    return flat[:: max(1, flat.size // _SAMPLE)]
