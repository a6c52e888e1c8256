"""``graphopt inspect MODEL``: what is in a model, what it costs, what can be pruned."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.cli import arguments as args


def inspect(
    model: args.ModelPath,
    target: args.TargetOption = "ort-cpu",
    dim: args.DimOption = None,
    plugin: args.PluginOption = None,
    units: Annotated[bool, typer.Option(help="Find what can be pruned and what freezes the rest.")] = True,
    json: args.JsonOption = False,
    verbose: args.VerboseOption = 0,
    quiet: args.QuietOption = False,
) -> None:
    """Show interface, operators, parameters and MACs, what bounds each node, and what can be pruned."""
    from graphopt.analysis.inspection import inspect_model
    from graphopt.analysis.roofline import layer_bounds, peaks_of
    from graphopt.model import load
    from graphopt.pipeline.registry import Registry
    from graphopt.report.inspection import heaviest_table, inspection_items, prunable_items
    from graphopt.report.roofline import bound_items
    from graphopt.targets import get_target

    out = args.output(json, verbose, quiet)
    registry = Registry()
    for spec in plugin or ():
        registry.load_plugin(spec)
    loaded = load(model)
    dims = args.parse_dims(dim)
    found = inspect_model(loaded, dims)
    out.show(*inspection_items(model.name, found))
    peaks = peaks_of(get_target(target))
    bounds = None if peaks is None or found.unbound_dims else layer_bounds(loaded, peaks, dims)
    if peaks is None or bounds is None:
        out.show(heaviest_table(found))
    else:
        out.show(*bound_items(target, peaks, bounds, None if verbose else 15))
    found_units = None
    if units:
        from graphopt.analysis.labels import analyse
        from graphopt.pipeline.extensions import rules_of
        from graphopt.transforms.prune.inspection import prunable
        from graphopt.transforms.prune.selection_units import find_units

        loaded.inline_functions()
        found_units = prunable(find_units(analyse(loaded.graph, rules=rules_of(registry))))
        out.show(*prunable_items(found_units, None if verbose else 15))
    out.json({"model": found, "peaks": peaks, "bounds": bounds, "prunable": found_units})
