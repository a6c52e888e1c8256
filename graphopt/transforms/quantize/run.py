"""One quantization: attempts on copies of the model, each with more known about what has to stay in float."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from graphopt.analysis.statistics import (
    ChannelMoments,
    ChannelMomentsAccumulator,
    Histogram,
    HistogramAccumulator,
    Request,
    Statistics,
    collect,
)
from graphopt.data.feeds import DEFAULT_BATCH, Dataset
from graphopt.ir import Array, Node
from graphopt.model import Model
from graphopt.targets.base import Target
from graphopt.targets.profile import Profile
from graphopt.transforms.quantize.config import QuantConfig, Quantized
from graphopt.transforms.quantize.equalization import Evening, changed_tensors, equalized, smoothing_nodes
from graphopt.transforms.quantize.grids import Grids, QuantizedTensor, choose_grids, quantized_tensors
from graphopt.transforms.quantize.insert import Inserter, Settings
from graphopt.transforms.quantize.plan import Choice, Plan, make_plan
from graphopt.transforms.quantize.probe import Probe
from graphopt.transforms.quantize.ranges import CLIPPING_WEIGHTS, Wish
from graphopt.transforms.quantize.report import KernelReport, kernel_report
from graphopt.transforms.quantize.rounding import Rounded
from graphopt.transforms.quantize.units import Unit, find_units

_ROUNDS = 3
_BYTES = 4
_SMOOTHS = "it evens out the channel ranges of what is rounded next"


class Run:
    """A float model, its statistics, and what is known about its layers.

    Attributes:
        clipping: weight of clipping errors in the choice of ranges.
        moments: of the input channels of layers, by tensor.
        wishes: what single tensors get instead, by name.
        rounded: weights that were rounded already, by id of their node.
        penalties: microseconds that count against units on integers, by node id, in the attempts that follow.
    """

    def __init__(
        self,
        model: Model,
        data: Dataset,
        target: Target,
        config: QuantConfig,
        settings: Settings,
        profile: Profile | None,
        probes: Mapping[str, Probe],
    ) -> None:
        self.model, self.data, self.target, self.config = model, data, target, config
        self.settings, self.profile, self.probes = settings, profile, probes
        self.clipping = CLIPPING_WEIGHTS[len(CLIPPING_WEIGHTS) // 2]
        self.wishes: Mapping[str, Wish] = {}
        self.rounded: Mapping[int, Rounded] = {}
        self.penalties: Mapping[int, float] = {}
        self._why: dict[int, str] = {}
        self._histograms: dict[str, HistogramAccumulator] = {}
        self._seen: Mapping[str, HistogramAccumulator] = {}
        self._rest: tuple[Dataset, ...] = ()
        self.moments: dict[str, ChannelMomentsAccumulator] = {}

    @property
    def means(self) -> dict[str, Array]:
        """Means of the input channels of layers, by tensor."""
        return {n: m.mean for n, m in self.moments.items()}

    def evened(self, evenings: Sequence[Evening]) -> Run:
        """The same on a copy of the model with its channel ranges evened out; statistics that hold are kept.

        Extremes of the probes are those from before, which only tell masks from activations.
        """
        model = equalized(self.model, evenings).clone()
        smoothing = smoothing_nodes(model.graph, evenings)
        probes = dict(self.probes) | {n.outputs[0].name: self.probes[n.inputs[0].name] for n in smoothing}
        run = Run(model, self.data, self.target, self.config, self.settings, self.profile, probes)
        changed = {n for e in evenings for n in changed_tensors(e.link)}
        run.clipping = self.clipping
        run._histograms = {n: h for n, h in self._histograms.items() if n not in changed}
        run.moments = {n: m for n, m in self.moments.items() if n not in changed}
        run._why = {n.id: _SMOOTHS for n in smoothing}
        return run

    def on(self, data: Dataset, rest: Sequence[Dataset] = ()) -> Run:
        """The same with other calibration data, whose ranges are still to be found; moments need few samples.

        ``rest``: the parts of ``data`` that this run has not seen, where it has seen the others.
        """
        run = Run(self.model, data, self.target, self.config, self.settings, self.profile, self.probes)
        run.clipping, run.penalties, run._why = self.clipping, self.penalties, dict(self._why)
        run.wishes, run.rounded = self.wishes, self.rounded
        run.moments = dict(self.moments)
        run._seen, run._rest = (self._histograms, tuple(rest)) if rest else ({}, ())
        return run

    def settled(self, penalties: Mapping[int, float]) -> Quantized | None:
        """Attempts until every kernel is really integer; None when nothing is left."""
        self.penalties = penalties
        done = self.attempt(penalties)
        if not self.config.check or self.target.provider != "CPUExecutionProvider":
            return done
        for _ in range(_ROUNDS):
            if done is None:
                return None
            done.report = kernel_report(done.model, done.plan.integer)
            if not self._note_missed(done.report):
                break
            done = self.attempt(penalties)
        return done

    def planned(self, penalties: Mapping[int, float]) -> Plan:
        """The plan alone, for a copy of the model."""
        return self._plan(self.model.clone(), penalties)

    def attempt(self, penalties: Mapping[int, float], rounded: Mapping[int, Rounded] | None = None) -> Quantized | None:
        """Plan, calibrate and insert, on a copy; None when nothing becomes integer."""
        work = self.model.clone()
        plan = self._plan(work, penalties)
        if not any(u.rule.kind == "compute" for u in plan.integer):
            return None
        tensors = quantized_tensors(plan, self.target)
        self._calibrate(work, plan, tensors)
        grids = self._grids(work, plan, tensors, self.wishes)
        outputs = {u.node.id: biased(u).outputs[0].name for u in plan.integer}
        inserter = Inserter(work.graph, self.target, self.settings, grids, self.means)
        inserted = inserter.insert(plan, tensors, self.rounded if rounded is None else rounded)
        return Quantized(
            work, plan, grids, tensors, inserted, self.settings, self.probes, outputs, self.target
        )  # fmt: skip

    def grids_at(self, wishes: Iterable[Wish]) -> dict[Wish, Grids]:
        """The grids of the present plan when all tensors get each of the wishes."""
        work = self.model.clone()
        plan = self._plan(work, self.penalties)
        tensors = quantized_tensors(plan, self.target)
        self._calibrate(work, plan, tensors)
        return {w: self._grids(work, plan, tensors, {q.tensor.name: w for q in tensors}) for w in wishes}

    def _grids(self, work: Model, plan: Plan, tensors: Sequence[QuantizedTensor], wishes: Mapping[str, Wish]) -> Grids:
        grid, method = self.settings.activation, self.config.method
        ends, trained = _ends(work), self.settings.trained
        return choose_grids(plan, tensors, self._histograms, grid, method, ends, self.clipping, trained, wishes)

    def _plan(self, work: Model, penalties: Mapping[int, float]) -> Plan:
        units = find_units(work.graph, self.target, self.probes)
        for unit in units:
            unit.why_float = unit.why_float or self._why.get(unit.node.id, "")
        choice = Choice(_on_any(self.config.keep_float), _on_any(self.config.force))
        return make_plan(work.graph, self.target, units, self.probes, self.profile, choice, penalties)

    def _calibrate(self, work: Model, plan: Plan, tensors: Sequence[QuantizedTensor]) -> None:
        """Histograms of the tensors, and channel means of what layers read, as far as they are not known yet."""
        names = [q.tensor.name for q in tensors if q.tensor.name not in self._histograms]
        inputs = {
            u.node.inputs[0].name: 1 if u.node.op == "Conv" else -1
            for u in plan.integer
            if u.weight is not None and u.node.inputs[0].name not in self.moments
        }
        moments = {n: Request.of(n, ChannelMoments(axis)) for n, axis in inputs.items()}
        known = [n for n in names if n in self._seen]
        histograms = {n: Request.of(n, Histogram()) for n in names if n not in self._seen}
        stats = self._collect(work, self.data, [*histograms.values(), *moments.values()])
        self._histograms |= {n: stats.typed(r, HistogramAccumulator) for n, r in histograms.items()}
        self.moments |= {n: stats.typed(r, ChannelMomentsAccumulator) for n, r in moments.items()}
        self._widen(work, known)

    def _widen(self, work: Model, names: Sequence[str]) -> None:
        """Histograms of tensors of which a part of the data was seen before."""
        requests = {n: Request.of(n, Histogram()) for n in names}
        for name in names:
            self._histograms[name] = Histogram().create()
            self._histograms[name].merge(self._seen[name])
        for part in self._rest:
            stats = self._collect(work, part, list(requests.values()))
            for name, request in requests.items():
                self._histograms[name].merge(stats.typed(request, HistogramAccumulator))

    def _collect(self, work: Model, data: Dataset, requests: Sequence[Request]) -> Statistics:
        if not requests:
            return Statistics({}, 0)
        batch = self.batch(n for r in requests for n in r.tensors)
        return collect(work, data, requests, batch=batch, max_memory=self.config.max_memory)

    def batch(self, names: Iterable[str]) -> int:
        """Rows a run: as given, or so few that the tensors fill a quarter of the memory and one pass will do."""
        if self.config.batch is not None:
            return self.config.batch
        row = sum(_BYTES * self.probes[n].elements for n in set(names) if n in self.probes)
        return max(1, min(DEFAULT_BATCH, self.config.max_memory // 4 // max(row, 1)))

    def _note_missed(self, report: KernelReport) -> bool:
        """Mark the units that did not become integer kernels; whether there are new ones."""
        fresh = {k.unit.node.id: k.runs_as for k in report.missed if k.unit.node.id not in self._why}
        for key, op in fresh.items():
            self._why[key] = f"ONNX Runtime runs it as {op} in float in spite of Q/DQ around it"
        return bool(fresh)


def biased(unit: Unit) -> Node:
    """The node that adds the bias."""
    return unit.node if unit.bias_add is None else unit.bias_add[0]


def _ends(model: Model) -> set[int]:
    return {id(t) for g in model.graph.graphs() for t in g.outputs}


def _on_any(test: Callable[[Node], bool]) -> Callable[[Unit], bool]:
    return lambda unit: any(test(n) for n in (unit.node, *unit.chain))
