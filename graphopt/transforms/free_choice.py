"""Equal numbers instead of equal positions: inside every group of a grouped convolution, GroupNormalization or grouped
query attention the least important units go, whichever they are, as long as every group loses as many.

Which groups are free is found in ``graphopt.analysis.labels.groups``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graphopt.analysis.labels import Axis, Coupling, Frozen
from graphopt.analysis.labels.groups import grid_key
from graphopt.analysis.labels.site import EdgeKey
from graphopt.analysis.labels.solve import Bools
from graphopt.analysis.labels.space import Labels
from graphopt.ir import Array
from graphopt.transforms.keepset import KeepSet


def refine(keep: KeepSet, scores: Array) -> KeepSet:
    """The keep-set with, in every free group, the units that score least removed instead of those at equal places."""
    rows: list[tuple[Labels, Bools]] = []
    for grid in keep.coupling.free_grids:
        number = int(keep.removed[grid.places].sum())
        merged = grid.merged[~grid.lost(keep.removed)]
        if number and len(merged):
            gone = np.zeros(merged.shape, bool)
            np.put_along_axis(gone, np.argsort(scores[merged], axis=1, kind="stable")[:, :number], True, axis=1)
            rows.append((merged, gone))
    return _with_rows(keep, rows)


def _with_rows(keep: KeepSet, rows: list[tuple[Labels, Bools]]) -> KeepSet:
    """The keep-set with other units of free groups removed, and what follows from them."""
    if not rows:
        return keep
    solution = keep.coupling.solution
    free = {grid_key(g.merged) for g in keep.coupling.free_grids}
    removed = keep.removed & solution.leaf
    own = [(g.merged, keep.removed[g.merged]) for g in keep.coupling.free_grids]
    for merged, gone in (*own, *rows):
        removed[merged] = gone
    grids = [g for g in solution.grids if grid_key(g.merged) not in free]
    changed = True
    while changed:
        before = int(removed.sum())
        for grid in grids:
            hit = removed[grid.merged]
            for k, factor in enumerate(grid.factors):
                hit = hit | removed[factor].reshape([-1 if i == k else 1 for i in range(hit.ndim)])
            removed[grid.merged[hit]] = True
        changed = int(removed.sum()) != before
    for grid in keep.coupling.free_grids:
        rest = removed[grid.merged[~grid.lost(removed)]]
        if len(rest) and bool((rest == rest[:1]).all()):
            removed[grid.places] = rest[0]
    return KeepSet(keep.coupling, removed)


def explain(coupling: Coupling, wanted: Bools, leaves: Bools, named: Bools) -> KeepSet:
    """The keep-set that removes ``leaves`` and, in free groups whose blocks want equally many places, what they want.
    ``named`` are the classes that stand for the numbers, where something says so. Groups that want different numbers
    are left to ``leaves``."""
    leaves = leaves.copy()
    rows: list[tuple[Labels, Bools]] = []
    for grid in coupling.free_grids:
        here = wanted[grid.merged]
        some = ~here.all(axis=1)
        numbers = np.unique(here[some].sum(axis=1))
        if len(numbers) != 1 or not numbers[0]:
            continue
        own = grid.places[named[grid.places]]
        leaves[grid.places] = False
        leaves[own if len(own) == numbers[0] else grid.places[: int(numbers[0])]] = True
        rows.append((grid.merged[some], here[some]))
    return _with_rows(KeepSet.removing(coupling, leaves), rows)


def again(keep: KeepSet, removed: Bools) -> KeepSet:
    """The keep-set of other leaf classes, with the choice of ``keep`` in free groups that lose as many as before."""
    made = KeepSet.removing(keep.coupling, removed & keep.coupling.solution.leaf)
    rows: list[tuple[Labels, Bools]] = []
    for grid in keep.coupling.free_grids:
        if made.removed[grid.places].sum() == keep.removed[grid.places].sum():
            merged = grid.merged[~grid.lost(made.removed) & ~grid.lost(keep.removed)]
            rows.append((merged, keep.removed[merged]))
    return _with_rows(made, rows)


def block_masks(keep: KeepSet, edge: EdgeKey) -> Bools | None:
    """For a weight whose rows see only their own block: which places of each block stay; None when those that stay are
    the ones that its axis says."""
    blocked = keep.coupling.record.blocked.get(edge)
    if blocked is None or isinstance(blocked.channels, Frozen):
        return None
    masks = np.asarray(keep.mask(blocked.channels)).reshape(blocked.blocks, -1)
    alive = masks[masks.any(axis=1)]
    own = keep.mask(keep.coupling.record.of(*edge)[blocked.place])
    return None if not len(alive) or bool((alive == own[None]).all()) else masks


def sliced_by_block(value: Array, axes: tuple[Axis, ...], keep: KeepSet, masks: Bools, place: int) -> Array:
    """The kept positions of such a weight: axis 0 runs through the blocks, ``place`` is the axis inside a block."""
    rows = np.asarray(keep.mask(axes[0])).reshape(len(masks), -1)
    pieces = [
        np.compress(masks[b], value.reshape(len(masks), -1, *value.shape[1:])[b][rows[b]], axis=place)
        for b in range(len(masks))
        if rows[b].any()
    ]
    made = np.concatenate(pieces)
    for k, axis in enumerate(axes):
        if k not in (0, place) and keep.changed(axis):
            made = np.compress(keep.mask(axis), made, axis=k)
    return np.ascontiguousarray(made)


def exchanges(keep: KeepSet, places: Labels) -> Iterator[KeepSet]:
    """In each free group with these places: one kept for one removed unit of its first block."""
    for grid in keep.coupling.free_grids:
        if not np.isin(places, grid.places).any():
            continue
        for block in grid.merged:
            gone = keep.removed[block]
            if 0 < gone.sum() < len(block):
                other = gone.copy()
                other[np.flatnonzero(gone)[0]], other[np.flatnonzero(~gone)[0]] = False, True
                yield _with_rows(keep, [(block[None], other[None])])
