"""Checks that a graph is well-formed: links, names, ids, order, outputs. Linear in nodes."""

from __future__ import annotations

from collections import ChainMap, Counter

from graphopt.errors import InvalidModelError
from graphopt.graph import Graph, subgraphs
from graphopt.ir import Constant, Node, Tensor


def verify(root: Graph) -> None:
    """Raise unless every invariant of the IR holds in ``root`` and its nested graphs.

    Raises:
        InvalidModelError: use-def lists disagree, two values share a name or an id, a value is read that nothing
            produces or before it is produced, or a graph output has no source. The message names the node.
    """
    ids: set[int] = set()
    _check(root, ChainMap(), ids)


def _check(graph: Graph, outer: ChainMap[str, Tensor], ids: set[int]) -> None:
    visible = outer.new_child()
    declared: list[Tensor] = [*graph.initializers, *(t for t in graph.inputs if not isinstance(t, Constant))]
    for tensor in declared:
        _declare(tensor, visible, ids, graph.name)
    for node in graph.nodes:
        _check_id(node, ids)
        for tensor in node.inputs:
            if tensor.is_empty():
                continue
            if visible.get(tensor.name) is not tensor:
                raise InvalidModelError(
                    f"{node!r} in graph {graph.name!r} reads {tensor.name!r}, which nothing before it produces"
                )
        for sub in subgraphs(node):
            _check(sub, visible, ids)
        for tensor in node.outputs:
            if not tensor.is_empty():
                _declare(tensor, visible, ids, graph.name)
        _check_links(node)
    for tensor in graph.outputs:
        if visible.get(tensor.name) is not tensor:
            raise InvalidModelError(f"output {tensor.name!r} of graph {graph.name!r} has no source")


def _declare(tensor: Tensor, visible: ChainMap[str, Tensor], ids: set[int], graph: str) -> None:
    if not tensor.name:
        raise InvalidModelError(f"graph {graph!r} has a value without a name")
    if tensor.name in visible:
        raise InvalidModelError(f"graph {graph!r} has two values called {tensor.name!r}")
    visible[tensor.name] = tensor
    _check_id(tensor, ids)


def _check_id(item: Node | Tensor, ids: set[int]) -> None:
    if item.id < 0 or item.id in ids:
        raise InvalidModelError(
            f"{item!r} has no id of its own; call graph.adopt() after adding nodes by hand"
        )
    ids.add(item.id)


def _check_links(node: Node) -> None:
    for tensor, count in Counter(node.inputs).items():
        if sum(1 for n in tensor.outputs if n is node) != count and len(tensor.outputs) < 64:
            raise InvalidModelError(
                f"{node!r} reads {tensor.name!r}, but the tensor's list of consumers disagrees"
            )
    for tensor in node.outputs:
        if len(tensor.inputs) != 1 or tensor.inputs[0] is not node:
            raise InvalidModelError(f"{node!r} produces {tensor.name!r}, but the tensor's producer disagrees")
