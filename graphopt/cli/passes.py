"""``graphopt passes [NAME]``: what there is, and the options of one pass."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.cli import arguments as args


def passes(
    name: Annotated[str | None, typer.Argument(help="Show this pass and its options.", show_default=False)] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of the options.")] = False,
    plugin: args.PluginOption = None,
    json: args.JsonOption = False,
    verbose: args.VerboseOption = 0,
    quiet: args.QuietOption = False,
) -> None:
    """List the passes, or describe one with its options."""
    from graphopt.pipeline.registry import Registry
    from graphopt.report.options import describe, options_table, passes_table

    out = args.output(json or schema, verbose, quiet)
    registry = Registry()
    for spec in plugin or ():
        registry.load_plugin(spec)
    if name is None:
        rows = [describe(registry.passes.get(n)) for n in registry.passes.names()]
        out.show(passes_table(rows))
        out.json({"passes": rows})
        return
    kind = registry.passes.get(name)
    row = describe(kind)
    if not schema:
        out.show(f"{kind.name} ({kind.guarantee}): {(kind.__doc__ or '').strip()}", options_table(row.options))
    out.json(kind.options_type.model_json_schema() if schema else row)
