"""One run from file to file: load, passes, validation, comparison, saving, timing."""

from __future__ import annotations

import hashlib
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Literal, cast

from graphopt.analysis.cost import unbound_dims
from graphopt.analysis.difference import operators
from graphopt.analysis.layer_times import layer_times
from graphopt.analysis.layers import layer_changes
from graphopt.analysis.node_profile import profile_model
from graphopt.analysis.roofline import layer_bounds, peaks_of
from graphopt.analysis.weight_histograms import weight_histograms
from graphopt.checker import checker_problem
from graphopt.data.feeds import Batch
from graphopt.data.interface import Interface, read_interface
from graphopt.data.shape_profile import ShapeProfile, profile_of_feeds
from graphopt.data.split import split
from graphopt.errors import InvalidModelError, UsageError, ValidationError
from graphopt.model import Model, load
from graphopt.pipeline.context import Progress, Settings, silent
from graphopt.pipeline.instruments import Dump, Instrument, Verify
from graphopt.pipeline.job import Job
from graphopt.pipeline.job_data import RunData, open_run_data, synthetic_data
from graphopt.pipeline.manager import PassManager, Run
from graphopt.pipeline.numerics import Numerics, excess, few, rounding_noise
from graphopt.pipeline.overrides import apply_overrides
from graphopt.pipeline.passes import weakest
from graphopt.pipeline.pipeline import Pipeline, Plan, expand
from graphopt.pipeline.place import Place, place_of
from graphopt.pipeline.recipe import read_recipe
from graphopt.pipeline.registry import Registry
from graphopt.pipeline.reproducer import Reproducer
from graphopt.pipeline.run_warnings import warnings_of
from graphopt.pipeline.search import open_knobs, search
from graphopt.pipeline.stats import measure
from graphopt.results import (
    Accuracy,
    Comparison,
    LayerBound,
    ModelFile,
    NodeTime,
    PlannedPass,
    RunResult,
    counted,
    numbered,
    timed_names,
)
from graphopt.runtime.compare import compare
from graphopt.runtime.evaluate import check_labels, evaluate, load_metric
from graphopt.runtime.footprint import measure_footprint
from graphopt.runtime.materialize import session_source
from graphopt.runtime.openvino_session import OpenVinoSession
from graphopt.runtime.profile import profile_nodes
from graphopt.runtime.session import Session, SessionConfig
from graphopt.runtime.timing import Contender, TimingPlan, time_models
from graphopt.targets.registry import get_target
from graphopt.transforms.quantize.casting import emulated

PACKAGES = ("graphopt", "onnx", "onnxruntime", "numpy")


@dataclass
class _Bench:
    """What a run carries along: the job, its data, its place, the input model, and notes on how it was searched."""

    job: Job
    place: Place
    data: RunData
    source: Session
    notes: list[str] = field(default_factory=list)

    @property
    def config(self) -> SessionConfig:
        return self.source.config

    def batch(self) -> Batch:
        """One batch of the scoring data, to time with."""
        return next(iter(self.data.scoring.iter_batches(self.job.data.batch or 1)))


def registry_of(job: Job) -> Registry:
    """All passes, those of the job's plugins included."""
    registry = Registry()
    for spec in job.plugins:
        registry.load_plugin(spec)
    return registry


def pipeline_of(job: Job, registry: Registry) -> Pipeline:
    """The job's pipeline, from its text or its recipe, with its overrides.

    Raises:
        UsageError: there are both a text and a recipe, or something in them is wrong.
    """
    if job.recipe is not None and job.pipeline:
        raise UsageError("give --passes or --recipe, not both; --set changes single options of either")
    pipeline = read_recipe(job.recipe, registry) if job.recipe else Pipeline.parse(job.pipeline, registry)
    return apply_overrides(pipeline, job.overrides)


def planned(job: Job) -> tuple[PlannedPass, ...]:
    """What a run would do, composites expanded. Nothing runs."""
    registry = registry_of(job)
    get_target(job.where.target)
    check_output(job, read_input(job))
    return _numbered_plans(expand(pipeline_of(job, registry), registry, has_data=True))


def _numbered_plans(plans: Sequence[Plan], prefix: str = "") -> tuple[PlannedPass, ...]:
    return tuple(
        PlannedPass(f"{prefix}{place}", str(plan.step), _numbered_plans(plan.inner, f"{prefix}{place}."))
        for place, plan in enumerate(plans, 1)
    )


def run_job(job: Job, progress: Progress = silent) -> RunResult:
    """Do the job. The output file appears only when the result was validated.

    Raises:
        GraphoptError: see the exit codes in ``graphopt.errors``.
    """
    registry = registry_of(job)
    pipeline = pipeline_of(job, registry)
    model = read_input(job)
    check_output(job, model)
    bench = _open(job, model)
    original = model.clone()
    if job.measuring.max_drop is None:
        run, shortfall = _transform(bench, model, pipeline, registry, progress), ""
    else:
        run, pipeline, shortfall = _searched(bench, original, pipeline, registry, progress)
    model = run.model
    guarantee = weakest([p.guarantee for p in run.passes])  # type: ignore[misc]
    with session_source(emulated(model) if bench.place.optimize == "off" else model) as source:
        after = Session(source, bench.config, role="result", name="the result")
        comparison, accuracy = _judge(bench, after)
    problem = excess(comparison, guarantee)
    if problem and guarantee == "equivalent":
        problem = excess(comparison, guarantee, rounding_noise(original, few(bench.data.scoring), bench.config))
    if problem and bench.place.optimize == "off":
        raise ValidationError(f"the passes promise {guarantee} outputs, but {problem}")
    if not comparison.finite:
        raise ValidationError("the result gives NaN or infinite values where the input model does not")
    output = None
    if job.output is not None:
        model.save(job.output, cast(Literal["auto", "inline", "file"], job.external), job.force)
        output = describe_file(job.output)
    result = _measured(bench, run, original, comparison, accuracy, output, str(pipeline))
    return replace(result, shortfall=shortfall or _over_budget(job, accuracy))


def version_of(module: str) -> str:
    """The version of a module that is loaded, whichever distribution brought it (onnxruntime-gpu, -openvino, ...)."""
    return str(import_module(module).__version__)


def read_input(job: Job) -> Model:
    """Load and check the model; convert its opset when asked.

    Raises:
        InvalidModelError: the file or the model in it is not valid.
    """
    model = load(job.model)
    problem = checker_problem(model)
    if problem and "No Op registered" not in problem:
        raise InvalidModelError(f"{str(job.model)!r} is not a valid model: {problem}")
    if job.opset is not None and job.opset != model.graph.opset:
        model.convert_opset(job.opset)
    return model


def check_output(job: Job, model: Model) -> None:
    """Find out before any work whether the output could be written.

    Raises:
        UsageError: it exists without ``--force``, or is the input.
    """
    if job.output is None:
        return
    target = job.output.resolve()
    if target in {p.resolve() for p in (*model.files(), job.model)}:
        raise UsageError(f"{str(job.output)!r} is the file that the model is read from; write to another one")
    if target.is_dir() or not target.parent.is_dir():
        raise UsageError(f"{str(job.output)!r} is no place for a file; name a file in an existing folder")
    if target.exists() and not job.force:
        raise UsageError(f"{str(job.output)!r} exists; choose another name or pass --force")


def describe_file(path: Path) -> ModelFile:
    """Name, bytes and SHA-256 of a model, its data files included."""
    files = sorted(load(path).files() | {path.resolve()})
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            while chunk := handle.read(1 << 20):
                digest.update(chunk)
    return ModelFile(path.name, sum(f.stat().st_size for f in files), digest.hexdigest())


def _open(job: Job, model: Model) -> _Bench:
    place = place_of(job.where)
    interface = read_interface(job.model)
    data = open_run_data(job.data, interface, model, job.seed)
    config = SessionConfig(
        place.provider, job.where.threads, place.optimize, strict=job.where.strict, fit_floats=True
    )  # fmt: skip
    if place.provider != "cpu":
        config = replace(config, cache_dir=job.cache, shapes=_shapes(job, interface, data))
    bench = _Bench(job, place, data, Session(job.model, config, name=job.model.name))
    if job.data.metric is None and data.scoring.labelled:
        check_labels(bench.source, bench.batch())
    return bench


def _shapes(job: Job, interface: Interface, data: RunData) -> ShapeProfile:
    """Shapes from one sample to a full batch of the scoring data, so that an engine is built once."""
    batches = (next(iter(data.scoring.iter_batches(size))).feeds for size in (job.data.batch, 1))
    return profile_of_feeds(interface, tuple(batches))


def _transform(bench: _Bench, model: Model, pipeline: Pipeline, registry: Registry, progress: Progress) -> Run:
    job = bench.job
    calibration = bench.data.calibration
    needs = any("data" in step.requirements() for plan in expand(pipeline, registry, True) for step in plan.leaves())
    if calibration is None and needs:
        calibration = synthetic_data(job.data, bench.source.interface, model, job.seed)
    settings = Settings(job.where.target, job.seed, calibration, job.cache, progress, job.where.threads)
    instruments: list[Instrument] = [Verify(Numerics(bench.data.scoring)), Reproducer(arguments=_replay_arguments(job))]
    if job.dump is not None:
        instruments.append(Dump(job.dump))
    manager = PassManager(registry, settings, instruments=instruments, limit=job.limit, measure=measure)
    return manager.run(model, pipeline)


def _replay_arguments(job: Job) -> str:
    """What ``graphopt replay`` needs beside the reproducer."""
    words = [word for spec in job.plugins for word in ("--plugin", spec)]
    return shlex.join([*words, *(() if job.data.calibration is None else ("--data", job.data.calibration))])


def _searched(
    bench: _Bench, original: Model, pipeline: Pipeline, registry: Registry, progress: Progress
) -> tuple[Run, Pipeline, str]:
    """Turn the open knobs as far as ``--max-drop`` allows, scored on calibration samples set apart for it.

    Raises:
        UsageError: there is no labelled data and no metric to search with.
    """
    calibration, metric = bench.data.calibration, bench.job.data.metric
    if calibration is None or not (calibration.labelled or metric):
        raise UsageError("--max-drop needs --data with labels, or --data with --eval, to search on")
    parts = split(calibration, bench.job.seed + 1)
    bench.notes.extend(_search_notes(bench.job, pipeline, len(parts.scoring)))
    inner = replace(bench, data=replace(bench.data, calibration=parts.calibration, scoring=parts.scoring))
    limit = bench.job.measuring.max_drop or 0.0

    def build(candidate: Pipeline) -> Run:
        return _transform(inner, original.clone(), candidate, registry, progress)

    def drop_of(run: Run) -> float:
        with session_source(run.model) as source:
            after = Session(source, inner.config, role="result", name="the result")
            accuracy = _judge(inner, after)[1]
        return math.inf if accuracy is None else accuracy.drop

    found = search(pipeline, build, drop_of, limit, progress=progress)
    words = "" if found.met else f"the least drop found on the searching samples is {found.drop:.4f}, over {limit:g}"
    return found.best, found.pipeline, words


def _search_notes(job: Job, pipeline: Pipeline, samples: int) -> list[str]:
    """What limits a search under ``--max-drop``: nothing to turn, or too few samples to tell so small a drop."""
    limit = job.measuring.max_drop or 0.0
    notes = []
    if not open_knobs(pipeline):
        notes.append(f"--max-drop {limit:g} was only checked: no pass of {str(pipeline)!r} has an amount left open")
    elif job.data.metric is None and limit * samples < 2:
        notes.append(
            f"--max-drop {limit:g} was searched on {counted(samples, 'sample')}, one of which is {1 / samples:.2g}: "
            "too few to tell such a drop; give more with --data"
        )
    return notes


def _over_budget(job: Job, accuracy: Accuracy | None) -> str:
    limit = job.measuring.max_drop
    if limit is None:
        return ""
    if accuracy is None:
        return "the scoring data has no labels and there is no --eval, so the drop is not known"
    where = f"the {counted(accuracy.samples, 'scored sample')}"
    return f"the drop on {where} is {accuracy.drop:.4f}, over {limit:g}" if accuracy.drop > limit else ""


def _judge(bench: _Bench, after: Session) -> tuple[Comparison, Accuracy | None]:
    metric = bench.job.data.metric
    scoring, batch = bench.data.scoring, bench.job.data.batch
    comparison = compare(bench.source, after, scoring, batch=batch, score=metric is None)
    if metric is None:
        return comparison, comparison.accuracy
    return comparison, evaluate(load_metric(metric), bench.source, after, bench.data.scoring, bench.job.seed)


def _measured(
    bench: _Bench,
    run: Run,
    original: Model,
    comparison: Comparison,
    accuracy: Accuracy | None,
    output: ModelFile | None,
    pipeline: str,
) -> RunResult:
    job = bench.job
    timing, footprints, nodes, not_timed = None, {}, {}, bench.place.not_timed
    if output is None:
        not_timed = not_timed or "no output was written (-o)"
    elif not job.measuring.time:
        not_timed = "not asked for (--no-time)"
    elif job.output is not None and not not_timed:
        part = bench.batch()
        names = timed_names(job.model.name, job.output.name)
        files = dict(zip(names, (job.model, job.output), strict=True))
        timing = time_models([_contender(n, f, bench, part) for n, f in files.items()], TimingPlan())
        if bench.place.runtime == "onnxruntime":
            footprints = {n: measure_footprint(f, part.feeds, bench.config, processes=1) for n, f in files.items()}
            nodes = {n: _profiled(f, part, bench.config) for n, f in files.items()}
    bounds = _bounds(job, run.model)
    result = RunResult(
        input=describe_file(job.model),
        output=output,
        pipeline=pipeline,
        target=job.where.target,
        provider=bench.place.provider,
        seed=job.seed,
        data=bench.data.words,
        passes=numbered(run.passes),
        layers=layer_changes(original.graph, run.model.graph),
        comparison=comparison,
        accuracy=accuracy,
        timing=timing,
        not_timed=not_timed,
        footprints=footprints,
        node_times=nodes,
        layer_times=layer_times(original.graph, run.model.graph, tuple(nodes.values()), bounds, run.passes),
        bounds=bounds,
        operators=operators(original.graph, run.model.graph),
        histograms=weight_histograms(original.graph, run.model.graph),
        versions={name: version_of(name) for name in PACKAGES},
    )
    unscored = bench.data.scoring.labelled and job.data.metric is None
    return replace(result, warnings=warnings_of(result, (*bench.data.warnings, *bench.notes), unscored))


def _contender(name: str, file: Path, bench: _Bench, part: Batch) -> Contender:
    def opened() -> Session | OpenVinoSession:
        if bench.place.runtime == "openvino":
            return OpenVinoSession(file, bench.config.threads)
        return Session(file, bench.config)

    return Contender(name, opened(), part.feeds, part.rows, opened)


def _profiled(file: Path, part: Batch, config: SessionConfig) -> tuple[NodeTime, ...]:
    """Time per kernel, joined to the nodes of the file where the provider leaves kernels that can be told apart."""
    if config.provider != "cpu":
        return profile_nodes(file, part.feeds, config)
    return profile_model(load(file), part.feeds, config)


def _bounds(job: Job, model: Model) -> tuple[LayerBound, ...]:
    """What bounds each node of the result, for a target with a profile and a model whose shapes are known."""
    peaks = peaks_of(get_target(job.where.target))
    if peaks is None or unbound_dims(model, job.data.dims):
        return ()
    return layer_bounds(model, peaks, job.data.dims)
