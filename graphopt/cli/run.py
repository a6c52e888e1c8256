"""``graphopt run MODEL --passes P -o OUT``: the main job."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.cli import arguments as args

if TYPE_CHECKING:
    from graphopt.cli.console import Output
    from graphopt.pipeline.job import Job


def run(
    model: args.ModelPath,
    passes: args.PassesOption = "",
    out: args.OutputOption = None,
    target: args.TargetOption = "ort-cpu",
    data: args.DataOption = None,
    eval_data: args.EvalDataOption = None,
    eval: args.EvalOption = None,
    max_drop: args.MaxDropOption = None,
    report: args.ReportOption = None,
    recipe: args.RecipeOption = None,
    set: args.SetOption = None,
    plugin: args.PluginOption = None,
    dry_run: args.DryRunOption = False,
    limit: args.LimitOption = None,
    dump: args.DumpOption = None,
    provider: args.ProviderOption = None,
    dim: args.DimOption = None,
    batch: args.BatchOption = None,
    samples: args.SamplesOption = None,
    threads: args.ThreadsOption = 1,
    preprocess: args.PreprocessOption = None,
    external: args.ExternalOption = "auto",
    cache: args.CacheOption = None,
    opset: args.OpsetOption = None,
    time: args.TimeOption = True,
    seed: args.SeedOption = 0,
    strict: args.StrictOption = False,
    force: args.ForceOption = False,
    json: args.JsonOption = False,
    verbose: args.VerboseOption = 0,
    quiet: args.QuietOption = False,
) -> None:
    """Run a pipeline of passes over a model; write, validate, compare and time the result."""
    from graphopt.pipeline.job import Job, JobData, Measuring, Where

    samples_of = JobData(data, eval_data, eval, preprocess, args.parse_dims(dim), batch, samples)
    job = Job(model, out, passes, recipe, tuple(set or ()), tuple(plugin or ()), samples_of)
    job = replace(job, where=Where(target, provider, threads, strict), measuring=Measuring(time, max_drop))
    job = replace(job, seed=seed, limit=limit, dump=dump, cache=cache, opset=opset, external=external, force=force)
    output = args.output(json, verbose, quiet)
    show_plan(job, output) if dry_run else perform(job, output, report)


def show_plan(job: Job, output: Output) -> None:
    """Show what would run."""
    from graphopt.pipeline.runner import planned

    plan = planned(job)
    lines = [line for one in plan for line in one.lines()]
    output.show("\n".join(lines) or "(no passes)")
    output.json({"plan": lines, "passes": plan})


def perform(job: Job, output: Output, report: Path | None) -> None:
    """Run the job; show, report, and end as the exit codes say.

    Raises:
        UsageError: ``report`` is a file.
        BudgetError: a budget was not met.
        UnsupportedError: there are warnings, and the run is strict.
    """
    from graphopt.errors import BudgetError, UnsupportedError, UsageError
    from graphopt.pipeline.runner import run_job
    from graphopt.report.terminal import show_run
    from graphopt.results import counted

    if report is not None and report.exists() and not report.is_dir():
        raise UsageError(f"--report {report}: there is a file of that name; name a folder")
    with output.following() as follow:
        result = replace(run_job(job, follow), command=shlex.join(["graphopt", *sys.argv[1:]]))
    if report is not None:
        from graphopt.report.html import write

        result = replace(result, report=str(report / "report.html"))
        write(result, report)
    output.show(*show_run(result, None if output.verbosity > 0 else 12))
    output.json(result)
    for warning in result.warnings:
        output.warn(warning)
    if result.shortfall:
        saved = "the best model found was saved" if job.output is not None else "nothing was saved (no -o)"
        raise BudgetError(f"{result.shortfall}; {saved}")
    if job.where.strict and result.warnings:
        saved = "; the result was saved" if job.output is not None else ""
        raise UnsupportedError(f"--strict: {counted(len(result.warnings), 'warning')}{saved}")
