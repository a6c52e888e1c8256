"""No axis may lose all its positions: where a choice of units would empty one, a unit comes back for another."""

from __future__ import annotations

import numpy as np

from graphopt.analysis.labels.solve import Bools, Solution
from graphopt.analysis.labels.space import Labels
from graphopt.transforms.prune.criteria import Scores
from graphopt.transforms.prune.keepset import KeepSet
from graphopt.transforms.prune.selection_units import Units


def removing(units: Units, leaves: Bools, scores: Scores, exchange: bool = True) -> KeepSet:
    """The keep-set without the marked leaf classes, but with at least one position on every axis.

    Of an axis that would be empty (a branch of a Concat whose channels all score low) the position that scores best
    stays. With ``exchange`` a unit of the same family, the least of those that stay, goes in its place, so that widths
    do not change.
    """
    leaves = leaves.copy()
    solution = units.coupling.solution
    spared = np.zeros(len(leaves), bool)
    while len(empty := _empty_axes(units, solution.removed(leaves))):
        for classes in empty:
            _spare_one(units, classes, leaves, spared, scores, exchange)
    return KeepSet.removing(units.coupling, leaves)


def empties(units: Units, keep: KeepSet) -> bool:
    """Whether some axis loses all its positions."""
    return bool(_empty_axes(units, keep.removed))


def _empty_axes(units: Units, removed: Bools) -> list[Labels]:
    """The classes of every axis of which nothing would stay."""
    classes, starts = units.axis_classes
    if not len(starts):
        return []
    ends = [*starts[1:].tolist(), len(classes)]
    gone = np.logical_and.reduceat(removed[classes], starts)
    return [classes[starts[k] : ends[k]] for k in np.flatnonzero(gone)]


def _spare_one(
    units: Units, classes: Labels, leaves: Bools, spared: Bools, scores: Scores, exchange: bool
) -> None:
    solution = units.coupling.solution
    if not solution.removed(leaves)[classes].all():
        return
    options = [_leaves_of(solution, int(c)) for c in np.unique(classes)]
    back = max(options, key=lambda found: (float(scores[found].mean()), -int(found[0])))
    spared[back] = True
    for leaf in back[leaves[back]]:
        leaves[leaf] = False
        if exchange and (number := int(units.family_of[leaf])) >= 0:
            members = units.families[number].classes
            instead = members[~leaves[members] & ~spared[members]]
            if len(instead):
                leaves[instead[np.argmin(scores[instead])]] = True


def _leaves_of(solution: Solution, number: int) -> Labels:
    """The leaf classes that must all stay for this class to stay."""
    found: set[int] = set()
    waiting, seen = [number], {number}
    while waiting:
        current = waiting.pop()
        if solution.leaf[current]:
            found.add(current)
            continue
        for grid in solution.grids:
            for place in np.argwhere(grid.merged == current):
                parts = {int(f[i]) for f, i in zip(grid.factors, place, strict=True)}
                waiting += [p for p in parts - seen if not solution.frozen[p]]
                seen |= parts
    return np.array(sorted(found), np.int64)
