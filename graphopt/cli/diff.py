"""``graphopt diff A B``: what changed in the graph, the weights and the interface."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.cli import arguments as args


def diff(
    first: args.ModelPath,
    second: args.ModelPath,
    all: Annotated[bool, typer.Option("--all", help="List every change, not only the first 40.")] = False,
    json: args.JsonOption = False,
    verbose: args.VerboseOption = 0,
    quiet: args.QuietOption = False,
) -> None:
    """Compare two models structurally: operators, interface, nodes and weights."""
    from graphopt.analysis.difference import difference
    from graphopt.model import load
    from graphopt.report.terminal import change_table, operator_table

    out = args.output(json, verbose, quiet)
    result = difference(load(first), load(second))
    out.show(operator_table(result.operators))
    if result.same:
        out.show("The models are the same.")
    else:
        out.show(change_table(result.changes, None if all or verbose else 40))
    out.json({"same": result.same, "difference": result})
