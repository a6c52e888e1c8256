"""Rounding weights so that the layer's output changes least, in closed form from the Gram matrix of its inputs.

GPTQ (Frantar et al. 2022), which is optimal brain quantization with a fixed order: inputs are rounded one after
another, the error of each is spread over those still to come. The Gram matrix is centred, since the bias takes up
the mean, and the noise of quantized activations is added to its diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from graphopt.analysis.statistics import Channels, GramAccumulator, Patches, Window
from graphopt.ir import Array, Node
from graphopt.targets.base import IntType
from graphopt.transforms.quantize.weight_grids import QuantizedWeight, limits

MAX_FEATURES = MappingProxyType({"fast": 1152, "best": 4608})
"""Inputs of a layer up to which its rounding is learned, by effort: the time grows with their third power."""

_BLOCK = 128
_DAMPING = 0.01
_SHRINKS = np.linspace(1.0, 0.5, 26)


def patches_of(node: Node, weight_shape: tuple[int, ...], positions: int | None) -> Patches | None:
    """How to cut the input of a layer into rows; None where that is not known (grouped matrices, odd kernels)."""
    if node.op in ("MatMul", "Gemm"):
        return Channels(-1, limit=positions) if len(weight_shape) == 2 and not node.attrs.get("transA", 0) else None
    if node.op != "Conv":
        return None
    rank = len(weight_shape) - 2
    attrs = node.attrs
    auto = attrs.get("auto_pad", "NOTSET")
    return Window(
        kernel=weight_shape[2:],
        strides=tuple(attrs.get("strides", (1,) * rank)),
        dilations=tuple(attrs.get("dilations", (1,) * rank)),
        pads=tuple(attrs.get("pads", (0,) * (2 * rank))),
        groups=int(attrs.get("group", 1)),
        auto_pad=auto.decode() if isinstance(auto, bytes) else str(auto),
        limit=positions,
    )


@dataclass(frozen=True)
class Rounded:
    """A rounded weight, and what it adds to the mean of each output channel (to be taken off the bias)."""

    weight: QuantizedWeight
    shift: Array


def round_weight(
    weight: Array,
    axis: int,
    gram: GramAccumulator,
    scale: Array,
    kind: IntType,
    reduced: bool,
    activation_step: float,
    search: bool,
) -> Rounded:
    """Round ``weight`` (output channels on ``axis``) to per-channel symmetric integers.

    Args:
        gram: of the layer's input rows, features ordered as the weight's other axes.
        scale: the scale of each channel to start from; float32 [channels].
        activation_step: step of the quantized input; its rounding noise is step^2 / 12 a feature.
        search: also look for smaller scales (for few bits), by the error weighted with the inputs' energy.
    """
    low, high, zero = limits(kind, reduced)
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float64)
    groups = gram.matrix.shape[0]
    per_group = len(rows) // groups
    stored = np.empty_like(rows)
    scales = scale.astype(np.float64).copy()
    shift = np.empty(len(rows))
    for group in range(groups):
        part = slice(group * per_group, (group + 1) * per_group)
        hessian, mean = _centred(gram.matrix[group], activation_step)
        if search:
            scales[part] = _searched(rows[part], scales[part], np.diag(hessian), high - zero)
        stored[part] = gptq(rows[part], hessian, scales[part, None], low - zero, high - zero)
        scales[part] = _refined(rows[part], stored[part], hessian, scales[part])
        shift[part] = (stored[part] * scales[part, None] - rows[part]) @ mean
    single = scales.astype(np.float32)
    shape = np.moveaxis(weight, axis, 0).shape
    integers = np.moveaxis((stored + zero).reshape(shape), 0, axis).astype(kind.dtype)
    return Rounded(QuantizedWeight(np.ascontiguousarray(integers), single, axis, zero, kind), shift)


def _centred(matrix: Array, step: float) -> tuple[Array, Array]:
    """Covariance of the features with the activations' rounding noise and some damping, and their mean."""
    count = max(float(matrix[-1, -1]), 1.0)
    mean = matrix[-1, :-1] / count
    covariance = matrix[:-1, :-1] / count - np.outer(mean, mean)
    diagonal = np.arange(len(covariance))
    average = float(np.trace(covariance)) / max(len(covariance), 1)
    covariance[diagonal, diagonal] += step**2 / 12 + _DAMPING * max(average, 1e-12)
    return covariance, mean


def gptq(rows: Array, hessian: Array, steps: Array, low: Array | int, high: Array | int) -> Array:
    """Integers, float64 [rows, features]; the features with most energy first.

    ``steps``, ``low`` and ``high`` broadcast against ``rows``: a scale and limits for each row, or for each weight.
    """
    order = np.argsort(-np.diag(hessian), kind="stable")
    step, least, most = (np.broadcast_to(v, rows.shape)[:, order] for v in (steps, low, high))
    inverse = np.linalg.inv(hessian[np.ix_(order, order)])
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T
    work = rows[:, order].copy()
    found = np.empty_like(work)
    count = work.shape[1]
    for start in range(0, count, _BLOCK):
        end = min(start + _BLOCK, count)
        errors = np.empty((len(work), end - start))
        for j in range(start, end):
            rounded = np.clip(np.rint(work[:, j] / step[:, j]), least[:, j], most[:, j])
            found[:, j] = rounded
            error = (work[:, j] - rounded * step[:, j]) / upper[j, j]
            work[:, j:end] -= np.outer(error, upper[j, j:end])
            errors[:, j - start] = error
        work[:, end:] -= errors @ upper[start:end, end:]
    result = np.empty_like(found)
    result[:, order] = found
    return result


def _searched(rows: Array, scales: Array, energy: Array, steps: int) -> Array:
    best = np.full(len(rows), np.inf)
    chosen = scales.copy()
    for shrink in _SHRINKS:
        step = scales * shrink
        rounded = np.clip(np.rint(rows / step[:, None]), -steps, steps) * step[:, None]
        error = np.square(rounded - rows) @ energy
        better = error < best
        best, chosen = np.where(better, error, best), np.where(better, step, chosen)
    return chosen


def _refined(rows: Array, stored: Array, hessian: Array, scales: Array) -> Array:
    """The scale of least output error for the integers found: (w H q) / (q H q) for each row."""
    weighted = stored @ hessian
    energy = np.einsum("ij,ij->i", weighted, stored)
    projected = np.einsum("ij,ij->i", weighted, rows)
    good = (energy > 0) & (projected > 0)
    refined = np.where(good, projected / np.where(good, energy, 1.0), scales)
    return np.clip(refined, 0.8 * scales, 1.2 * scales)
