"""``graphopt bisect MODEL --passes P --check CMD``: the first rewrite that breaks a check."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from graphopt.cli import arguments as args


def bisect(
    model: args.ModelPath,
    passes: Annotated[str, typer.Option("--passes", help="The pipeline.")],
    check: Annotated[str, typer.Option("--check", help="A command; {} is the model file. Status 0 is good.")],
    timeout: Annotated[float | None, typer.Option(help="Seconds that the command may take.")] = None,
    target: args.TargetOption = "ort-cpu",
    data: args.DataOption = None,
    plugin: args.PluginOption = None,
    seed: args.SeedOption = 0,
    json: args.JsonOption = False,
    verbose: args.VerboseOption = 0,
    quiet: args.QuietOption = False,
) -> None:
    """Find the first rewrite of a pipeline after which a command fails, by binary search."""
    from graphopt.cli.feeding import model_file
    from graphopt.data.interface import read_interface
    from graphopt.data.open import open_data
    from graphopt.model import load
    from graphopt.pipeline.bisect import bisect as find
    from graphopt.pipeline.bisect import command_check
    from graphopt.pipeline.context import Settings
    from graphopt.pipeline.pipeline import Pipeline
    from graphopt.pipeline.registry import Registry
    from graphopt.results import counted

    out = args.output(json, verbose, quiet)
    registry = Registry()
    for spec in plugin or ():
        registry.load_plugin(spec)
    samples = None if data is None else open_data(data, read_interface(model_file(model)), seed=seed)
    settings = Settings(target=target, seed=seed, data=samples)
    pipeline = Pipeline.parse(passes, registry)
    result = find(load(model_file(model)), pipeline, registry, command_check(check, timeout), settings)
    again = ["graphopt", "run", str(model), "--passes", passes, "--limit", str(result.limit)]
    again += [word for spec in plugin or () for word in ("--plugin", spec)]
    again += ["--target", target] if target != "ort-cpu" else []
    again += ["--data", data] if data is not None else []
    again += ["--seed", str(seed)] if seed else []
    out.show(
        f"rewrite {result.limit} of {result.total} breaks the check: {result.culprit}",
        f"found in {counted(result.runs, 'run')}; see it with: {shlex.join(again)} -o OUT",
        *([f"the pipeline itself failed there: {result.error}"] if result.error else []),
    )
    out.json(result)
