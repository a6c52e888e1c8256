"""Static quantization of a model for a target: probe, plan, calibrate, insert, check what really became integer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from graphopt.analysis.statistics import (
    ChannelMoments,
    ChannelMomentsAccumulator,
    Gram,
    GramAccumulator,
    Histogram,
    HistogramAccumulator,
    Request,
    collect,
)
from graphopt.data.feeds import Dataset
from graphopt.errors import UnsupportedError
from graphopt.ir import Array, Node, constant_value
from graphopt.model import Model
from graphopt.targets.base import Target
from graphopt.targets.profile import Profile, load_profile
from graphopt.transforms.bias_correction import CorrectedLayer, correct_biases
from graphopt.transforms.qdq_grids import Grids, QuantizedTensor, choose_grids, quantized_tensors
from graphopt.transforms.qdq_insert import Inserted, Inserter, Settings
from graphopt.transforms.qdq_opset import raise_opset
from graphopt.transforms.qdq_plan import Choice, Plan, make_plan
from graphopt.transforms.qdq_probe import Probe, probe
from graphopt.transforms.qdq_report import KernelReport, kernel_report
from graphopt.transforms.qdq_sensitivity import Sensitivity, measured_sqnr, rank_layers, too_noisy
from graphopt.transforms.qdq_units import Unit, find_units
from graphopt.transforms.ranges import Method
from graphopt.transforms.rounding import MAX_FEATURES, Rounded, patches_of, round_weight
from graphopt.transforms.weight_grids import weight_scale

_ROUNDS = 3
_USABLE_DB = 15.0
_BIAS_BLOCKS = 8
_POSITIONS = 64


@dataclass(frozen=True)
class QuantConfig:
    """How to quantize.

    Attributes:
        types: flavour such as ``u8s8``; None for the target's own.
        per_channel: a scale for each output channel of a weight where the target can.
        method: how ranges are found.
        reduced: weights use 7 bits; None: when the profile's device has no VNNI-like instructions.
        keep_float, force: which nodes stay in float, and which become integer even where that is slower.
        profile: latency profile to decide by; None for the target's own.
        fidelity: signal to noise at the outputs in dB, as estimated, below which the noisiest units for their gain stay
            in float; 0 turns that off. ``slack``: share of the expected gain that may be given up for it.
        check: load the result and put back in float what ONNX Runtime does not run on integers.
        best: learned rounding and sequential bias correction.
        batch: rows a run; None lets the data decide.
    """

    types: str | None = None
    per_channel: bool = True
    method: Method = "auto"
    reduced: bool | None = None
    keep_float: Callable[[Node], bool] = lambda _: False
    force: Callable[[Node], bool] = lambda _: False
    profile: Profile | None = None
    check: bool = True
    fidelity: float = 30.0
    slack: float = 0.15
    best: bool = False
    batch: int | None = None
    max_memory: int = 1 << 30


@dataclass
class Quantized:
    """What was done, on ``model``. ``outputs``: names that the layers' outputs had before, by id of their node."""

    model: Model
    plan: Plan
    grids: Grids
    tensors: Sequence[QuantizedTensor]
    inserted: Inserted
    settings: Settings
    probes: Mapping[str, Probe]
    outputs: Mapping[int, str]
    target: Target
    report: KernelReport | None = None
    raised_from: int | None = None
    profile: Profile | None = None
    notes: tuple[str, ...] = ()
    ranking: Sequence[Sensitivity] = ()


def quantize_model(model: Model, data: Dataset, target: Target, config: QuantConfig) -> Quantized | None:
    """Quantize ``model`` in place; None when the target gains nothing from any layer (the model is as it was).

    Raises:
        UnsupportedError: the target has no int8, or the model is float16.
        DataError: no data, or values that are not finite.
        UsageError: the target does not take ``types``.
    """
    if target.no_int8:
        raise UnsupportedError(f"target {target.name}: {target.no_int8}. Leave the model in float there")
    activation, weight = target.grids(config.types, config.per_channel)
    profile = config.profile or (load_profile(target.profile) if target.profile else None)
    reduced = config.reduced if config.reduced is not None else bool(profile and not profile.vnni)
    settings = Settings(activation, weight, reduced and bool(target.reduced_without), weight.int_type.high < 64)
    before = model.opsets[""]
    work = model.clone()
    _name_nodes_apart(work)
    probes = probe(work, data)
    raised = raise_opset(work, {n: len(p.shape) for n, p in probes.items()})
    _refuse_half(work, probes)
    if raised:
        probes = probe(work, data)
    run = _Run(work.clone(), data, target, config, settings, profile, probes)
    done = run.settle()
    if done is None:
        return None
    if config.best:
        report = done.report
        done = run.refine(done)
        done.report = None if report is None else kernel_report(done.model, done.plan.integer)
    model.graph, model.functions, model.ir_version = done.model.graph, done.model.functions, done.model.ir_version
    done.ranking, done.profile = run.ranking, profile
    done.raised_from = before if raised else None
    return done


class _Run:
    """One quantization: attempts on copies of the model, each with more units known to stay in float."""

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
        self.ranking: list[Sensitivity] = []
        self._why: dict[int, str] = {}
        self._histograms: dict[str, HistogramAccumulator] = {}
        self._means: dict[str, Array] = {}

    def settle(self) -> Quantized | None:
        """Attempts until the noise is low enough and every kernel is really integer; None when nothing is left."""
        done = self.attempt()
        if done is not None and self.config.fidelity > 0 and self.keep_quiet(done):
            done = self.attempt()
        if not self.config.check or self.target.provider != "CPUExecutionProvider":
            return done
        for _ in range(_ROUNDS):
            if done is None:
                return None
            done.report = kernel_report(done.model, done.plan.integer)
            if not self.note_missed(done.report):
                break
            done = self.attempt()
        return self.usable(done)

    def usable(self, done: Quantized | None) -> Quantized | None:
        """Put the noisiest layers back in float until the outputs, as measured, are good for something at all."""
        left = [s for s in self.ranking if done is not None and s.node_id in {u.node.id for u in done.plan.integer}]
        while done is not None and left and measured_sqnr(self.model, done.model, self.data) < _USABLE_DB:
            for item in left[: max(1, len(left) // 4)]:
                self._why[item.node_id] = f"the outputs kept less than {_USABLE_DB:g} dB with it"
            left = left[max(1, len(left) // 4) :]
            done = self.attempt()
            if done is not None:
                done.report = kernel_report(done.model, done.plan.integer)
        return done

    def attempt(self, rounded: Mapping[int, Rounded] | None = None) -> Quantized | None:
        """Plan, calibrate and insert, on a copy; None when nothing becomes integer."""
        work = self.model.clone()
        config, target = self.config, self.target
        units = find_units(work.graph, target, self.probes)
        for unit in units:
            unit.why_float = unit.why_float or self._why.get(unit.node.id, "")
        choice = Choice(_on_any(config.keep_float), _on_any(config.force))
        plan = make_plan(work.graph, target, units, self.probes, self.profile, choice)
        if not any(u.rule.kind == "compute" for u in plan.integer):
            return None
        tensors = quantized_tensors(plan, target)
        self._calibrate(work, plan, tensors)
        grids = choose_grids(plan, tensors, self._histograms, self.settings.activation, config.method, _ends(work))
        outputs = {u.node.id: _biased(u).outputs[0].name for u in plan.integer}
        inserter = Inserter(work.graph, target, self.settings, grids, self._means)
        return Quantized(
            work,
            plan,
            grids,
            tensors,
            inserter.insert(plan, tensors, rounded),
            self.settings,
            self.probes,
            outputs,
            target,
        )

    def _calibrate(self, work: Model, plan: Plan, tensors: Sequence[QuantizedTensor]) -> None:
        """Histograms of the tensors, and channel means of what layers read, as far as they are not known yet."""
        names = [q.tensor.name for q in tensors if q.tensor.name not in self._histograms]
        inputs = {
            u.node.inputs[0].name: 1 if u.node.op == "Conv" else -1
            for u in plan.integer
            if u.weight is not None and u.node.inputs[0].name not in self._means
        }
        histograms = {n: Request.of(n, Histogram()) for n in names}
        moments = {n: Request.of(n, ChannelMoments(axis)) for n, axis in inputs.items()}
        requests = [*histograms.values(), *moments.values()]
        if not requests:
            return
        config = self.config
        stats = collect(work, self.data, requests, batch=config.batch, max_memory=config.max_memory)
        self._histograms |= {n: stats.typed(r, HistogramAccumulator) for n, r in histograms.items()}
        self._means |= {n: stats.typed(r, ChannelMomentsAccumulator).mean for n, r in moments.items()}

    def refine(self, done: Quantized) -> Quantized:
        """Effort ``best``: learned rounding of the weights, then sequential correction of the biases."""
        refined = self.attempt(round_layers(self.model, self.data, done, self.config.batch, self.config.max_memory))
        assert refined is not None
        layers = corrected_layers(refined)
        config = self.config
        shifts = correct_biases(
            self.model, refined.model, layers, self.data, _BIAS_BLOCKS, config.batch, config.max_memory
        )
        worst = max(shifts.items(), key=lambda i: i[1], default=("", 0.0))
        refined.notes = (
            f"biases of {len(shifts)} layers corrected; the largest mean error was {worst[1]:.2f} deviations of a "
            f"channel, in {worst[0]}",
        )
        return refined

    def keep_quiet(self, done: Quantized) -> bool:
        """Measure the noise of each unit at the outputs and mark those that make too much; whether there are any."""
        self.ranking = rank_layers(
            self.model, self.data, self.target, self.settings, done.plan, done.grids, self.probes
        )
        dropped = too_noisy(self.ranking, done.plan.gains, self.config.fidelity, self.config.slack)
        for item in dropped:
            self._why[item.node_id] = f"alone it makes noise of {item.sqnr_db:.1f} dB at the outputs"
        return bool(dropped)

    def note_missed(self, report: KernelReport) -> bool:
        """Mark the units that did not become integer kernels; whether there are new ones."""
        fresh = {k.unit.node.id: k.runs_as for k in report.missed if k.unit.node.id not in self._why}
        for key, op in fresh.items():
            self._why[key] = f"ONNX Runtime runs it as {op} in float in spite of Q/DQ around it"
        return bool(fresh)


def round_layers(
    model: Model, data: Dataset, done: Quantized, batch: int | None, max_memory: int
) -> dict[int, Rounded]:
    """Learned rounding for every layer of the plan whose input rows are known and not too wide, by node id."""
    units = {u.node.id: u for u in done.plan.integer if u.rule.kind == "compute"}
    requests: dict[int, tuple[Unit, Request]] = {}
    for unit in find_units(model.graph, done.target, done.probes):
        shape, axis = unit.weight_shape, unit.weight_axis()
        if unit.node.id not in units or shape is None or axis is None or not done.settings.weight.per_channel:
            continue
        patches = patches_of(unit.node, shape, _POSITIONS)
        if patches is not None and math.prod(shape) // shape[axis] <= MAX_FEATURES:
            requests[unit.node.id] = (unit, Request.of(unit.node.inputs[0].name, Gram(patches)))
    stats = collect(model, data, [r for _, r in requests.values()], batch=batch, max_memory=max_memory)
    kind, reduced = done.settings.weight.int_type, done.settings.reduced
    found: dict[int, Rounded] = {}
    for key, (unit, request) in requests.items():
        weight, axis = unit.weight, unit.weight_axis()
        value = None if weight is None else constant_value(weight)
        if value is None or axis is None:
            continue
        step = done.grids.params[unit.node.inputs[0].name].scale
        scale = weight_scale(value, axis, kind, reduced)
        gram = stats.typed(request, GramAccumulator)
        found[key] = round_weight(value, axis, gram, scale, kind, reduced, step, done.settings.search)
    return found


def corrected_layers(done: Quantized) -> list[CorrectedLayer]:
    """The layers whose bias can take up a mean error."""
    found = []
    for unit in done.plan.integer:
        if unit.node.id not in done.inserted.biases:
            continue
        bias, scale = done.inserted.biases[unit.node.id]
        axis = 1 if unit.node.op == "Conv" else -1
        output = _biased(unit).outputs[0].name
        found.append(CorrectedLayer(unit.label, done.outputs[unit.node.id], output, axis, bias, scale))
    return found


def _biased(unit: Unit) -> Node:
    """The node that adds the bias."""
    return unit.node if unit.bias_add is None else unit.bias_add[0]


def _ends(model: Model) -> set[int]:
    return {id(t) for g in model.graph.graphs() for t in g.outputs}


def _on_any(test: Callable[[Node], bool]) -> Callable[[Unit], bool]:
    return lambda unit: any(test(n) for n in (unit.node, *unit.chain))


def _name_nodes_apart(model: Model) -> None:
    """Give nodes whose name another node has a new one; ONNX Runtime does not load duplicates."""
    seen: set[str] = set()
    for node in model.graph.walk():
        if node.name in seen:
            node.name = model.graph.unique_name(node.name)
        if node.name:
            seen.add(node.name)


def _refuse_half(model: Model, probes: Mapping[str, Probe]) -> None:
    halves = [c for g in model.graph.graphs() for c in g.initializers if c.dtype == "float16" and len(c.shape) > 1]
    if halves and not probes:
        raise UnsupportedError(
            f"weights such as {halves[0].name!r} are float16; integer kernels start from float32. "
            "Quantize the float32 model, or cast this one to float32 first"
        )
