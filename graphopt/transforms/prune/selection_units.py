"""Units in the order that matters for choosing: families of interchangeable ones, and which families are in play."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from graphopt.analysis.labels import Axis, Coupling, Frozen
from graphopt.analysis.labels.readers import WeightReaders
from graphopt.analysis.labels.solve import Bools
from graphopt.analysis.labels.space import Labels
from graphopt.ir import Node, Tensor


@dataclass(frozen=True)
class Family:
    """Interchangeable units: they lie on exactly the same axes. ``classes`` are their class numbers, in axis order.

    ``tensors`` are the constants (with the axis) that they cut, ``nodes`` the nodes that read those.
    """

    number: int
    classes: Labels
    tensors: tuple[tuple[Tensor, int], ...]
    nodes: tuple[Node, ...]

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def name(self) -> str:
        """The first weight it cuts, for reports."""
        return self.nodes[0].name or self.nodes[0].op if self.nodes else f"family {self.number}"


@dataclass
class Units:
    """All families of a graph. ``family_of[class]`` is a family number or -1.

    ``axis_classes``: the classes of all axes one after the other, and where each axis starts.
    """

    coupling: Coupling
    families: list[Family]
    family_of: Labels
    axis_classes: tuple[Labels, Labels]
    rivals: list[tuple[tuple[int, ...], ...]] = field(default_factory=list)


def all_axes(coupling: Coupling) -> Iterator[Axis]:
    """Every distinct axis of every tensor."""
    seen: set[int] = set()
    record = coupling.record
    for axes in (*record.axes.values(), *record.edge_axes.values()):
        for axis in axes:
            if not isinstance(axis, Frozen) and id(axis) not in seen:
                seen.add(id(axis))
                yield axis


def find_units(coupling: Coupling) -> Units:
    """Group the leaf classes of a coupling into families."""
    solution = coupling.solution
    number = len(solution.frozen)
    signature = np.zeros(number, np.uint64)
    place = np.full(number, np.iinfo(np.int64).max)
    salt = np.random.default_rng(0)
    offset = 0
    arrays = [c for a in all_axes(coupling) if (c := solution.classes(a)) is not None]
    starts = np.cumsum([0, *(len(a) for a in arrays[:-1])]) if arrays else np.zeros(0, np.int64)
    on_axes = np.concatenate(arrays) if arrays else np.zeros(0, np.int64)
    arrays += [f for g in solution.grids for f in g.factors]
    for classes in arrays:
        first, where = np.unique(classes, return_index=True)
        signature[first] += salt.integers(1, 1 << 62, dtype=np.uint64)
        place[first] = np.minimum(place[first], offset + where)
        offset += len(classes)
    leaves = np.flatnonzero(solution.leaf & _costly(coupling))
    order = leaves[np.lexsort((place[leaves], signature[leaves]))]
    family_of = np.full(number, -1, np.int64)
    groups = np.split(order, np.flatnonzero(np.diff(signature[order])) + 1) if len(order) else []
    groups.sort(key=lambda g: int(place[g[0]]))
    for index, members in enumerate(groups):
        family_of[members] = index
    families = [Family(i, members, (), ()) for i, members in enumerate(groups)]
    units = Units(coupling, _with_weights(coupling, families, family_of), family_of, (on_axes, starts))
    units.rivals = list(_rivals(coupling, family_of))
    return units


def _costly(coupling: Coupling) -> Bools:
    """Classes that lie on an axis of a node that multiplies, or are factors of such: removing others saves nothing."""
    solution = coupling.solution
    found = np.zeros(len(solution.frozen), bool)
    for cost in coupling.record.costs:
        for axis in cost.axes:
            if (classes := solution.classes(axis)) is not None:
                found[classes] = True
    for _ in range(3):
        for grid in solution.grids:
            for k, factor in enumerate(grid.factors):
                others = tuple(i for i in range(grid.merged.ndim) if i != k)
                found[factor] |= found[grid.merged].any(axis=others)
    return found


def _with_weights(coupling: Coupling, families: list[Family], family_of: Labels) -> list[Family]:
    tensors: list[list[tuple[Tensor, int]]] = [[] for _ in families]
    nodes: list[dict[Node, None]] = [{} for _ in families]
    factor_families = _factor_families(coupling, family_of)
    readers = WeightReaders(coupling.graph)
    for tensor, axes, edges in coupling.weight_axes():
        reading = list(readers.behind(dict.fromkeys(node for node, _ in edges)))
        for place, axis in enumerate(axes):
            classes = coupling.solution.classes(axis)
            if classes is None:
                continue
            found = set(np.unique(family_of[classes]).tolist())
            for derived in np.unique(classes[family_of[classes] < 0]).tolist():
                found |= factor_families.get(derived, frozenset())
            for number in found - {-1}:
                tensors[number].append((tensor, place))
                nodes[number].update(dict.fromkeys(reading))
    return [Family(f.number, f.classes, tuple(t), tuple(n)) for f, t, n in zip(families, tensors, nodes, strict=True)]


def _factor_families(coupling: Coupling, family_of: Labels) -> dict[int, frozenset[int]]:
    """For each derived class the families of its factors, nested grids included."""
    found: dict[int, frozenset[int]] = {}
    for _ in range(3):
        for grid in coupling.solution.grids:
            members: set[int] = set()
            for factor in grid.factors:
                members |= set(np.unique(family_of[factor]).tolist())
                for cls in factor[family_of[factor] < 0].tolist():
                    members |= found.get(cls, frozenset())
            whole = frozenset(members - {-1})
            for cls in np.unique(grid.merged).tolist():
                found[cls] = found.get(cls, frozenset()) | whole
    return found


def _rivals(coupling: Coupling, family_of: Labels) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Per grid, the families of each live factor: they all shrink the same axis."""
    derived = _factor_families(coupling, family_of)
    seen: set[tuple[tuple[int, ...], ...]] = set()
    for grid in coupling.solution.grids:
        slots: list[tuple[int, ...]] = []
        for factor in grid.factors:
            members = set(np.unique(family_of[factor]).tolist())
            for cls in factor[family_of[factor] < 0].tolist():
                members |= derived.get(cls, frozenset())
            if members := members - {-1}:
                slots.append(tuple(sorted(members)))
        key = tuple(slots)
        if len(slots) > 1 and key not in seen:
            seen.add(key)
            yield key
