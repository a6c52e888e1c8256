"""Groups that need equal numbers of units, not units at equal places.

A grid ``merged[b, i]`` = block b or place i says that the same places go in all blocks. Where the place is no more than
a count (no axis holds it, or only the second axis of a grouped convolution's weight, whose rows see their own block, or
an axis along which all values are equal), any places may go.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from graphopt.analysis.labels.site import Record
from graphopt.analysis.labels.solve import Bools, Solution
from graphopt.analysis.labels.space import Labels


@dataclass(frozen=True)
class FreeGrid:
    """Classes ``merged[block, place]``, those of the blocks, and those of the places, which stand for numbers only."""

    merged: Labels
    blocks: Labels
    places: Labels

    def lost(self, removed: Bools) -> Bools:
        """Blocks that lose all their units."""
        return np.asarray(removed[self.merged].all(axis=1))


def grid_key(merged: Labels) -> bytes:
    """Equal for equal grids."""
    return str(merged.shape).encode() + merged.tobytes()


def free_grids(record: Record, solution: Solution) -> list[FreeGrid]:
    """All groups of a graph inside which the choice is free."""
    declared: dict[bytes, Labels] = {}
    for counted in record.counts:
        classes = solution.classes(counted.axis)
        if classes is not None:
            merged = classes.reshape(counted.blocks, -1)
            declared[grid_key(merged)] = merged
    if not declared:
        return []
    uses: dict[int, list[int]] = defaultdict(list)
    held = _held(record, solution) | solution.frozen | ~solution.leaf
    keys = [grid_key(g.merged) for g in solution.grids]
    for number, (key, grid) in enumerate(zip(keys, solution.grids, strict=True)):
        for cls in np.unique(grid.merged).tolist():
            uses[cls].append(number)
        for k, factor in enumerate(grid.factors):
            if k != 1 or grid.merged.ndim != 2 or key not in declared:
                held[factor] = True
    found: list[FreeGrid] = []
    for key, merged in declared.items():
        numbers = {n for cls in np.unique(merged).tolist() for n in uses[cls]}
        if len(np.unique(merged)) < merged.size or not numbers or any(keys[n] != key for n in numbers):
            continue
        blocks, places = solution.grids[min(numbers)].factors
        same = all(
            np.array_equal(own, first)
            for n in numbers
            for own, first in zip(solution.grids[n].factors, (blocks, places), strict=True)
        )
        if same and not held[places].any():
            found.append(FreeGrid(merged, blocks, places))
    return found


def _held(record: Record, solution: Solution) -> Bools:
    """Classes that lie on an axis which distinguishes their positions."""
    held = np.zeros(len(solution.frozen), bool)

    def mark(classes: Labels | None) -> None:
        if classes is not None:
            held[classes] = True

    for tensor, axes in record.axes.items():
        edges = record.labelled.get(tensor, set()) - record.edge_axes.keys()
        blocked = {record.blocked[e].place if e in record.blocked else -1 for e in edges}
        for place, axis in enumerate(axes):
            if (tensor, place) not in record.uniform and blocked != {place}:
                mark(solution.classes(axis))
    for edge, axes in record.edge_axes.items():
        for place, axis in enumerate(axes):
            if edge not in record.blocked or record.blocked[edge].place != place:
                mark(solution.classes(axis))
    return held
