"""Declared rewrites: a pattern, a condition, a replacement and a guarantee; and passes made of them.

::

    @rewrite(Op("Relu", Op("Relu", Var("x"))), guarantee="exact")
    def double_relu(match: Match, build: Builder) -> Tensor:
        \"\"\"Relu of Relu is Relu.\"\"\"
        return build.op("Relu", match["x"])

    class Tidy(RewritePass):
        \"\"\"Merge what follows itself.\"\"\"
        rewrites = (double_relu,)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from typing_extensions import TypeVar

from graphopt.graph import Graph
from graphopt.ir import Array, Constant, Node, Tensor, Variable
from graphopt.model import Model
from graphopt.pipeline.context import Context
from graphopt.pipeline.matching import Match
from graphopt.pipeline.options import Options, option
from graphopt.pipeline.passes import Guarantee, Pass, weakest
from graphopt.pipeline.patterns import Op

Result: TypeAlias = "Tensor | Sequence[Tensor]"


class Builder:
    """Makes the nodes and constants of one replacement."""

    def __init__(self, graph: Graph, hint: str) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self.constants: list[Constant] = []
        self._hint = hint

    def op(self, op: str, *inputs: Tensor | None, **attrs: Any) -> Variable:
        """Add an ai.onnx node with one output, and return that. None is an omitted input."""
        return self.node(op, inputs, attrs=attrs)[0]

    def node(
        self,
        op: str,
        inputs: Sequence[Tensor | None],
        outputs: int = 1,
        attrs: Mapping[str, Any] | None = None,
        domain: str = "",
    ) -> list[Variable]:
        """Add any node and return its outputs."""
        node = self.graph.add_node(op, inputs, outputs, attrs, name=self._hint, domain=domain)
        self.nodes.append(node)
        return [t for t in node.outputs if isinstance(t, Variable)]

    def constant(self, hint: str, values: Array | float | int) -> Constant:
        """Add an initializer; give the dtype that the operator wants."""
        constant = self.graph.new_constant(hint, values)
        self.constants.append(constant)
        return constant


@dataclass(frozen=True)
class Rewrite:
    """What to look for, when it is right to replace it, and by what.

    Attributes:
        name: in remarks, counts and ``bisect``.
        pattern: the tensor that is replaced.
        replacement: gives a tensor for each output of the root that is in use (one, or a sequence).
        guarantee: what is promised about the result.
        condition: True, or why not: a reason leaves a remark, False does not.
        description: one line for documentation and remarks.
    """

    name: str
    pattern: Op
    replacement: Callable[[Match, Builder], Result]
    guarantee: Guarantee = "equivalent"
    condition: Callable[[Match], bool | str] | None = None
    description: str = ""


def rewrite(
    pattern: Op, *, guarantee: Guarantee = "equivalent", condition: Callable[[Match], bool | str] | None = None
) -> Callable[[Callable[[Match, Builder], Result]], Rewrite]:
    """Turn a replacement function into a ``Rewrite`` of the same name, described by its docstring."""

    def make(replacement: Callable[[Match, Builder], Result]) -> Rewrite:
        name = getattr(replacement, "__name__", "rewrite")
        description = (replacement.__doc__ or "").strip().partition("\n")[0]
        return Rewrite(name, pattern, replacement, guarantee, condition, description)

    return make


class RewriteOptions(Options):
    """Options of every pass that is made of rewrites."""

    guarantee: Literal["exact", "equivalent"] = option(
        "equivalent", "exact: only rewrites that keep every output bit for bit; equivalent: all of them."
    )


RewriteOptionsT = TypeVar("RewriteOptionsT", bound=RewriteOptions, default=RewriteOptions)


class RewritePass(Pass[RewriteOptionsT]):
    """A pass made of rewrites, applied until none fits any more. Nested graphs included."""

    options_type: ClassVar[type[Options]] = RewriteOptions
    rewrites: ClassVar[tuple[Rewrite, ...]] = ()

    def selected(self) -> tuple[Rewrite, ...]:
        """The rewrites that the options let run."""
        return tuple(r for r in self.rewrites if r.guarantee == "exact" or self.options.guarantee != "exact")

    def effective_guarantee(self) -> Guarantee:
        """The weakest guarantee of the rewrites that run."""
        return weakest([r.guarantee for r in self.selected()])

    def run(self, model: Model, ctx: Context) -> None:
        """Apply the rewrites."""
        from graphopt.pipeline.engine import apply_rewrites

        apply_rewrites(model.graph, self.selected(), ctx)
