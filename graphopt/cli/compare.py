"""``graphopt compare A B``: how far the outputs of B are from those of A, and where inside the models part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.cli import arguments as args

if TYPE_CHECKING:
    from graphopt.cli.console import Output
    from graphopt.cli.feeding import Feeding
    from graphopt.data.feeds import Dataset
    from graphopt.results import TensorProfile
    from graphopt.runtime.session import SessionConfig

PROFILED = 64
"""Samples that inner tensors are compared on, at most."""


def compare(
    first: args.ModelPath,
    second: args.ModelPath,
    data: args.DataOption = None,
    eval: args.EvalOption = None,
    tol: args.TolOption = None,
    tensors: args.TensorsOption = True,
    threshold: args.ThresholdOption = None,
    manifest: args.ManifestOption = None,
    plugin: args.PluginOption = None,
    html: args.HtmlOption = None,
    provider: args.ProviderOption = None,
    optimize: args.OptimizeOption = True,
    dim: args.DimOption = None,
    batch: args.BatchOption = None,
    samples: args.SamplesOption = None,
    threads: args.ThreadsOption = 1,
    preprocess: args.PreprocessOption = None,
    seed: args.SeedOption = 0,
    force: args.ForceOption = False,
    json: args.JsonOption = False,
    verbose: args.VerboseOption = 0,
    quiet: args.QuietOption = False,
) -> None:
    """Compare two models on the same data: outputs, inner tensors, and accuracy where there are labels."""
    from graphopt.cli.feeding import Feeding, model_file
    from graphopt.errors import UsageError, ValidationError
    from graphopt.runtime.session import SessionConfig

    if html is not None and html.exists() and not force:
        raise UsageError(f"{str(html)!r} exists; --force overwrites it")
    if manifest is not None and not tensors:
        raise UsageError("--manifest says how inner tensors are compared; leave out --no-tensors")
    files = model_file(first), model_file(second)
    config = SessionConfig(provider or "cpu", threads, "all" if optimize else "off", fit_floats=True)
    feeding = Feeding(data, args.parse_dims(dim), batch, samples, preprocess, seed)
    inside = Inside(threshold, optimize, batch or 1, threads, manifest, tuple(plugin or ())) if tensors else None
    worst = shown(files, feeding, config, inside, eval, html, args.output(json, verbose, quiet))
    if tol is not None and not worst <= tol:
        raise ValidationError(f"the outputs differ by {worst:.3g} of their range, more than --tol {tol:g}")


@dataclass(frozen=True)
class Inside:
    """How inner tensors are compared; ``manifest`` and ``plugins`` say which channels were kept."""

    threshold: float | None
    optimize: bool
    batch: int
    threads: int
    manifest: Path | None
    plugins: tuple[str, ...]


def shown(
    files: tuple[Path, Path],
    feeding: Feeding,
    config: SessionConfig,
    inside: Inside | None,
    metric: str | None,
    html: Path | None,
    out: Output,
) -> float:
    """Compare, show and write; gives the largest error of an output as a share of its range."""
    from graphopt.report.divergence import profile_items, write_page
    from graphopt.report.terminal import accuracy_line, comparison_table
    from graphopt.runtime.compare import compare as compare_models
    from graphopt.runtime.evaluate import evaluate, load_metric
    from graphopt.runtime.session import Session

    before, after = (Session(path, config) for path in files)
    feeds = feeding.open(before.interface)
    comparison = compare_models(before, after, feeds, batch=feeding.batch, score=metric is None)
    accuracy = comparison.accuracy
    if metric is not None:
        accuracy = evaluate(load_metric(metric), before, after, feeds, feeding.seed)
    out.show(comparison_table(comparison))
    if accuracy is not None:
        out.show(accuracy_line(accuracy))
    profile = None if inside is None else profiled(files, feeds, inside, out)
    if profile is not None:
        out.show(*profile_items(profile, out.verbosity > 0))
    if html is not None:
        write_page((files[0].name, files[1].name), comparison, accuracy, profile, html)
        out.say(f"wrote {html}")
    parted = None if profile is None else profile.first
    result = {"comparison": comparison, "accuracy": accuracy, "worst_error_of_range": comparison.worst}
    out.json({**result, "first_divergence": parted, "tensors": profile})
    return comparison.worst


def profiled(files: tuple[Path, Path], data: Dataset, inside: Inside, out: Output) -> TensorProfile | None:
    """The inner tensors of two files on at most 64 samples; None, with a warning why, where that cannot be had.

    Raises:
        UsageError: the manifest is not one of the first model.
    """
    from graphopt.analysis.divergence import ProfileConfig, tensor_profile
    from graphopt.errors import GraphoptError
    from graphopt.model import load
    from graphopt.pipeline.extensions import rules_of
    from graphopt.pipeline.registry import Registry
    from graphopt.transforms.prune.kept import kept_positions

    first = load(files[0])
    config = ProfileConfig(inside.threshold, inside.optimize, inside.batch, inside.threads)
    if inside.manifest is not None:
        registry = Registry()
        for spec in inside.plugins:
            registry.load_plugin(spec)
        config = replace(config, kept=kept_positions(first, inside.manifest, rules_of(registry)))
    part = data.select(range(min(PROFILED, len(data))))
    try:
        return tensor_profile(first, load(files[1]), part, config)
    except GraphoptError as error:
        out.warn(f"inner tensors not compared: {error}")
        return None
