"""Which nodes really read a weight: those behind Transpose, Reshape, Cast, DequantizeLinear and the like included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from graphopt.graph import Graph
from graphopt.ir import Node, is_constant


class WeightReaders:
    """Nodes of a graph that only rework constants, and who reads the result."""

    def __init__(self, graph: Graph) -> None:
        self._fixed: set[Node] = set()
        for node in graph.nodes:
            given = [t for t in node.inputs if not t.is_empty()]
            if given and all(is_constant(t) or (t.inputs and t.inputs[0] in self._fixed) for t in given):
                self._fixed.add(node)

    def behind(self, nodes: Iterable[Node]) -> Iterator[Node]:
        """The nodes and, behind those that only rework constants, all that read what they make. No repeats."""
        waiting, seen = list(nodes), set[Node]()
        while waiting:
            node = waiting.pop(0)
            if node in seen:
                continue
            seen.add(node)
            yield node
            if node in self._fixed:
                waiting += [reader for tensor in node.outputs for reader in tensor.outputs]
