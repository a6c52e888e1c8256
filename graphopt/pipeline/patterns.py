"""The language of graph patterns: ``Op("Relu", Op("Relu", Var("x")))``.

A pattern describes the tensor that its root operator produces. ``Op`` matches an operator and, recursively, its
inputs; ``Var`` matches any tensor, ``Const`` one whose value is in the file, ``Rest`` all further inputs. One
object used in two places, or one name used twice, must match one and the same node or tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from graphopt.ir import Array

COMMUTATIVE = frozenset(
    {"Add", "Mul", "And", "Or", "Xor", "Equal", "Max", "Min", "Sum", "Mean", "BitwiseAnd", "BitwiseOr", "BitwiseXor"}
)

MAX_UNIFORM = 1 << 16


@dataclass(frozen=True, eq=False)
class Var:
    """Any tensor, bound to a name. ``optional``: the input may be left out; it is then not bound."""

    name: str
    optional: bool = False


@dataclass(frozen=True, eq=False)
class Const:
    """A tensor whose value is in the file: an initializer or the output of a Constant node.

    ``value``: all elements must equal this number; arrays over ``MAX_UNIFORM`` elements are not read to find out.
    ``where``: a further condition on the array.
    """

    name: str
    value: float | None = None
    where: Callable[[Array], bool] | None = None
    optional: bool = False


@dataclass(frozen=True, eq=False)
class Rest:
    """All inputs from here on, any number; must stand last. Bound as a list."""

    name: str


@dataclass(frozen=True, eq=False)
class Out:
    """An output of an operator other than the first."""

    op: Op
    index: int


Pattern: TypeAlias = "Var | Const | Op | Out"


class Op:
    """An operator whose inputs match patterns.

    Args:
        op: operator type, or several that will all do.
        inputs: one pattern an input. A ``Var`` or ``Const`` with ``optional`` matches an omitted input too.
        name: binds the node.
        attrs: what attributes must be: a value, or a function of the value that says whether it will do. The
            operator's defaults are filled in.
        domain: operator domain; empty is ai.onnx.
        commutative: whether the two inputs may stand in either order; by default, for operators known to be so.
        shared: whether a node inside the pattern may have other consumers; it then stays in the graph.
        outputs: how many of its outputs may be in use.
    """

    def __init__(
        self,
        op: str | tuple[str, ...],
        *inputs: Var | Const | Op | Out | Rest,
        name: str | None = None,
        attrs: Mapping[str, Any] | None = None,
        domain: str = "",
        commutative: bool | None = None,
        shared: bool = False,
        outputs: int = 1,
    ) -> None:
        self.ops = (op,) if isinstance(op, str) else op
        self.inputs = tuple(i for i in inputs if not isinstance(i, Rest))
        self.rest = inputs[-1] if inputs and isinstance(inputs[-1], Rest) else None
        if len(inputs) != len(self.inputs) + (self.rest is not None):
            raise TypeError(f"pattern {'/'.join(self.ops)}: Rest must be the last input")
        self.name = name
        self.attrs = dict(attrs or {})
        self.domain = domain
        known = all(o in COMMUTATIVE for o in self.ops) and not domain
        self.commutative = known if commutative is None else commutative
        self.shared = shared
        self.outputs = outputs

    def depth(self) -> int:
        """Operators on the longest path down from here."""
        return 1 + max((i.depth() for i in self.operators()), default=0)

    def operators(self) -> Iterator[Op]:
        """The operators among the inputs."""
        for pattern in self.inputs:
            if isinstance(pattern, Op):
                yield pattern
            elif isinstance(pattern, Out):
                yield pattern.op

    def __repr__(self) -> str:
        return f"Op({'/'.join(self.ops)})"
