"""``graphopt run MODEL --passes P -o OUT``: the main job."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli import arguments as args


def run(
    model: args.ModelPath,
    passes: Annotated[str, typer.Option("--passes", help="The pipeline: prune:keep_macs=0.7,quantize")] = "",
    out: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to write the result.", show_default=False)
    ] = None,
    target: args.TargetOption = "ort-cpu",
    data: args.DataOption = None,
    eval_data: args.EvalDataOption = None,
    eval: args.EvalOption = None,
    max_drop: Annotated[
        float | None, typer.Option("--max-drop", help="Largest loss allowed, in the metric's own unit.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Folder for report.html and report.json.", show_default=False)
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="A TOML or YAML file with the pipeline.", show_default=False)
    ] = None,
    set: Annotated[
        list[str] | None, typer.Option("--set", help="Change one option: prune.ratio=0.3", show_default=False)
    ] = None,
    plugin: args.PluginOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", help="Apply only the first N rewrites.")] = None,
    dump: Annotated[
        Path | None, typer.Option("--dump", help="Folder for the model before and after each pass.", show_default=False)
    ] = None,
    provider: args.ProviderOption = None,
    dim: args.DimOption = None,
    batch: args.BatchOption = None,
    samples: args.SamplesOption = None,
    threads: args.ThreadsOption = 1,
    preprocess: args.PreprocessOption = None,
    external: Annotated[str, typer.Option("--external", help="Weights of the result: auto, inline or file.")] = "auto",
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder that keeps statistics between runs.", show_default=False)
    ] = None,
    opset: Annotated[int | None, typer.Option("--opset", help="Convert to this opset first.")] = None,
    time: Annotated[bool, typer.Option(help="Time the result against the input.")] = True,
    seed: args.SeedOption = 0,
    strict: args.StrictOption = False,
    force: args.ForceOption = False,
    json: args.JsonOption = False,
    verbose: args.VerboseOption = 0,
    quiet: args.QuietOption = False,
) -> None:
    """Run a pipeline of passes over a model; write, validate, compare and time the result."""
    from graphopt.errors import BudgetError, UsageError
    from graphopt.pipeline.job import Job, JobData, Measuring, Where
    from graphopt.pipeline.runner import planned, run_job
    from graphopt.report.terminal import show_run

    output = args.output(json, verbose, quiet)
    job = Job(
        model=model,
        output=out,
        pipeline=passes,
        recipe=recipe,
        overrides=tuple(set or ()),
        plugins=tuple(plugin or ()),
        data=JobData(data, eval_data, eval, preprocess, args.parse_dims(dim), batch, samples),
        where=Where(target, provider, threads, strict),
        measuring=Measuring(time=time, max_drop=max_drop),
        seed=seed,
        limit=limit,
        dump=dump,
        cache=cache,
        opset=opset,
        external=external,
        force=force,
    )
    if report is not None and report.exists() and not report.is_dir():
        raise UsageError(f"--report {report}: there is a file of that name; name a folder")
    if dry_run:
        plan = planned(job)
        lines = [line for one in plan for line in one.lines()]
        output.show("\n".join(lines) or "(no passes)")
        output.json({"plan": lines, "passes": plan})
        return
    with output.following() as follow:
        result = replace(run_job(job, follow), command=shlex.join(["graphopt", *sys.argv[1:]]))
    if report is not None:
        from graphopt.report.html import write

        result = replace(result, report=str(report / "report.html"))
        write(result, report)
    output.show(*show_run(result, None if verbose else 12))
    output.json(result)
    for warning in result.warnings:
        output.say(f"warning: {warning}", "yellow")
    if result.shortfall:
        saved = "the best model found was saved" if out is not None else "nothing was saved (no -o)"
        raise BudgetError(f"{result.shortfall}; {saved}")
