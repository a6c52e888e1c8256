"""How much each integer kernel hurts the outputs: one unit at a time is quantized, the rest stays in float."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from graphopt.analysis.statistics.exposure import session_of
from graphopt.data.feeds import Dataset
from graphopt.ir import Array
from graphopt.model import Model
from graphopt.targets.base import Target
from graphopt.transforms.qdq_grids import Grids, quantized_tensors
from graphopt.transforms.qdq_insert import Inserter, Settings
from graphopt.transforms.qdq_plan import Plan
from graphopt.transforms.qdq_probe import Probe
from graphopt.transforms.qdq_units import find_units

DEFAULT_RUNS = 4
_BATCH = 4


@dataclass(frozen=True)
class Sensitivity:
    """Noise that one unit's quantization makes at the outputs, as a share of the outputs' energy."""

    node: str
    node_id: int
    noise: float

    @property
    def sqnr_db(self) -> float:
        """Signal to noise at the outputs when only this unit is quantized."""
        return float("inf") if self.noise == 0 else -10 * float(np.log10(self.noise))


def rank_layers(
    model: Model,
    data: Dataset,
    target: Target,
    settings: Settings,
    plan: Plan,
    grids: Grids,
    probes: Mapping[str, Probe],
    runs: int = DEFAULT_RUNS,
) -> list[Sensitivity]:
    """All integer units of ``plan``, the most harmful first.

    ``model`` is the float model that the plan was made for; it is not changed. Noise of different units adds up
    nearly, so the sum over the units that are left on integers estimates the noise of a mix.
    """
    feeds = [b.feeds for b in islice(data.iter_batches(_BATCH), runs)]
    with session_of(model, 1) as session:
        wanted = [_floats(session.run(f)) for f in feeds]
    energy = [max(sum(float(np.square(o[i], dtype=np.float64).sum()) for o in wanted), 1e-30) for i in _indices(wanted)]
    found = []
    for unit in plan.integer:
        if unit.rule.kind == "mover":
            continue
        clone = _only(model, unit.node.id, target, settings, grids, probes)
        with session_of(clone, 1) as session:
            noise = np.zeros(len(energy))
            for feed, floats in zip(feeds, wanted, strict=True):
                for i, (a, b) in enumerate(zip(_floats(session.run(feed)), floats, strict=True)):
                    noise[i] += np.square(a - b, dtype=np.float64).sum() if a.shape == b.shape else energy[i]
        found.append(Sensitivity(unit.label, unit.node.id, float((noise / energy).max(initial=0.0))))
    return sorted(found, key=lambda s: -s.noise)


def measured_sqnr(model: Model, other: Model, data: Dataset, runs: int = DEFAULT_RUNS) -> float:
    """Signal to noise of the worst output of ``other`` against ``model``, in dB, on the first batches."""
    feeds = [b.feeds for b in islice(data.iter_batches(_BATCH), runs)]
    with session_of(model, 1) as one, session_of(other, 1) as two:
        pairs = [(_floats(one.run(f)), _floats(two.run(f))) for f in feeds]
    worst = np.inf
    for index in _indices([wanted for wanted, _ in pairs]):
        energy = sum(float(np.square(w[index], dtype=np.float64).sum()) for w, _ in pairs)
        noise = sum(float(np.square(f[index] - w[index], dtype=np.float64).sum()) for w, f in pairs)
        worst = min(worst, 10 * float(np.log10(max(energy, 1e-30) / max(noise, 1e-30))))
    return worst


def _only(
    model: Model, node_id: int, target: Target, settings: Settings, grids: Grids, probes: Mapping[str, Probe]
) -> Model:
    clone = model.clone()
    units = [u for u in find_units(clone.graph, target, probes) if u.node.id == node_id]
    plan = Plan(tuple(units), (), 0.0, 0.0)
    tensors = [q for q in quantized_tensors(plan, target) if q.tensor.name in grids.params]
    Inserter(clone.graph, target, settings, grids).insert(plan, tensors)
    return clone


def _floats(outputs: Mapping[str, Array]) -> list[Array]:
    return [v for v in outputs.values() if isinstance(v, np.ndarray) and v.dtype.kind == "f"]


def _indices(runs: Sequence[Sequence[Array]]) -> Iterator[int]:
    return iter(range(len(runs[0]) if runs else 0))


def too_noisy(
    ranking: Sequence[Sensitivity], gains: Mapping[int, float], fidelity_db: float, slack: float
) -> list[Sensitivity]:
    """The units to put back in float: those with most noise for the time that they save, until the rest is quiet.

    ``gains``: microseconds saved, by node id. Stops when the noise of the others adds up to no more than
    ``fidelity_db`` allows, or before more than ``slack`` (a share) of all gains is given up.
    """
    allowed = 10 ** (-fidelity_db / 10)
    left = sum(s.noise for s in ranking)
    budget = slack * sum(max(g, 0.0) for g in gains.values())
    dropped = []
    for item in sorted(ranking, key=lambda s: -s.noise / max(gains.get(s.node_id, 0.0), 1e-3)):
        if left <= allowed:
            break
        gain = max(gains.get(item.node_id, 0.0), 0.0)
        if gain > budget or item.noise < allowed / len(ranking):
            continue
        budget -= gain
        left -= item.noise
        dropped.append(item)
    return dropped
