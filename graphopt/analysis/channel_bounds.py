"""Proven bounds of channels: what no input can drive a channel of a float tensor below or above.

Interval arithmetic from values that are bounded by themselves (Clip, Sigmoid, Softmax, Relu from below) through
operators with constant weights. Infinite where nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from graphopt.graph import Graph
from graphopt.ir import Array, Node, Tensor, constant_value, is_constant

_MARGIN = 1e-5
"""For the rounding of float32, relative to the largest sum of magnitudes."""


@dataclass(frozen=True)
class Bounds:
    """``low`` and ``high`` of the channels on axis 1, float64 [channels] or [1] for all channels alike."""

    low: Array
    high: Array

    @property
    def finite(self) -> bool:
        """Whether all channels are bounded on both sides."""
        return bool(np.isfinite(self.low).all() and np.isfinite(self.high).all())


UNBOUNDED = Bounds(np.array([-np.inf]), np.array([np.inf]))
Row: TypeAlias = "Callable[[Node, Bounds], Bounds]"


def channel_bounds(graph: Graph) -> dict[int, Bounds]:
    """Bounds of the tensors of the main graph (sorted), by Python id; those without any are left out."""
    found: dict[int, Bounds] = {}
    for node in graph.nodes:
        if node.domain or len(node.outputs) != 1 or not node.inputs:
            continue
        made = _of(node, found)
        if np.isfinite(made.low).any() or np.isfinite(made.high).any():
            found[id(node.outputs[0])] = made
    return found


def _of(node: Node, found: Mapping[int, Bounds]) -> Bounds:
    given = found.get(id(node.inputs[0]), UNBOUNDED)
    if node.op == "Add" and not any(is_constant(t) for t in node.inputs):
        other = found.get(id(node.inputs[1]), UNBOUNDED)
        return _widened(given.low + other.low, given.high + other.high) if _alike(given, other) else UNBOUNDED
    row = _ROWS.get(node.op)
    return UNBOUNDED if row is None else row(node, given)


def _alike(one: Bounds, other: Bounds) -> bool:
    return len({len(one.low), len(other.low)} | {1}) <= 2


def _widened(low: Array, high: Array) -> Bounds:
    room = _MARGIN * np.maximum(np.abs(low), np.abs(high))
    return Bounds(np.where(np.isfinite(low), low - room, low), np.where(np.isfinite(high), high + room, high))


def clip_limits(node: Node) -> tuple[float, float] | None:
    """The constant limits of a Clip, as attributes or inputs; None where one is computed."""
    ends = [float(node.attrs.get("min", -np.inf)), float(node.attrs.get("max", np.inf))]
    for place in (1, 2):
        if place < len(node.inputs) and not node.inputs[place].is_empty():
            value = constant_value(node.inputs[place])
            if value is None or value.size != 1:
                return None
            ends[place - 1] = float(value.reshape(()))
    return ends[0], ends[1]


def _clip(node: Node, given: Bounds) -> Bounds:
    limits = clip_limits(node)
    if limits is None or limits[0] > limits[1]:
        return UNBOUNDED
    return Bounds(np.clip(given.low, *limits), np.clip(given.high, *limits))


def _relu(node: Node, given: Bounds) -> Bounds:
    return Bounds(np.maximum(given.low, 0.0), np.maximum(given.high, 0.0))


def _kept(node: Node, given: Bounds) -> Bounds:
    return given


def _pooled(node: Node, given: Bounds) -> Bounds:
    """The mean of a window, zeros of the padding maybe included."""
    return _widened(np.minimum(given.low, 0.0), np.maximum(given.high, 0.0))


def _constant(low: float, high: float) -> Row:
    return lambda node, given: Bounds(np.array([low]), np.array([high]))


def _convolved(node: Node, given: Bounds) -> Bounds:
    weight = constant_value(node.inputs[1])
    has_bias = len(node.inputs) > 2 and not node.inputs[2].is_empty()
    bias = constant_value(node.inputs[2]) if has_bias else np.zeros(1)
    if weight is None or bias is None or not given.finite or not np.isfinite(weight).all():
        return UNBOUNDED
    groups = int(node.attrs.get("group", 1))
    outputs, each = weight.shape[:2]
    low, high = (np.broadcast_to(v, (groups * each,)) for v in (np.minimum(given.low, 0), np.maximum(given.high, 0)))
    flat = weight.reshape(outputs, each, -1).astype(np.float64)
    up, down = np.maximum(flat, 0).sum(axis=2), np.minimum(flat, 0).sum(axis=2)
    channel = (np.arange(outputs) // (outputs // groups))[:, None] * each + np.arange(each)
    least = (up * low[channel] + down * high[channel]).sum(axis=1)
    most = (up * high[channel] + down * low[channel]).sum(axis=1)
    room = _MARGIN * np.maximum(np.abs(least), np.abs(most))
    return _widened(least - room + bias, most + room + bias)


def _normalized(node: Node, given: Bounds) -> Bounds:
    values = [constant_value(t) for t in node.inputs[1:5]]
    if len(values) < 4 or any(v is None for v in values) or node.attrs.get("training_mode", 0) or not given.finite:
        return UNBOUNDED
    scale, bias, mean, variance = (np.asarray(v, np.float64) for v in values)
    factor = scale / np.sqrt(variance + float(node.attrs.get("epsilon", 1e-5)))
    ends = [(end - mean) * factor for end in (given.low, given.high)]
    room = _MARGIN * (np.maximum(*map(np.abs, ends)) + np.abs(mean * factor) + np.abs(bias))
    return Bounds(np.minimum(*ends) + bias - room, np.maximum(*ends) + bias + room)


_ROWS: Mapping[str, Row] = {
    "Clip": _clip,
    "Relu": _relu,
    "Sigmoid": _constant(0.0, 1.0),
    "HardSigmoid": _constant(0.0, 1.0),
    "Tanh": _constant(-1.0, 1.0),
    "Identity": _kept,
    "MaxPool": _kept,
    "AveragePool": _pooled,
    "GlobalAveragePool": _pooled,
    "GlobalMaxPool": _kept,
    "Conv": _convolved,
    "BatchNormalization": _normalized,
}


def bounds_of(tensor: Tensor, found: Mapping[int, Bounds], channels: int) -> Bounds:
    """Bounds of a tensor, an entry for each of its channels."""
    known = found.get(id(tensor), UNBOUNDED)
    if len(known.low) not in (1, channels):
        known = UNBOUNDED
    return Bounds(np.broadcast_to(known.low, (channels,)), np.broadcast_to(known.high, (channels,)))
