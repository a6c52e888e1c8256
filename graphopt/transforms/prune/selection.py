"""Chooses which units go: per family by ratio, or as many as a budget allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias

import numpy as np

from graphopt.analysis.labels.site import EdgeKey
from graphopt.analysis.labels.solve import Bools
from graphopt.errors import UsageError
from graphopt.ir import Array, Node, Tensor, constant_value
from graphopt.transforms.prune.criteria import Scores, weight_places
from graphopt.transforms.prune.free_choice import refine
from graphopt.transforms.prune.keepset import KeepSet
from graphopt.transforms.prune.selection_spare import empties, removing
from graphopt.transforms.prune.selection_units import Family, Units

Budget: TypeAlias = Literal["macs", "params", "bytes"]
Norm: TypeAlias = Literal["max", "l1", "l2"]
_NORMS: Mapping[Norm, Callable[[Array], Array]] = {
    "max": lambda rows: np.asarray(rows.max(axis=1)),
    "l1": lambda rows: np.asarray(rows.sum(axis=1)),
    "l2": lambda rows: np.asarray(np.sqrt(np.square(rows).sum(axis=1))),
}
NARROW = 8
FINEST = 4
_STEPS = 24


class Picker(Protocol):
    """Picks nodes, as a pipeline pattern does."""

    def matches(self, node: Node) -> bool:
        """Whether it picks the node."""


class RatioMap(Protocol):
    """Ratios by node, as a pipeline pattern map gives them."""

    def get(self, node: Node) -> float | None:
        """The ratio for a node, or None."""


@dataclass(frozen=True)
class Policy:
    """How much of each family goes.

    ``ratio``: share of units removed. ``ratios``: overrides by node. ``align``: kept widths are multiples of it; a
    family narrower than 8 times it uses the largest power-of-two part for which that holds. ``minimum``: units that
    always stay. ``max_ratio``: no family loses more. A family is in play when ``include`` (if any) picks a node whose
    weights it cuts, and ``exclude`` picks none. ``prefer``: which of heads and positions inside heads goes. ``free``:
    groups that need equal numbers lose whichever units score least, else the same places everywhere.
    """

    ratio: float = 0.5
    ratios: RatioMap | None = None
    align: int = 1
    minimum: int = 1
    max_ratio: float = 1.0
    include: tuple[Picker, ...] = ()
    exclude: tuple[Picker, ...] = ()
    scope: Literal["local", "global"] = "local"
    prefer: Literal["auto", "outer", "inner"] = "auto"
    free: bool = True


def _picked(family: Family, pickers: tuple[Picker, ...]) -> bool:
    return any(p.matches(n) for p in pickers for n in family.nodes)


def active_families(units: Units, policy: Policy) -> list[Family]:
    """Families that may be pruned. Of those that shrink the same axis (heads, and positions inside heads) one stays
    in play: the first whose width reaches the ratio closely."""
    chosen: set[int] = set()
    out: set[int] = set()
    for slots in units.rivals:
        options = [s for s in slots if not set(s) & out]
        if not options:
            continue
        best = next((s for s in options if set(s) & chosen), None)
        if best is None and policy.prefer != "auto":
            liked = options[0 if policy.prefer == "outer" else -1]
            best = liked if any(len(units.families[f]) > 1 for f in liked) else None
        if best is None:
            best = next((s for s in options if all(_fits(units.families[f], policy) for f in s)), None)
        if best is None:
            best = max(options, key=lambda s: min(len(units.families[f]) for f in s))
        chosen |= set(best)
        for slot in slots:
            out |= set(slot) - chosen
    return [f for f in units.families if f.number not in out and len(f) > 1 and _wanted(f, policy)]


def _fits(family: Family, policy: Policy) -> bool:
    ratio = _ratio(family, policy)
    return len(family) > 1 and abs(round(len(family) * ratio) / len(family) - ratio) <= 0.1


def _wanted(family: Family, policy: Policy) -> bool:
    if policy.include and not _picked(family, policy.include):
        return False
    return not _picked(family, policy.exclude)


def _ratio(family: Family, policy: Policy) -> float:
    ratio = policy.ratio
    if policy.ratios is not None:
        ratio = next((r for n in family.nodes if (r := policy.ratios.get(n)) is not None), ratio)
    return min(ratio, policy.max_ratio)


def width_multiple(width: int, align: int) -> int:
    """The multiple that kept widths of a family this wide have, when ``align`` is asked for.

    A family narrower than ``NARROW`` times the multiple takes a finer one, so that it can shrink at all; but not finer
    than ``FINEST`` from 4 * ``FINEST`` on: runtimes leave their fast layouts there, and a narrower layer gets slower.
    """
    finest = FINEST if width >= 4 * FINEST else 1
    while align > finest and width < NARROW * align:
        align = align // 2 if align % 2 == 0 else 1
    return align


def removed_count(width: int, ratio: float, policy: Policy) -> int:
    """How many units of a family of this width go at this ratio, alignment and minimum respected."""
    keep = width - round(width * ratio)
    multiple = width_multiple(width, policy.align)
    if multiple > 1 and keep < width:
        keep = min(width, max(multiple, round(keep / multiple) * multiple))
    return width - min(width, max(keep, policy.minimum, 1))


def by_ratio(units: Units, scores: Scores, policy: Policy) -> KeepSet:
    """Remove the least important units of every family, or the least important of all (``scope`` global)."""
    leaves = np.zeros(len(units.family_of), bool)
    families = active_families(units, policy)
    if policy.scope == "global":
        counts = _global_counts(families, scores, policy)
    else:
        counts = {f.number: removed_count(len(f), _ratio(f, policy), policy) for f in families}
    for family in families:
        order = np.argsort(scores[family.classes], kind="stable")
        leaves[family.classes[order[: counts[family.number]]]] = True
    keep = removing(units, leaves, scores)
    if not policy.free:
        return keep
    chosen = refine(keep, scores)
    return keep if empties(units, chosen) else chosen


def _global_counts(families: list[Family], scores: Scores, policy: Policy) -> dict[int, int]:
    """One threshold for all families, on scores divided by the family's mean."""
    if not families:
        return {}
    relative = [scores[f.classes] / max(float(scores[f.classes].mean()), 1e-30) for f in families]
    cut = float(np.quantile(np.concatenate(relative), policy.ratio))
    counts = {}
    for family, values in zip(families, relative, strict=True):
        below = min(int((values < cut).sum()), int(len(family) * policy.max_ratio))
        counts[family.number] = removed_count(len(family), below / len(family), policy)
    return counts


def by_budget(units: Units, scores: Scores, policy: Policy, kind: Budget, keep: float) -> KeepSet:
    """The smallest ratio with which at most ``keep`` (a share) of the MACs, parameters or weight bytes stays.

    Raises:
        UsageError: not even the largest ratio reaches the budget; the message says what can be reached.
    """
    measure = {"macs": macs, "params": parameters, "bytes": weight_bytes}[kind]
    whole = measure(units, None)
    if whole <= 0:
        raise UsageError(f"the model has no {kind} to remove")
    low, high, best = 0.0, min(0.99, policy.max_ratio), None
    for _ in range(_STEPS):
        ratio = high if best is None else (low + high) / 2
        trial = by_ratio(units, scores, replace(policy, ratio=ratio))
        share = measure(units, trial) / whole
        if share <= keep:
            best, high = trial, ratio
        elif best is None:
            raise UsageError(f"keep_{kind}={keep:g} cannot be reached: at most {1 - share:.1%} of the {kind} can go")
        else:
            low = ratio
        if high - low < 1e-3:
            break
    assert best is not None
    return best


def macs(units: Units, keep: KeepSet | None) -> float:
    """Multiply-accumulates of all weighted nodes, before or after."""
    return sum(c.macs(keep) for c in units.coupling.record.costs)


def _sizes(units: Units, keep: KeepSet | None, per_element: Callable[[Tensor], int]) -> float:
    total = 0.0
    seen: set[Tensor] = set()
    for tensor, axes, _ in units.coupling.weight_axes():
        if tensor in seen:
            continue
        seen.add(tensor)
        count = 1
        for axis in axes:
            count *= len(axis) if keep is None else keep.count(axis)
        total += count * per_element(tensor)
    return total


def parameters(units: Units, keep: KeepSet | None) -> float:
    """Elements of all labelled constants."""
    return _sizes(units, keep, lambda _: 1)


def weight_bytes(units: Units, keep: KeepSet | None) -> float:
    """Bytes of all labelled constants."""
    facts = units.coupling.facts
    return _sizes(units, keep, lambda t: int(np.dtype(facts[t].dtype).itemsize) if facts[t].dtype is not None else 4)


def by_threshold(units: Units, threshold: float, policy: Policy, norm: Norm = "max") -> KeepSet:
    """Remove units whose producing weights are small: on every weight that makes them the largest magnitude (``max``),
    the sum of magnitudes (``l1``) or the Euclidean norm (``l2``) is at most ``threshold``. One unit always stays.

    Weights that only read a unit do not count, nor do biases; a unit that no weight makes stays.
    """
    size = np.full(len(units.family_of), -1.0)
    for tensor, axes, edges in units.coupling.weight_axes():
        value = constant_value(tensor)
        if value is None or value.dtype.kind not in "fV" or value.ndim < 2:
            continue
        for place in _producing(edges[0], value.ndim):
            classes = units.coupling.solution.classes(axes[place])
            if classes is not None:
                rows = np.moveaxis(np.abs(np.asarray(value, np.float64)), place, 0).reshape(len(classes), -1)
                np.maximum.at(size, classes, _NORMS[norm](rows))
    for grid in units.coupling.solution.grids:
        for k, factor in enumerate(grid.factors):
            others = tuple(i for i in range(grid.merged.ndim) if i != k)
            np.maximum.at(size, factor, size[grid.merged].max(axis=others))
    return removing_but_one(units, (size >= 0) & (size <= threshold), size, policy)


def _producing(edge: EdgeKey, rank: int) -> tuple[int, ...]:
    """The axes of a weight whose positions make outputs: all of them where the node is no plain product."""
    node, index = edge
    places = weight_places(node, rank)
    if places is None:
        return tuple(range(rank))
    if index == 1:
        return (places[0],)
    return (rank - 2,) if index == 0 and node.op == "MatMul" else ()


def removing_but_one(units: Units, marked: Bools, scores: Scores, policy: Policy) -> KeepSet:
    """Remove marked units, but leave at least ``minimum`` of each family (those that score best)."""
    leaves = np.zeros(len(units.family_of), bool)
    out: set[int] = set()
    for family in units.families:
        hit = marked[family.classes]
        if not hit.any() or family.number in out or not _wanted(family, policy):
            continue
        order = np.argsort(scores[family.classes], kind="stable")
        limit = len(family) - max(policy.minimum, 1)
        chosen = [i for i in order if hit[i]][:limit]
        leaves[family.classes[chosen]] = True
    return removing(units, leaves, scores, exchange=False)
