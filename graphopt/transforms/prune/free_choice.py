"""Equal numbers instead of equal positions: inside every group of a grouped convolution, GroupNormalization or grouped
query attention the least important units go, whichever they are, as long as every group loses as many.

Which groups are free is found in ``graphopt.analysis.labels.groups``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

from graphopt.analysis.labels import Axis, Coupling, Frozen
from graphopt.analysis.labels.groups import grid_key
from graphopt.analysis.labels.site import EdgeKey
from graphopt.analysis.labels.solve import Bools
from graphopt.analysis.labels.space import Labels
from graphopt.ir import Array
from graphopt.transforms.prune.keepset import KeepSet

Choice: TypeAlias = "list[Bools]"
"""For each free group of a graph [block, place]: what goes from a block that stays."""


def refine(keep: KeepSet, scores: Array) -> KeepSet:
    """The keep-set with, in every free group, the units that score least removed instead of those at equal places."""
    choice: Choice = []
    for grid in keep.coupling.free_grids:
        gone = np.zeros(grid.merged.shape, bool)
        order = np.argsort(scores[grid.merged], axis=1, kind="stable")
        np.put_along_axis(gone, order[:, : int(keep.removed[grid.places].sum())], True, axis=1)
        choice.append(gone)
    return _chosen(keep.coupling, keep.removed, choice)


def _choice_of(keep: KeepSet) -> Choice:
    """What a keep-set chose; where a block is gone altogether, the places that stand for the number."""
    found: Choice = []
    for grid in keep.coupling.free_grids:
        gone = np.array(keep.removed[grid.merged])
        gone[grid.lost(keep.removed)] = keep.removed[grid.places]
        found.append(gone)
    return found


def _chosen(coupling: Coupling, leaves: Bools, choice: Choice) -> KeepSet:
    """The keep-set that removes these leaf classes, this choice in the free groups, and what follows from both."""
    solution, free = coupling.solution, coupling.free_grids
    if not free:
        return KeepSet.removing(coupling, leaves)
    keys = {grid_key(g.merged) for g in free}
    grids = [g for g in solution.grids if grid_key(g.merged) not in keys]
    removed = leaves & solution.leaf
    count = -1
    while count != int(removed.sum()):
        count = int(removed.sum())
        for own, gone in zip(free, choice, strict=True):
            lost: Bools = np.asarray(removed[own.blocks])
            removed[own.merged] = gone | lost[:, None]
        for grid in grids:
            hit = removed[grid.merged]
            for k, factor in enumerate(grid.factors):
                hit = hit | removed[factor].reshape([-1 if i == k else 1 for i in range(hit.ndim)])
            removed[grid.merged[hit]] = True
    for own in free:
        rest = removed[own.merged[~own.lost(removed)]]
        if len(rest) and bool((rest == rest[:1]).all()):
            removed[own.places] = rest[0]
    return KeepSet(coupling, removed)


def explain(coupling: Coupling, wanted: Bools, leaves: Bools, named: Bools) -> KeepSet:
    """The keep-set that removes ``leaves`` and, in free groups whose blocks want equally many places, what they want.
    ``named`` are the classes that stand for the numbers, where something says so. Groups that want different numbers
    are left to ``leaves``."""
    leaves = leaves.copy()
    choice: Choice = []
    for grid in coupling.free_grids:
        here = wanted[grid.merged]
        some: Bools = np.asarray(~here.all(axis=1))
        numbers = np.unique(here[some].sum(axis=1))
        if len(numbers) == 1:
            own = grid.places[named[grid.places]]
            leaves[grid.places] = False
            leaves[own if len(own) == numbers[0] else grid.places[: int(numbers[0])]] = True
        uniform = np.broadcast_to(leaves[grid.places][None], here.shape)
        choice.append(np.where(some[:, None], here, uniform) if len(numbers) == 1 else uniform)
    return _chosen(coupling, leaves, choice)


def again(keep: KeepSet, removed: Bools) -> KeepSet:
    """The keep-set of other leaf classes, with the choice of ``keep`` in free groups that lose as many as before."""
    made = KeepSet.removing(keep.coupling, removed & keep.coupling.solution.leaf)
    choice = [
        before if made.removed[grid.places].sum() == keep.removed[grid.places].sum() else now
        for grid, before, now in zip(keep.coupling.free_grids, _choice_of(keep), _choice_of(made), strict=True)
    ]
    return _chosen(keep.coupling, made.removed, choice)


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
    for number, grid in enumerate(keep.coupling.free_grids):
        if not np.isin(places, grid.places).any():
            continue
        for block, classes in enumerate(grid.merged):
            gone = keep.removed[classes]
            if 0 < gone.sum() < len(classes):
                choice = _choice_of(keep)
                choice[number] = choice[number].copy()
                choice[number][block, np.flatnonzero(gone)[0]] = False
                choice[number][block, np.flatnonzero(~gone)[0]] = True
                yield _chosen(keep.coupling, keep.removed, choice)
