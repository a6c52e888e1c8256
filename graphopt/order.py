"""Topological order: iterative, stable, linear in nodes and edges."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import TYPE_CHECKING

from graphopt.errors import InvalidModelError
from graphopt.ir import Node, Tensor, subgraphs

if TYPE_CHECKING:
    from graphopt.graph import Graph


def sorted_nodes(graph: Graph) -> list[Node]:
    """The nodes of ``graph`` (nested ones not) in topological order, keeping the present order where it is legal.

    A node that holds graphs also depends on what those graphs capture. Kahn's algorithm with the present
    position as priority.

    Raises:
        InvalidModelError: the nodes form a cycle; the message names some of its nodes.
    """
    if _is_sorted(graph):
        return graph.nodes
    position = {id(n): i for i, n in enumerate(graph.nodes)}
    sources = [{position[id(p)] for t in captured(n) for p in t.inputs if id(p) in position} for n in graph.nodes]
    users: list[list[int]] = [[] for _ in graph.nodes]
    waiting = [len(before) for before in sources]
    for index, before in enumerate(sources):
        for source in before:
            users[source].append(index)
    ready = [i for i, count in enumerate(waiting) if count == 0]
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for user in users[index]:
            waiting[user] -= 1
            if waiting[user] == 0:
                heapq.heappush(ready, user)
    if len(order) < len(graph.nodes):
        stuck = [graph.nodes[i] for i, count in enumerate(waiting) if count]
        names = ", ".join(repr(n.name or n.op) for n in stuck[:5])
        raise InvalidModelError(f"the graph {graph.name!r} has a cycle through {names}")
    return [graph.nodes[i] for i in order]


def _is_sorted(graph: Graph) -> bool:
    later = set(graph.nodes)
    for node in graph.nodes:
        for tensor in captured(node) if node.attrs and subgraphs(node) else node.inputs:
            if tensor.inputs and not later.isdisjoint(tensor.inputs):
                return False
        later.discard(node)
    return True


def captured(node: Node) -> Iterator[Tensor]:
    """What a node reads: its inputs, and the inputs and outputs of the nodes in graphs that it holds."""
    yield from node.inputs
    stack = subgraphs(node)
    while stack:
        graph = stack.pop()
        yield from graph.outputs
        for inner in graph.nodes:
            yield from inner.inputs
            stack.extend(subgraphs(inner))
