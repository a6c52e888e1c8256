"""What pruning could touch in a model, and what freezes the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from graphopt.analysis.labels import analyse
from graphopt.analysis.labels.reasons import frozen_reason
from graphopt.model import Model
from graphopt.transforms.selection_units import find_units


@dataclass(frozen=True)
class UnitRow:
    """One class of interchangeable units, and the weighted nodes that shrink with it."""

    units: int
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Prunability:
    """``removable``: share of the MACs in nodes with a free axis. ``frozen``: reason to share of the MACs it holds."""

    removable: float
    classes: tuple[UnitRow, ...]
    frozen: Mapping[str, float] = field(default_factory=dict)


def prunability(model: Model) -> Prunability:
    """Find the units of a model. The model is not changed; local functions are expanded in a copy."""
    clone = model.clone()
    clone.inline_functions()
    coupling = analyse(clone.graph)
    whole = sum(c.macs() for c in coupling.record.costs) or 1.0
    free = 0.0
    frozen: dict[str, float] = defaultdict(float)
    for cost in coupling.record.costs:
        reasons = [frozen_reason(coupling, axis) for axis in cost.axes]
        if not all(reasons):
            free += cost.macs()
        for reason in set(filter(None, reasons)):
            frozen[reason] += cost.macs() / whole
    rows = [UnitRow(len(f), tuple(n.name or n.outputs[0].name for n in f.nodes)) for f in find_units(coupling).families]
    return Prunability(free / whole, tuple(rows), dict(sorted(frozen.items(), key=lambda item: -item[1])))
