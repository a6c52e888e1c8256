"""Recovery of a pruned model without any data: removed units merge into kept ones, means come from BatchNorm.

What a family of units is computed from (its producers' rows) says which kept units can stand in for a removed one (see
``merging``); what reads the units takes over its weights. Where a BatchNormalization follows the producer, its scale
and bias are the deviation and mean of the unit over the training data, so that the mean that is still missing behind a
ReLU goes into the reader's bias (as BatchNorm-based bias correction in Nagel et al. 2019, Data-free quantization).
Nothing is proved without data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.analysis.labels import Frozen
from graphopt.graph import Graph
from graphopt.ir import Array, Node, Tensor, constant_value
from graphopt.transforms.prune.keepset import KeepSet
from graphopt.transforms.prune.merging import merge_coefficients, merge_consumer
from graphopt.transforms.prune.selection_units import Family, Units
from graphopt.transforms.prune.slicing import sliced
from graphopt.transforms.recover.consumers import Reading, find_readings
from graphopt.transforms.recover.layers import Layer, layers_of

_MOST_FEATURES = 8192
_POOLING = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean"})
_SHAPING = _POOLING | {"Identity", "Dropout", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Add"}
_BENDING = frozenset({"Relu", "LeakyRelu"})


@dataclass(frozen=True)
class Merge:
    """A reader with its merged weights [groups, n + 1, m] of the unpruned graph; ``family`` names what merged."""

    layer: Layer
    matrix: Array
    family: str


@dataclass(frozen=True)
class _Source:
    """What a family is computed from: ``rows`` [units, n], ``means`` [units] where known, ``bent`` by a ReLU."""

    rows: Array
    means: Array | None
    bent: bool


def plan_merges(units: Units, keep: KeepSet) -> list[Merge]:
    """What the readers of each pruned family should hold. Call before slicing.

    Families that pass through anything but shaping, pooling, sums and ReLU on their way are left alone.
    """
    matrices: dict[Tensor, tuple[Layer, Array, str]] = {}
    pruned = [f for f in units.families if keep.removed[f.classes].any() and not keep.removed[f.classes].all()]
    readings = find_readings(units, pruned, _MOST_FEATURES)
    for family in pruned:
        readers = [r for r in readings[family.number] if not r.layer.inner]
        source = _source(units, family, readers)
        if source is None or len(readers) < len(readings[family.number]):
            continue
        gone = keep.removed[family.classes]
        kept, removed = np.flatnonzero(~gone), np.flatnonzero(gone)
        coefficients = merge_coefficients(source.rows, kept, removed, nonnegative=source.bent)
        for reading in readers:
            layer = reading.layer
            _, matrix, _ = matrices.setdefault(layer.weight, (layer, layer.matrix(), family.name))
            _merge(reading, matrix, source, kept, removed, coefficients)
    return [Merge(*found) for found in matrices.values()]


def apply_merges(graph: Graph, merges: list[Merge], keep: KeepSet) -> None:
    """Write merged weights into the graph, which has been sliced by ``keep`` in between."""
    axes_of = {tensor: axes for tensor, axes, _ in keep.coupling.weight_axes()}
    for merge in merges:
        layer, full = merge.layer, merge.matrix
        axes = axes_of[layer.weight]
        values = layer.from_matrix(full[:, :-1] / layer.weight_scale, tuple(len(a) for a in axes))
        fresh = next(lay for lay in layers_of(layer.node) if lay.half == layer.half)
        inner = fresh.to_matrix(sliced(values, axes, keep)) * layer.weight_scale
        outputs = keep.coupling.record.axes[layer.output][layer.target.axis]  # type: ignore[union-attr]
        bias = full[:, -1].reshape(-1)
        bias = bias if isinstance(outputs, Frozen) else bias[keep.mask(outputs)]
        fresh.assign(graph, np.concatenate([inner, bias.reshape(inner.shape[0], 1, inner.shape[2])], axis=1))


def _merge(
    reading: Reading, matrix: Array, source: _Source, kept: Array, removed: Array, coefficients: Array
) -> None:
    """Change the reader's group of ``matrix`` in place."""
    place = {int(u): i for i, u in enumerate(reading.units)}
    own_kept = [i for i, u in enumerate(kept) if int(u) in place]
    own_removed = [i for i, u in enumerate(removed) if int(u) in place]
    part = coefficients[np.ix_(own_removed, own_kept)]
    stay = np.array([place[int(kept[i])] for i in own_kept], np.int64)
    leave = np.array([place[int(removed[i])] for i in own_removed], np.int64)
    weights = matrix[reading.group, :-1]
    if source.means is not None and reading.layer.has_bias:
        left = source.means[removed[own_removed]] - part @ source.means[kept[own_kept]]
        matrix[reading.group, -1] += np.einsum("r,rfm->m", left, weights[reading.blocks[leave]])
    matrix[reading.group, :-1] = merge_consumer(weights, reading.blocks, stay, leave, part)


def _source(units: Units, family: Family, readers: list[Reading]) -> _Source | None:
    """How the family's units are computed; None when not only by producers, shaping, sums and ReLU."""
    ends = {id(r.layer.node) for r in readers}
    rows: list[Array] = []
    means: list[Array | None] = []
    bent = False
    for node in family.nodes:
        if id(node) in ends and not any(_owners(units, family, lay) is not None for lay in layers_of(node)):
            continue
        made = _producer(units, family, node)
        if made is None:
            if node.op == "BatchNormalization":
                continue
            return None
        matrix, mean, output = made
        passed = _passes(output, ends)
        if passed is None:
            return None
        bent |= "Relu" in passed or "LeakyRelu" in passed
        rows.append(matrix / max(float(np.linalg.norm(matrix)), 1e-30))
        means.append(None if mean is None or passed - {"Relu"} - _SHAPING or "Add" in passed else mean)
    if not rows:
        return None
    mean = means[0] if len(means) == 1 else None
    if mean is not None and bent:
        mean = _behind_relu(mean)
    return _Source(np.concatenate(rows, axis=1), None if mean is None else mean[:, 0], bent)


def _behind_relu(moments: Array) -> Array:
    """Mean of ReLU(x) for normal x with these means and deviations, [units, 1]."""
    from scipy.special import ndtr

    mean, deviation = moments[:, 0], np.maximum(np.abs(moments[:, 1]), 1e-12)
    ratio = mean / deviation
    density = np.exp(-0.5 * ratio**2) / np.sqrt(2 * np.pi)
    return np.asarray(mean * ndtr(ratio) + deviation * density)[:, None]


def _owners(units: Units, family: Family, layer: Layer) -> Array | None:
    """The unit of each output channel of a layer; None when they are not all units of the family."""
    axes = units.coupling.record.axes.get(layer.output)
    if axes is None or layer.inner:
        return None
    axis = axes[layer.target.axis]  # type: ignore[union-attr]
    classes = None if isinstance(axis, Frozen) else units.coupling.solution.classes(axis)
    if classes is None:
        return None
    number = np.full(len(units.family_of), -1)
    number[family.classes] = np.arange(len(family))
    owners = number[classes]
    counts = np.bincount(owners[owners >= 0], minlength=len(family))
    return owners if (owners >= 0).all() and counts.min() == counts.max() else None


def _producer(units: Units, family: Family, node: Node) -> tuple[Array, Array | None, Tensor] | None:
    """Rows [units, n] of a layer that mixes channels into the family, moments [units, 2] by its BatchNorm, its end."""
    layers = layers_of(node)
    if len(layers) != 1 or (owners := _owners(units, family, layers[0])) is None:
        return None
    matrix = layers[0].matrix()
    if len(matrix) > 1:
        return None
    rows, output, moments = matrix[0].T, layers[0].output, None
    after = output.outputs[0] if len(output.outputs) == 1 else None
    if after is not None and after.is_op("BatchNormalization") and after.inputs[0] is output:
        held = [constant_value(t) for t in after.inputs[1:5]]
        if any(v is None for v in held):
            return None
        scale, shift, mean, variance = (np.asarray(v, np.float64) for v in held)
        gain = scale / np.sqrt(variance + float(after.attrs.get("epsilon", 1e-5)))
        rows = rows * gain[:, None]
        rows[:, -1] += shift - mean * gain
        moments = np.stack([shift, scale], axis=1)
        output = after.outputs[0]
    order = np.argsort(owners, kind="stable")
    wide = rows[order].reshape(len(family), -1)
    single = len(order) == len(family)
    return wide, moments[order] if moments is not None and single else None, output


def _passes(tensor: Tensor, ends: set[int]) -> set[str] | None:
    """Operators between a producer and the readers; None when one is not allowed or nothing is reached."""
    found: set[str] = set()
    seen: set[int] = set()
    left = [tensor]
    while left:
        current = left.pop()
        for node in current.outputs:
            if id(node) in ends or id(node) in seen:
                continue
            seen.add(id(node))
            if node.domain or node.op not in _SHAPING | _BENDING:
                return None
            if node.op == "Add" and any(constant_value(t) is not None for t in node.inputs):
                return None
            found.add(node.op)
            left.extend(node.outputs)
    return found
