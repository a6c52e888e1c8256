"""``graphopt replay FILE``: run the reproducer of a failed pass again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli import arguments as args


def replay(
    file: Annotated[Path, typer.Argument(help="A reproducer: a zip file or a folder.", show_default=False)],
    data: args.DataOption = None,
    plugin: args.PluginOption = None,
    json: args.JsonOption = False,
    verbose: args.VerboseOption = 0,
    quiet: args.QuietOption = False,
) -> None:
    """Run the reproducer that a failed pass left. Ends as the pass ends: with its error and exit code, or well."""
    from graphopt.pipeline.context import Settings
    from graphopt.pipeline.instruments import Verify
    from graphopt.pipeline.numerics import Numerics
    from graphopt.pipeline.registry import Registry
    from graphopt.pipeline.reproducer import open_reproducer_data, read_record, reproducer_inputs
    from graphopt.pipeline.reproducer import replay as run_again
    from graphopt.report.terminal import pass_table

    out = args.output(json, verbose, quiet)
    registry = Registry()
    for spec in plugin or ():
        registry.load_plugin(spec)
    record = read_record(file)
    out.say(f"pipeline {record.pipeline}, seed {record.seed}, target {record.target}; it failed with: {record.error}")
    samples = None if data is None else open_reproducer_data(file, data)
    check = samples or reproducer_inputs(file, record.seed)
    instruments = (Verify(None if check is None else Numerics(check)),)
    run = run_again(file, registry, Settings(data=samples), instruments)
    out.show(pass_table(run.passes), "it did not fail this time")
    out.json({"record": record, "passes": run.passes})
