"""Units whose removal provably changes nothing: every path from them is multiplied by zero, they are zero, or they are
constant and what reads them can take the constant as a bias. Assumes finite values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from graphopt.analysis.labels import Axis, Coupling
from graphopt.analysis.labels.records import Mask
from graphopt.analysis.labels.solve import Bools
from graphopt.errors import UnsupportedError
from graphopt.ir import Array, Node
from graphopt.model import Model
from graphopt.transforms.prune.exact_constants import Constants, Folding, folds, pads, plan
from graphopt.transforms.prune.exact_zeros import PRODUCT, Zeros
from graphopt.transforms.prune.keepset import KeepSet
from graphopt.transforms.prune.selection import Policy, removing_but_one
from graphopt.transforms.prune.selection_units import Units


@dataclass(frozen=True)
class Removable:
    """``classes``: removing them (and what follows from them) leaves all outputs as they are. ``padded``: nodes that
    keep constant units because they pad with zeros, with how many positions."""

    classes: Bools
    padded: dict[Node, int]


@dataclass(frozen=True)
class ExactChoice:
    """What goes, what its consumers get instead, ``padded`` as in ``Removable``, and why constants had to stay, if
    they had to."""

    keep: KeepSet
    folding: Folding = field(default_factory=Folding)
    padded: Mapping[Node, int] = field(default_factory=dict)
    refused: str = ""


def choose(model: Model, units: Units, policy: Policy, feeds: Callable[[], Mapping[str, Array]]) -> ExactChoice:
    """All units of ``model`` that may go without any effect. ``feeds`` makes inputs, of any values, when they are
    needed to read constants."""
    plain, whole = removable(units.coupling, constants=False), removable(units.coupling)
    keep = _removing(units, whole.classes, policy)
    if np.array_equal(plain.classes, whole.classes):
        return ExactChoice(keep, padded=whole.padded)
    try:
        return ExactChoice(keep, plan(model, keep, feeds()), whole.padded)
    except UnsupportedError as error:
        return ExactChoice(_removing(units, plain.classes, policy), padded=whole.padded, refused=str(error))


def _removing(units: Units, marked: Bools, policy: Policy) -> KeepSet:
    return removing_but_one(units, marked, (~marked).astype(float), policy)


def removable(coupling: Coupling, constants: bool = True) -> Removable:
    """What may go. Without ``constants`` only what is multiplied by zero or zero itself."""
    zeros = Zeros(coupling).run()
    same = Constants(coupling, zeros) if constants else None
    solution = coupling.solution
    good = ~solution.frozen
    padded: dict[Node, int] = {}
    for norm in coupling.record.norms:
        for place in norm.over:
            _deny(good, coupling, norm.labels[place])
    for mean in coupling.record.means:
        for axis in mean.axes:
            _deny(good, coupling, axis)
    for mask in coupling.record.masks:
        classes = solution.classes(mask.labels)
        if classes is None:
            continue
        fine = _nothing_lost(mask, zeros)
        if same is not None and folds(mask.node, mask):
            known = same.of(mask.node, mask.index)
            if pads(mask.node):
                border = int((known & ~fine & ~solution.frozen)[np.unique(classes)].sum())
                padded |= {mask.node: border} if border else {}
            else:
                fine = fine | known
        good[classes[~fine[classes]]] = False
    for grid in solution.grids:
        for k, factor in enumerate(grid.factors):
            others = tuple(i for i in range(grid.merged.ndim) if i != k)
            whole = good[grid.merged].all(axis=others)
            good[factor[~whole]] = False
    return Removable(good & solution.leaf, padded)


def _nothing_lost(mask: Mask, zeros: Zeros) -> Bools:
    """Classes at which the value or the other operand is zero."""
    fine = zeros.of(mask.node, mask.index)
    if mask.fill != "zero" or mask.point is not None:
        return np.zeros_like(fine)
    if mask.node.op in (*PRODUCT, "Einsum") and len(mask.node.inputs) > 1:
        return fine | zeros.of(mask.node, 1 - mask.index)
    return fine


def _deny(good: Bools, coupling: Coupling, axis: Axis) -> None:
    classes = coupling.solution.classes(axis)
    if classes is not None:
        good[classes] = False
