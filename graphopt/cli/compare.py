"""``graphopt compare A B``: how far the outputs of B are from those of A, and where inside the models part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphopt.cli import arguments as args

if TYPE_CHECKING:
    from collections.abc import Callable

    from graphopt.analysis.divergence import ProfileConfig
    from graphopt.data.feeds import Dataset
    from graphopt.results import TensorProfile

PROFILED = 64
"""Samples that inner tensors are compared on, at most."""


def compare(
    first: args.ModelPath,
    second: args.ModelPath,
    data: args.DataOption = None,
    eval: args.EvalOption = None,
    tol: Annotated[
        float | None, typer.Option("--tol", help="Largest error allowed, as a share of the output's range.")
    ] = None,
    tensors: Annotated[
        bool, typer.Option(help="Also compare the inner tensors, on the CPU, and find the first that differs.")
    ] = True,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="SQNR in dB under which an inner tensor has diverged.",
            show_default="60; 40 with float16, 20 with Q/DQ in a model",
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Also write the comparison as an HTML page.")] = None,
    provider: args.ProviderOption = None,
    optimize: Annotated[bool, typer.Option(help="Let the runtime optimize both graphs.")] = True,
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
    from graphopt.analysis.divergence import ProfileConfig
    from graphopt.cli.feeding import Feeding, model_file
    from graphopt.errors import UsageError, ValidationError
    from graphopt.report.divergence import profile_items, write_page
    from graphopt.report.terminal import accuracy_line, comparison_table
    from graphopt.runtime.compare import compare as compare_models
    from graphopt.runtime.evaluate import evaluate, load_metric
    from graphopt.runtime.session import Session, SessionConfig

    out = args.output(json, verbose, quiet)
    if html is not None and html.exists() and not force:
        raise UsageError(f"{str(html)!r} exists; --force overwrites it")
    config = SessionConfig(provider or "cpu", threads, "all" if optimize else "off", fit_floats=True)
    before = Session(model_file(first), config)
    after = Session(model_file(second), config)
    feeds = Feeding(data, args.parse_dims(dim), batch, samples, preprocess, seed).open(before.interface)
    comparison = compare_models(before, after, feeds, batch=batch, score=eval is None)
    accuracy = evaluate(load_metric(eval), before, after, feeds, seed) if eval else comparison.accuracy
    out.show(comparison_table(comparison))
    if accuracy is not None:
        out.show(accuracy_line(accuracy))
    profile = None
    if tensors:
        profile = profiled(first, second, feeds, ProfileConfig(threshold, optimize, batch or 1, threads), out.say)
    if profile is not None:
        out.show(*profile_items(profile, bool(verbose)))
    if html is not None:
        write_page((first.name, second.name), comparison, accuracy, profile, html)
        out.say(f"wrote {html}")
    parted = None if profile is None else profile.first
    result = {"comparison": comparison, "accuracy": accuracy, "worst_error_of_range": comparison.worst}
    out.json({**result, "first_divergence": parted, "tensors": profile})
    if tol is not None and not comparison.worst <= tol:
        raise ValidationError(f"the outputs differ by {comparison.worst:.3g} of their range, more than --tol {tol:g}")


def profiled(
    first: Path, second: Path, data: Dataset, config: ProfileConfig, say: Callable[[str], None]
) -> TensorProfile | None:
    """The inner tensors of two files on at most 64 samples; None, with a word why, where that cannot be had."""
    from graphopt.analysis.divergence import tensor_profile
    from graphopt.errors import GraphoptError
    from graphopt.model import load

    part = data.select(range(min(PROFILED, len(data))))
    try:
        return tensor_profile(load(first), load(second), part, config)
    except GraphoptError as error:
        say(f"inner tensors not compared: {error}")
        return None
