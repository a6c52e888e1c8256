"""``graphopt compare A B``: how far the outputs of B are from those of A."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.cli import arguments as args


def compare(
    first: args.ModelPath,
    second: args.ModelPath,
    data: args.DataOption = None,
    eval: args.EvalOption = None,
    tol: Annotated[
        float | None, typer.Option("--tol", help="Largest error allowed, as a share of the output's range.")
    ] = None,
    provider: args.ProviderOption = None,
    optimize: Annotated[bool, typer.Option(help="Let the runtime optimize both graphs.")] = True,
    dim: args.DimOption = None,
    batch: args.BatchOption = None,
    samples: args.SamplesOption = None,
    threads: args.ThreadsOption = 1,
    preprocess: args.PreprocessOption = None,
    seed: args.SeedOption = 0,
    json: args.JsonOption = False,
    verbose: args.VerboseOption = 0,
    quiet: args.QuietOption = False,
) -> None:
    """Compare the outputs of two models on the same data, per output, and accuracy where there are labels."""
    from graphopt.cli.feeding import Feeding, model_file
    from graphopt.errors import ValidationError
    from graphopt.report.terminal import accuracy_line, comparison_table
    from graphopt.runtime.compare import compare as compare_models
    from graphopt.runtime.evaluate import evaluate, load_metric
    from graphopt.runtime.session import Session, SessionConfig

    out = args.output(json, verbose, quiet)
    config = SessionConfig(provider or "cpu", threads, "all" if optimize else "off")
    before = Session(model_file(first), config)
    after = Session(model_file(second), config)
    feeds = Feeding(data, args.parse_dims(dim), batch, samples, preprocess, seed).open(before.interface)
    comparison = compare_models(before, after, feeds, batch=batch)
    accuracy = evaluate(load_metric(eval), before, after, feeds, seed) if eval else comparison.accuracy
    out.show(comparison_table(comparison))
    if accuracy is not None:
        out.show(accuracy_line(accuracy))
    out.json({"comparison": comparison, "accuracy": accuracy, "worst_error_of_range": comparison.worst})
    if tol is not None and not comparison.worst <= tol:
        raise ValidationError(f"the outputs differ by {comparison.worst:.3g} of their range, more than --tol {tol:g}")
