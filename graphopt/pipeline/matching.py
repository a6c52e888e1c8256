"""Matches a pattern at a node. Backtracks over the order of commutative inputs; never leaves the root's graph."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.graph import Graph
from graphopt.ir import Array, Constant, Node, Tensor, Variable, constant_node, constant_value, is_constant
from graphopt.pipeline.attributes import attribute
from graphopt.pipeline.patterns import MAX_UNIFORM, Const, Op, Out, Var


@dataclass(frozen=True)
class Match:
    """One place where a pattern fits.

    Attributes:
        graph: the graph that holds the matched nodes.
        root: the node that the whole pattern ends in.
        nodes: the node of each matched ``Op``.
        named: bound nodes, tensors and lists of tensors by name.
    """

    graph: Graph
    root: Node
    nodes: dict[Op, Node] = field(default_factory=dict)
    named: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        """The tensor bound by ``Var`` or ``Const``."""
        tensor: Tensor = self._bound(name)
        return tensor

    def __contains__(self, name: str) -> bool:
        return name in self.named

    def tensors(self, name: str) -> list[Tensor]:
        """The tensors bound by ``Rest``."""
        tensors: list[Tensor] = self._bound(name)
        return tensors

    def node(self, name: str) -> Node:
        """The node bound by ``Op(..., name=...)``."""
        node: Node = self._bound(name)
        return node

    def value(self, name: str) -> Array:
        """The array of a tensor bound by ``Const``; read-only."""
        value = constant_value(self[name])
        if value is None:
            raise GraphoptError(f"{self[name].name!r} has no value in the file")
        return value

    def attr(self, node: str, name: str) -> Any:
        """An attribute of a bound node, with the operator's default filled in."""
        found = self.node(node)
        return attribute(found, name, self.graph.domain_opset(found.domain))

    @property
    def opset(self) -> int:
        """Version of the ai.onnx operators."""
        return self.graph.opset

    def _bound(self, name: str) -> Any:
        if name not in self.named:
            raise GraphoptError(f"the pattern binds nothing called {name!r} here; it binds {', '.join(self.named)}")
        return self.named[name]


class Matcher:
    """Finds matches in one model. ``home`` gives the graph of a node; ``outputs`` are those of all graphs."""

    def __init__(self, home: dict[Node, Graph], outputs: set[Tensor]) -> None:
        self.home = home
        self.outputs = outputs

    def find(self, pattern: Op, root: Node) -> Match | None:
        """The first match of the pattern whose last node is ``root``."""
        start = Match(self.home[root], root)
        return next((m for m in self._node(pattern, root, start) if self._closed(pattern, m)), None)

    def _node(self, pattern: Op, node: Node, match: Match) -> Iterator[Match]:
        if pattern in match.nodes:
            if match.nodes[pattern] is node:
                yield match
            return
        if not self._fits(pattern, node, match):
            return
        named = match.named if pattern.name is None else _bind(match.named, pattern.name, node)
        if named is None:
            return
        match = replace(match, nodes={**match.nodes, pattern: node}, named=named)
        inputs = node.inputs
        yield from self._inputs(pattern, inputs, match)
        if pattern.commutative and len(pattern.inputs) == 2 and len(inputs) == 2 and pattern.rest is None:
            yield from self._inputs(pattern, inputs[::-1], match)

    def _fits(self, pattern: Op, node: Node, match: Match) -> bool:
        if node.op not in pattern.ops or (node.domain or "") != pattern.domain:
            return False
        if self.home.get(node) is not match.graph:
            return False
        if pattern.rest is None and any(not t.is_empty() for t in node.inputs[len(pattern.inputs) :]):
            return False
        if any(self._used(t) for t in node.outputs[pattern.outputs :]):
            return False
        opset = match.graph.domain_opset(node.domain)
        return all(_will_do(wanted, attribute(node, name, opset)) for name, wanted in pattern.attrs.items())

    def _inputs(self, pattern: Op, inputs: Sequence[Tensor], match: Match) -> Iterator[Match]:
        if pattern.rest is not None:
            rest = [t for t in inputs[len(pattern.inputs) :] if not t.is_empty()]
            named = _bind(match.named, pattern.rest.name, rest)
            if named is None:
                return
            match = replace(match, named=named)
        yield from self._remaining(pattern.inputs, inputs, 0, match)

    def _remaining(
        self, patterns: Sequence[Var | Const | Op | Out], inputs: Sequence[Tensor], at: int, match: Match
    ) -> Iterator[Match]:
        if at == len(patterns):
            yield match
            return
        tensor = inputs[at] if at < len(inputs) and not inputs[at].is_empty() else None
        for bound in self._tensor(patterns[at], tensor, match):
            yield from self._remaining(patterns, inputs, at + 1, bound)

    def _tensor(self, pattern: Var | Const | Op | Out, tensor: Tensor | None, match: Match) -> Iterator[Match]:
        match pattern:
            case Var() | Const():
                if tensor is None:
                    found = match if pattern.optional else None
                elif isinstance(pattern, Const) and not _constant_fits(pattern, tensor):
                    found = None
                else:
                    named = _bind(match.named, pattern.name, tensor)
                    found = None if named is None else replace(match, named=named)
                if found is not None:
                    yield found
            case Op() | Out():
                op, index = (pattern.op, pattern.index) if isinstance(pattern, Out) else (pattern, 0)
                if isinstance(tensor, Variable) and tensor.inputs:
                    producer = tensor.inputs[0]
                    if index < len(producer.outputs) and producer.outputs[index] is tensor:
                        yield from self._node(op, producer, match)

    def _closed(self, pattern: Op, match: Match) -> bool:
        """Whether nodes inside the match are used inside it only, unless the pattern lets them be shared."""
        inside = set(match.nodes.values())
        return all(
            op is pattern or op.shared or not any(self._used(t, inside) for t in node.outputs)
            for op, node in match.nodes.items()
        )

    def _used(self, tensor: Tensor, inside: Iterable[Node] = ()) -> bool:
        """Whether a graph returns the tensor or a node other than those ``inside`` reads it."""
        return tensor in self.outputs or any(n not in inside for n in tensor.outputs)


def _bind(named: dict[str, Any], name: str, thing: Any) -> dict[str, Any] | None:
    """The bindings with one more, or None when the name means something else already."""
    if name not in named:
        return {**named, name: thing}
    return named if named[name] is thing else None


def _constant_fits(pattern: Const, tensor: Tensor) -> bool:
    if not is_constant(tensor):
        return False
    if pattern.value is None and pattern.where is None:
        return constant_node(tensor) is None or constant_value(tensor) is not None
    size = _size(tensor)
    if pattern.value is not None and (size == 0 or size > MAX_UNIFORM):
        return False
    value = constant_value(tensor)
    if value is None or (pattern.value is not None and not np.all(value == pattern.value)):
        return False
    return pattern.where is None or pattern.where(value)


def _size(tensor: Tensor) -> int:
    """Elements, without reading weights of a file."""
    if isinstance(tensor, Constant):
        return math.prod(tensor.shape)
    value = constant_value(tensor)
    return 0 if value is None else value.size


def _will_do(wanted: Any, value: Any) -> bool:
    if callable(wanted):
        return bool(wanted(value))
    if isinstance(value, np.ndarray) or isinstance(wanted, np.ndarray):
        return np.array_equal(value, wanted)
    return bool(value == wanted)
