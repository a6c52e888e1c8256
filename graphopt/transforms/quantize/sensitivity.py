"""How much each integer kernel hurts the outputs: one unit at a time is quantized, the rest stays in float."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphopt.ir import Array
from graphopt.model import Model
from graphopt.targets.base import Target
from graphopt.transforms.quantize.grids import Grids, quantized_tensors
from graphopt.transforms.quantize.insert import Inserter, Settings
from graphopt.transforms.quantize.plan import Plan
from graphopt.transforms.quantize.probe import Probe
from graphopt.transforms.quantize.trial import Judge, decibel
from graphopt.transforms.quantize.units import find_units


@dataclass(frozen=True)
class Sensitivity:
    """Noise that one unit's quantization makes at the outputs (before a Softmax), as a share of their energy."""

    node: str
    node_id: int
    noise: float

    @property
    def sqnr_db(self) -> float:
        """Signal to noise at the outputs when only this unit is quantized."""
        return decibel(self.noise)


def rank_layers(
    model: Model,
    judge: Judge,
    target: Target,
    settings: Settings,
    plan: Plan,
    grids: Grids,
    probes: Mapping[str, Probe],
    means: Mapping[str, Array] | None = None,
) -> list[Sensitivity]:
    """All integer units of ``plan``, the most harmful first.

    ``model`` is the float model that the plan was made for; it is not changed. ``means`` of the layers' inputs take the
    shift that rounded weights make out again, as in the finished model. Noise of different units adds up nearly, so the
    sum over the units that are left on integers estimates the noise of a mix.
    """
    found = []
    for unit in plan.integer:
        if unit.rule.kind != "mover":
            clone = _only(model, unit.node.id, target, settings, grids, probes, means or {})
            found.append(Sensitivity(unit.label, unit.node.id, judge.verdict(clone).inner))
    return sorted(found, key=lambda s: -s.noise)


def _only(
    model: Model,
    node_id: int,
    target: Target,
    settings: Settings,
    grids: Grids,
    probes: Mapping[str, Probe],
    means: Mapping[str, Array],
) -> Model:
    clone = model.clone()
    units = [u for u in find_units(clone.graph, target, probes) if u.node.id == node_id]
    plan = Plan(tuple(units), (), 0.0, 0.0)
    tensors = [q for q in quantized_tensors(plan, target) if q.tensor.name in grids.params]
    Inserter(clone.graph, target, settings, grids, means).insert(plan, tensors)
    return clone
