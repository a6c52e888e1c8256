"""Replace calls of local functions by their bodies."""

from __future__ import annotations

from graphopt.model import Model
from graphopt.pipeline.context import Context
from graphopt.pipeline.passes import Pass


class InlineFunctions(Pass):
    """Expands every call of a function that the model defines itself. Other passes do not look into functions."""

    guarantee = "exact"
    reports = True

    def run(self, model: Model, ctx: Context) -> None:
        """Expand them."""
        if model.functions and ctx.allow(None, "inline"):
            ctx.count("functions", len(model.functions))
            model.inline_functions()
            ctx.report_change()
