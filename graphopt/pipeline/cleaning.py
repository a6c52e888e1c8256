"""Base of the passes that clean a graph with small rewrites of single nodes and their surroundings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from graphopt.model import Model
from graphopt.pipeline.context import Context
from graphopt.pipeline.options import Options, option
from graphopt.pipeline.passes import Guarantee, Pass
from graphopt.transforms.editing import Editor, Rewrite


class CleanOptions(Options):
    """Options of a pass that has exact and equivalent rewrites."""

    guarantee: Literal["exact", "equivalent"] = option(
        "equivalent", "Apply only rewrites with bit-equal results (exact), or also those within 1e-5 (equivalent)."
    )


class CleaningPass(Pass[CleanOptions]):
    """A pass made of declared rewrites, applied until none applies any more.

    Attributes:
        rewrites: the rewrites, tried in this order on each node.
    """

    rewrites: ClassVar[Sequence[Rewrite]] = ()

    def effective_guarantee(self) -> Guarantee:
        """What the option says, or better."""
        applied = {r.guarantee for r in self.rewrites}
        return "exact" if self.options.guarantee == "exact" or applied == {"exact"} else "equivalent"

    def run(self, model: Model, ctx: Context) -> None:
        """Apply the rewrites and remove what is not needed any more."""
        editor = Editor(model.graph, ctx)
        editor.run(self.rewrites, exact_only=self.options.guarantee == "exact")
        editor.finish()
