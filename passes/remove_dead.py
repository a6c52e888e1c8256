"""Remove what no output needs."""

from __future__ import annotations

from graphopt.model import Model
from graphopt.pipeline.context import Context
from graphopt.pipeline.passes import Pass


class RemoveDead(Pass):
    """Removes nodes and initializers that no output needs. Inputs and outputs of the model stay."""

    guarantee = "exact"
    preserves = frozenset({"tensor_facts"})
    reports = True

    def run(self, model: Model, ctx: Context) -> None:
        """Remove them."""
        if model.graph.has_dead() and ctx.allow(None, "remove"):
            ctx.count("removed", model.graph.remove_dead())
            ctx.report_change()
