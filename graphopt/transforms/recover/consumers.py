"""Which layers read the units of a family, and which of their features belong to each unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.analysis.labels import Frozen
from graphopt.analysis.statistics import Channels, Directions, Window
from graphopt.ir import Array
from graphopt.transforms.prune.selection_units import Family, Units
from graphopt.transforms.recover.layers import Layer, layers_of


@dataclass(frozen=True)
class Reading:
    """One group of one layer that reads units of a family.

    ``blocks`` [u, k] are the features (rows of the group's matrix) of each unit, ``units`` [u] the places of these
    units in the family.
    """

    layer: Layer
    group: int
    blocks: Array
    units: Array


def find_readings(units: Units, families: list[Family], most_features: int) -> dict[int, list[Reading]]:
    """Family number to its readers. Layers that only pass channels on (depthwise) are no readers.

    A layer of more than ``most_features`` features a group, or one that reads a different number of features of
    each unit, is left out.
    """
    found: dict[int, list[Reading]] = {f.number: [] for f in families}
    members = {node: [f for f in families if node in set(f.nodes)] for node in units.coupling.graph.nodes}
    for node, readers in members.items():
        for layer in layers_of(node) if readers else ():
            axes = (
                units.coupling.record.of(node, 0)
                if layer.data is node.inputs[0]
                else units.coupling.record.axes[layer.data]
            )
            axis = axes[1 if isinstance(layer.patches, Window) else len(axes) - 1]
            classes = None if isinstance(axis, Frozen) else units.coupling.solution.classes(axis)
            if classes is None:
                continue
            for family in readers:
                found[family.number] += _readings(units, family, layer, classes, most_features)
    return found


def _readings(units: Units, family: Family, layer: Layer, classes: Array, most_features: int) -> list[Reading]:
    groups = layer.patches.groups if isinstance(layer.patches, (Window, Channels)) else len(layer.matrix())
    features = layer.matrix().shape[1] - 1
    shared = isinstance(layer.patches, Directions)
    channels = len(classes) if shared else len(classes) // groups
    if channels == 1 and groups > 1:
        return []
    if features > most_features:
        return []
    per_channel = features // channels
    owners = _positions(units, family, classes)
    result = []
    for group in range(groups):
        low = 0 if shared else group * channels
        high = low + channels
        own = [(u, p[(p >= low) & (p < high)] - low) for u, p in enumerate(owners)]
        own = [(u, p) for u, p in own if len(p)]
        if not own or len({len(p) for _, p in own}) > 1:
            continue
        places = np.stack([p for _, p in own])
        blocks = (places[:, :, None] * per_channel + np.arange(per_channel)).reshape(len(own), -1)
        result.append(Reading(layer, group, blocks, np.array([u for u, _ in own])))
    return result


def _positions(units: Units, family: Family, classes: Array) -> list[Array]:
    """Positions of the axis that each unit removes."""
    number = np.full(len(units.family_of), -1)
    number[family.classes] = np.arange(len(family))
    direct = number[classes]
    if (direct >= 0).any():
        return [np.flatnonzero(direct == u) for u in range(len(family))]
    solution = units.coupling.solution
    result = []
    for unit in family.classes:
        leaves = np.zeros(len(solution.frozen), bool)
        leaves[unit] = True
        result.append(np.flatnonzero(solution.removed(leaves)[classes]))
    return result
