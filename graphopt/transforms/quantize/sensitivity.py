"""How much each integer kernel hurts the outputs: one unit at a time is quantized, the rest stays in float."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from graphopt.ir import Array
from graphopt.model import Model
from graphopt.runtime.materialize import INLINE_BYTES
from graphopt.targets.base import Target
from graphopt.transforms.quantize.grids import Grids, QuantizedTensor, quantized_tensors
from graphopt.transforms.quantize.insert import Inserter, Settings
from graphopt.transforms.quantize.plan import Plan
from graphopt.transforms.quantize.probe import Probe
from graphopt.transforms.quantize.rounding import Rounded
from graphopt.transforms.quantize.trial import Judge, decibel
from graphopt.transforms.quantize.units import find_units

_TRIALS_OF_LARGE = 16


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


class Alone:
    """Quantizes one unit of a plan at a time.

    ``model`` is the float model that ``plan`` was made for; it is not changed. ``means`` of the layers' inputs take the
    shift that rounded weights make out again, as in the finished model; ``rounded`` holds weights that were rounded
    already, by id of their node.
    """

    def __init__(
        self,
        model: Model,
        judge: Judge,
        target: Target,
        settings: Settings,
        probes: Mapping[str, Probe],
        means: Mapping[str, Array] | None = None,
        rounded: Mapping[int, Rounded] | None = None,
    ) -> None:
        self.model, self.judge, self.target, self.settings, self.probes = model, judge, target, settings, probes
        self.means, self.rounded = means or {}, rounded or {}

    def noise(self, nodes: Collection[int], grids: Grids) -> float:
        """Noise at the outputs when only the units of these nodes are quantized, on these grids."""
        clone = self.model.clone()
        plan, tensors = self._only(clone, nodes, grids)
        Inserter(clone.graph, self.target, self.settings, grids, self.means).insert(plan, tensors, self.rounded)
        return self.judge.verdict(clone).inner

    def tensors(self, nodes: Collection[int], grids: Grids) -> list[str]:
        """Names of the tensors that get Q/DQ for the units of these nodes."""
        return [q.tensor.name for q in self._only(self.model, nodes, grids)[1]]

    def _only(self, model: Model, nodes: Collection[int], grids: Grids) -> tuple[Plan, list[QuantizedTensor]]:
        units = [u for u in find_units(model.graph, self.target, self.probes) if u.node.id in nodes]
        plan = Plan(tuple(units), (), 0.0, 0.0)
        return plan, [q for q in quantized_tensors(plan, self.target) if q.tensor.name in grids.params]


def rank_layers(alone: Alone, plan: Plan, grids: Grids) -> list[Sensitivity]:
    """All integer units of ``plan``, the most harmful first.

    Noise of different units adds up nearly, so the sum over the units that are left on integers estimates the noise of
    a mix. In a large model, each trial of which takes seconds, neighbours are tried together and share their noise.
    """
    units = [u for u in plan.integer if u.rule.kind != "mover"]
    most = _TRIALS_OF_LARGE if is_large(alone.model) else len(units)
    size = max(1, -(-len(units) // max(most, 1)))
    found = []
    for start in range(0, len(units), size):
        group = units[start : start + size]
        share = alone.noise({u.node.id for u in group}, grids) / len(group)
        found += [Sensitivity(u.label, u.node.id, share) for u in group]
    return sorted(found, key=lambda s: -s.noise)


def is_large(model: Model) -> bool:
    """Whether a session of the model takes so long to make that trials have to be few."""
    return model.weight_bytes() >= INLINE_BYTES
