"""Static quantization of a model for a target: probe, plan, calibrate, insert, check what really became integer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
        check: load the result and put back in float what ONNX Runtime does not run on integers.
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
    batch: int | None = None
    max_memory: int = 1 << 30


@dataclass
class Quantized:
    """What was done."""

    plan: Plan
    grids: Grids
    tensors: Sequence[QuantizedTensor]
    inserted: Inserted
    settings: Settings
    probes: Mapping[str, Probe]
    report: KernelReport | None = None
    raised_from: int | None = None
    missed: list[tuple[str, str]] = field(default_factory=list)


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
    missed: dict[int, str] = {}
    names: dict[str, HistogramAccumulator] = {}
    for _ in range(_ROUNDS):
        work = model.clone()
        done = _attempt(work, data, target, config, settings, profile, probes, names, missed)
        if done is None:
            return None
        if not config.check or target.provider != "CPUExecutionProvider":
            break
        done.report = kernel_report(work, done.plan.integer)
        fresh = {k.unit.node.id: k.runs_as for k in done.report.missed if k.unit.node.id not in missed}
        if not fresh:
            break
        missed |= fresh
    model.graph = work.graph
    done.raised_from = before if raised else None
    return done


def _attempt(
    work: Model,
    data: Dataset,
    target: Target,
    config: QuantConfig,
    settings: Settings,
    profile: Profile | None,
    probes: Mapping[str, Probe],
    known: dict[str, HistogramAccumulator],
    missed: Mapping[int, str],
) -> Quantized | None:
    units = find_units(work.graph, target, probes)
    for unit in units:
        if unit.node.id in missed and not unit.why_float:
            unit.why_float = f"ONNX Runtime runs it as {missed[unit.node.id]} in float, Q/DQ around it or not"
    choice = Choice(_on_any(config.keep_float), _on_any(config.force))
    plan = make_plan(work.graph, target, units, probes, profile, choice)
    if not any(u.rule.kind == "compute" for u in plan.integer):
        return None
    tensors = quantized_tensors(plan, target)
    wanted = [q.tensor.name for q in tensors if q.tensor.name not in known]
    if wanted:
        known.update(collect_histograms(work, data, wanted, config.batch, config.max_memory))
    grids = choose_grids(plan, tensors, known, settings.activation, config.method)
    inserted = Inserter(work.graph, target, settings, grids).insert(plan, tensors)
    return Quantized(plan, grids, tensors, inserted, settings, probes)


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
