"""What of a model can be pruned, and what froze the rest."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from graphopt.analysis.labels import Axis, Coupling, Frozen
from graphopt.analysis.labels.readers import WeightReaders
from graphopt.ir import Node
from graphopt.transforms.prune.selection_units import Units


@dataclass(frozen=True)
class FrozenAxes:
    """Weight axes that one thing froze: why, how many axes, the share of all MACs of the nodes that read them."""

    reason: str
    axes: int
    macs_share: float
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Prunable:
    """``macs`` and ``parameters`` of the model, the shares that some unit touches, unit classes, what is frozen."""

    macs: float
    parameters: int
    macs_share: float
    parameters_share: float
    units: int
    families: tuple[tuple[str, int], ...]
    frozen: tuple[FrozenAxes, ...]
    without_rule: tuple[str, ...]


def frozen_reason(coupling: Coupling, axis: Axis) -> str:
    """What froze (a part of) an axis, "" when it is free."""
    if isinstance(axis, Frozen):
        return axis.reason
    classes = coupling.solution.class_of[axis]
    stuck = classes[coupling.solution.frozen[classes]]
    return coupling.solution.reason_of(int(stuck[0])) if len(stuck) else ""


def _node_macs(coupling: Coupling) -> dict[Node, float]:
    found: dict[Node, float] = defaultdict(float)
    for cost in coupling.record.costs:
        found[cost.node] += cost.macs()
    return found


def prunable(units: Units) -> Prunable:
    """Summary of a model's units. A weighted node counts as prunable when an axis of its weight is not frozen."""
    coupling = units.coupling
    macs = _node_macs(coupling)
    weighted: set[Node] = set()
    free: set[Node] = set()
    total = open_parameters = 0
    reasons: dict[str, list[tuple[Node, float]]] = defaultdict(list)
    behind = WeightReaders(coupling.graph)
    for _, axes, edges in coupling.weight_axes():
        size = 1
        for axis in axes:
            size *= len(axis)
        total += size
        readers = set(behind.behind(dict.fromkeys(node for node, _ in edges)))
        live = [a for a in axes if len(a) > 1]
        why = [frozen_reason(coupling, a) for a in live]
        open_parameters += 0 if all(why) else size
        if len(live) < 2:
            continue
        weighted |= readers & macs.keys()
        if not all(why):
            free |= readers & macs.keys()
        for reason in filter(None, why):
            reasons[reason] += [(node, macs.get(node, 0.0)) for node in readers]
    whole = sum(macs.values()) or 1.0
    base = sum(macs[n] for n in weighted) or 1.0
    frozen = [
        FrozenAxes(
            reason, len(uses), sum(dict(uses).values()) / whole, tuple(dict.fromkeys(n.name or n.op for n, _ in uses))
        )
        for reason, uses in reasons.items()
        if "(kernel)" not in reason
    ]
    return Prunable(
        macs=sum(macs.values()),
        parameters=total,
        macs_share=sum(macs[n] for n in free) / base,
        parameters_share=open_parameters / max(total, 1),
        units=sum(len(f) for f in units.families),
        families=tuple((f.name, len(f)) for f in units.families),
        frozen=tuple(sorted(frozen, key=lambda f: (-f.macs_share, f.reason))),
        without_rule=tuple(sorted({f"{n.op} {n.name} {why}" for n, why in coupling.record.opaque.items()})),
    )
