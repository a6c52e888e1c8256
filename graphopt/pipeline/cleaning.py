"""Base of the passes that clean a graph with small rewrites of single nodes and their surroundings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from typing_extensions import TypeVar

from graphopt.model import Model
from graphopt.pipeline.context import Context
from graphopt.pipeline.options import Options
from graphopt.pipeline.passes import Guarantee, Pass, weakest
from graphopt.pipeline.rewrite import RewriteOptions
from graphopt.transforms.clean.editing import Editor, Rewrite, tensor_facts

KEEPS_FACTS = frozenset({tensor_facts.__name__})
"""What a pass preserves that changes the model through an editor only."""

CleanOptionsT = TypeVar("CleanOptionsT", bound=RewriteOptions, default=RewriteOptions)


def open_editor(model: Model, ctx: Context) -> Editor:
    """An editor of the model; its facts come from the cache when nothing changed since they were found."""
    return Editor(model, ctx, ctx.get(tensor_facts))


class CleaningPass(Pass[CleanOptionsT]):
    """A pass made of rewrites that need facts (symbolic shapes and values), applied until none applies any more.

    Attributes:
        rewrites: the rewrites, tried in this order on each node.
    """

    options_type: ClassVar[type[Options]] = RewriteOptions
    preserves = KEEPS_FACTS
    reports = True
    rewrites: ClassVar[Sequence[Rewrite]] = ()

    def selected(self) -> tuple[Rewrite, ...]:
        """The rewrites that the options let run."""
        return tuple(r for r in self.rewrites if r.guarantee == "exact" or self.options.guarantee != "exact")

    def effective_guarantee(self) -> Guarantee:
        """The weakest guarantee of the rewrites that run."""
        return weakest([r.guarantee for r in self.selected()])

    def run(self, model: Model, ctx: Context) -> None:
        """Apply the rewrites and remove what is not needed any more."""
        editor = open_editor(model, ctx)
        editor.run(self.selected())
        editor.finish()
