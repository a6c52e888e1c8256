"""``graphopt inspect MODEL``: what is in a model, what it costs, what can be pruned."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.cli import arguments as args


def inspect(
    model: args.ModelPath,
    dim: args.DimOption = None,
    plugin: args.PluginOption = None,
    units: Annotated[bool, typer.Option(help="Find what can be pruned and what freezes the rest.")] = True,
    json: args.JsonOption = False,
    verbose: args.VerboseOption = 0,
    quiet: args.QuietOption = False,
) -> None:
    """Show interface, operators, parameters and MACs, the prunable units, and what froze each frozen axis."""
    from graphopt.analysis.inspection import inspect_model
    from graphopt.model import load
    from graphopt.report.inspection import inspection_items, prunable_items

    out = args.output(json, verbose, quiet)
    loaded = load(model)
    found = inspect_model(loaded, args.parse_dims(dim))
    out.show(*inspection_items(model.name, found))
    found_units = None
    if units:
        from graphopt.analysis.labels import analyse
        from graphopt.pipeline.extensions import rules_of
        from graphopt.pipeline.registry import Registry
        from graphopt.transforms.inspection import prunable
        from graphopt.transforms.selection_units import find_units

        loaded.inline_functions()
        registry = Registry()
        for spec in plugin or ():
            registry.load_plugin(spec)
        found_units = prunable(find_units(analyse(loaded.graph, rules=rules_of(registry))))
        out.show(*prunable_items(found_units, None if verbose else 15))
    out.json({"model": found, "prunable": found_units})
