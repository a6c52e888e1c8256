"""Base of the passes that clean a graph with small rewrites of single nodes and their surroundings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from graphopt.model import Model
from graphopt.pipeline.context import Context
from graphopt.pipeline.passes import Guarantee, Pass, weakest
from graphopt.pipeline.rewrite import RewriteOptions
from graphopt.transforms.editing import Editor, Rewrite


class CleaningPass(Pass[RewriteOptions]):
    """A pass made of declared rewrites, applied until none applies any more.

    Attributes:
        rewrites: the rewrites, tried in this order on each node.
    """

    rewrites: ClassVar[Sequence[Rewrite]] = ()

    def effective_guarantee(self) -> Guarantee:
        """The weakest guarantee of the rewrites that run."""
        exact = self.options.guarantee == "exact"
        return weakest([r.guarantee for r in self.rewrites if r.guarantee == "exact" or not exact])

    def run(self, model: Model, ctx: Context) -> None:
        """Apply the rewrites and remove what is not needed any more."""
        editor = Editor(model.graph, ctx)
        editor.run(self.rewrites, exact_only=self.options.guarantee == "exact")
        editor.finish()
