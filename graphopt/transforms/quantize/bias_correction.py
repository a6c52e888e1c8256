"""Takes the mean error that quantization makes in each channel out again, through the biases.

``expected_shift`` is the analytic form (Nagel et al. 2019, "Data-free quantization through weight equalization and bias
correction", with measured input means): what rounded weights add to the mean of each output. ``correct_biases`` is the
empirical one: the quantized model is run, layer outputs are compared with those of the float model, and the difference
of the means goes into the bias, block by block in the order of computation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.analysis.statistics import ChannelMoments, ChannelMomentsAccumulator, Request, collect
from graphopt.data.feeds import Dataset
from graphopt.ir import Array, Constant
from graphopt.model import Model

_RIDGE = 0.02


@dataclass(frozen=True)
class CorrectedLayer:
    """A layer whose bias can be changed.

    ``float_output`` and ``output`` name its output, before the activation, in the float and the quantized model;
    ``bias`` holds int32 steps of ``scale``, or floats when ``scale`` is None. ``axis`` has the channels.
    """

    label: str
    float_output: str
    output: str
    axis: int
    bias: Constant
    scale: Array | None


def expected_shift(weight: Array, rounded: Array, means: Array, axis: int, groups: int = 1) -> Array:
    """Mean of ``(rounded - weight) x`` for each output channel, when input channel c has the mean ``means[c]``.

    ``axis`` has the output channels; the other of the first two axes (the first for a matrix) the inputs of a group.
    Padding is ignored.
    """
    error = np.moveaxis(rounded.astype(np.float64) - weight, axis, 0)
    error = error.reshape(*error.shape[:2], -1).sum(axis=2)
    per_group = error.reshape(groups, -1, error.shape[1])
    shift = np.einsum("goi,gi->go", per_group, means.reshape(groups, -1))
    return np.asarray(shift.reshape(-1))


def correct_biases(
    reference: Model,
    quantized: Model,
    layers: Sequence[CorrectedLayer],
    data: Dataset,
    blocks: int,
    batch: int | None,
    max_memory: int,
) -> Mapping[str, float]:
    """Correct ``layers`` (in order of computation) of ``quantized`` in place, in so many blocks one after another.

    Later blocks see what the correction of earlier ones changed. A shift is shrunk by its own uncertainty. Gives the
    largest shift of each layer, in standard deviations of the channel.
    """
    wanted = {la.label: Request.of(la.float_output, ChannelMoments(la.axis)) for la in layers}
    float_stats = collect(reference, data, wanted.values(), batch=batch, max_memory=max_memory)
    largest: dict[str, float] = {}
    for block in _cut(layers, blocks):
        requests = {la.label: Request.of(la.output, ChannelMoments(la.axis)) for la in block}
        stats = collect(quantized, data, requests.values(), batch=batch, max_memory=max_memory)
        for layer in block:
            want = float_stats.typed(wanted[layer.label], ChannelMomentsAccumulator)
            have = stats.typed(requests[layer.label], ChannelMomentsAccumulator)
            shift = want.mean - have.mean
            noise = want.variance * _RIDGE / max(stats.samples, 1)
            shift = shift * shift**2 / (shift**2 + noise + 1e-30)
            deviation = np.sqrt(np.maximum(want.variance, 1e-6 * want.variance.mean())) + 1e-12
            largest[layer.label] = float(np.abs(shift / deviation).max(initial=0.0))
            _shift_bias(quantized, layer, shift)
    return largest


def _cut(layers: Sequence[CorrectedLayer], blocks: int) -> Iterator[Sequence[CorrectedLayer]]:
    size = -(-len(layers) // max(1, blocks))
    for start in range(0, len(layers), max(1, size)):
        yield layers[start : start + size]


def _shift_bias(model: Model, layer: CorrectedLayer, shift: Array) -> None:
    values = layer.bias.values
    flat = values.reshape(-1)
    if shift.size != flat.size:
        return
    if layer.scale is None:
        changed = (flat.astype(np.float64) + shift).astype(values.dtype)
    else:
        steps = np.rint(shift / layer.scale.astype(np.float64))
        changed = np.clip(flat.astype(np.float64) + steps, -(2**31), 2**31 - 1).astype(np.int32)
    model.graph.set_weight(layer.bias, changed.reshape(values.shape))
