"""Static quantization of a model for a target: probe, plan, calibrate, insert, check what really became integer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from graphopt.analysis.statistics import HistogramAccumulator
from graphopt.data.feeds import Dataset
from graphopt.errors import UnsupportedError
from graphopt.ir import Node
from graphopt.model import Model
from graphopt.targets.base import Target
from graphopt.targets.profile import Profile, load_profile
from graphopt.transforms.qdq_grids import Grids, QuantizedTensor, choose_grids, collect_histograms, quantized_tensors
from graphopt.transforms.qdq_insert import Inserted, Inserter, Settings
from graphopt.transforms.qdq_opset import raise_opset
from graphopt.transforms.qdq_plan import Choice, Plan, make_plan
from graphopt.transforms.qdq_probe import Probe, probe
from graphopt.transforms.qdq_report import KernelReport, kernel_report
from graphopt.transforms.qdq_sensitivity import Sensitivity, rank_layers, too_noisy
from graphopt.transforms.qdq_units import Unit, find_units
from graphopt.transforms.ranges import Method

_ROUNDS = 3


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
    """What was done, on ``model``."""

    model: Model
    plan: Plan
    grids: Grids
    tensors: Sequence[QuantizedTensor]
    inserted: Inserted
    settings: Settings
    probes: Mapping[str, Probe]
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
        raise UnsupportedError(f"target {target.name}: {target.no_int8}. Use the cast pass (float16) there")
    activation, weight = target.grids(config.types, config.per_channel)
    profile = config.profile or (load_profile(target.profile) if target.profile else None)
    reduced = config.reduced if config.reduced is not None else bool(profile and not profile.vnni)
    settings = Settings(activation, weight, reduced and bool(target.reduced_without), weight.int_type.high < 64)
    before = model.opsets[""]
    probes = probe(model, data)
    raised = raise_opset(model, {n: len(p.shape) for n, p in probes.items()})
    _refuse_half(model, probes)
    if raised:
        probes = probe(model, data)
    run = _Run(model, data, target, config, settings, profile, probes)
    done = run.attempt()
    if done is None:
        return None
    if config.fidelity > 0 and run.keep_quiet(done):
        done = run.attempt()
    for _ in range(_ROUNDS):
        if done is None:
            return None
        if not config.check or target.provider != "CPUExecutionProvider":
            break
        done.report = kernel_report(done.model, done.plan.integer)
        if not run.note_missed(done.report):
            break
        done = run.attempt() or done
    model.graph = done.model.graph
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

    def attempt(self) -> Quantized | None:
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
        wanted = [q.tensor.name for q in tensors if q.tensor.name not in self._histograms]
        if wanted:
            found = collect_histograms(work, self.data, wanted, config.batch, config.max_memory)
            self._histograms.update(found)
        grids = choose_grids(plan, tensors, self._histograms, self.settings.activation, config.method, _ends(work))
        inserted = Inserter(work.graph, target, self.settings, grids).insert(plan, tensors)
        return Quantized(work, plan, grids, tensors, inserted, self.settings, self.probes)

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


def _ends(model: Model) -> set[int]:
    return {id(t) for g in model.graph.graphs() for t in g.outputs}


def _on_any(test: Callable[[Node], bool]) -> Callable[[Unit], bool]:
    return lambda unit: any(test(n) for n in (unit.node, *unit.chain))


def _refuse_half(model: Model, probes: Mapping[str, Probe]) -> None:
    halves = [c for g in model.graph.graphs() for c in g.initializers if c.dtype == "float16" and len(c.shape) > 1]
    if halves and not probes:
        raise UnsupportedError(
            f"weights such as {halves[0].name!r} are float16; integer kernels start from float32. "
            "Quantize the float32 model, or cast this one to float32 first"
        )


Effort = Literal["fast", "best"]
