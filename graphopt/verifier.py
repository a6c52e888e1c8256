"""Checks that a graph is well-formed: links, names, ids, order, outputs. Linear in nodes and edges."""

from __future__ import annotations

from collections import ChainMap, defaultdict
from dataclasses import dataclass, field

from graphopt.errors import InvalidModelError
from graphopt.graph import Graph, subgraphs
from graphopt.ir import Constant, Node, Tensor


def verify(root: Graph) -> None:
    """Raise unless every invariant of the IR holds in ``root`` and its nested graphs.

    Raises:
        InvalidModelError: use-def lists disagree, two values share a name or an id, a value is read that nothing
            produces or before it is produced, or a graph output has no source. The message names the node.
    """
    check = _Check()
    check.graph(root, ChainMap())
    check.links()


@dataclass
class _Check:
    ids: set[int] = field(default_factory=set)
    readers: dict[Tensor, list[Node]] = field(default_factory=lambda: defaultdict(list))

    def graph(self, graph: Graph, outer: ChainMap[str, Tensor]) -> None:
        visible = outer.new_child()
        declared: list[Tensor] = [*graph.initializers, *(t for t in graph.inputs if not isinstance(t, Constant))]
        for tensor in declared:
            self._declare(tensor, visible, graph.name)
        for node in graph.nodes:
            self._id(node)
            for tensor in node.inputs:
                if not tensor.is_empty() and visible.get(tensor.name) is not tensor:
                    raise InvalidModelError(
                        f"{node!r} in graph {graph.name!r} reads {tensor.name!r}, which nothing before it produces"
                    )
                self.readers[tensor].append(node)
            for sub in subgraphs(node):
                self.graph(sub, visible)
            for tensor in node.outputs:
                self._output(node, tensor, visible, graph.name)
        for tensor in graph.outputs:
            if visible.get(tensor.name) is not tensor:
                raise InvalidModelError(f"output {tensor.name!r} of graph {graph.name!r} has no source")

    def links(self) -> None:
        for tensor, nodes in self.readers.items():
            if sorted(map(id, nodes)) != sorted(map(id, tensor.outputs)):
                raise InvalidModelError(
                    f"the list of consumers of {tensor.name!r} disagrees with the nodes that read it"
                )

    def _output(self, node: Node, tensor: Tensor, visible: ChainMap[str, Tensor], graph: str) -> None:
        if not tensor.is_empty():
            self._declare(tensor, visible, graph)
        if len(tensor.inputs) != 1 or tensor.inputs[0] is not node:
            raise InvalidModelError(f"{node!r} produces {tensor.name!r}, but the tensor's producer disagrees")

    def _declare(self, tensor: Tensor, visible: ChainMap[str, Tensor], graph: str) -> None:
        if not tensor.name:
            raise InvalidModelError(f"graph {graph!r} has a value without a name")
        if tensor.name in visible:
            raise InvalidModelError(f"graph {graph!r} has two values called {tensor.name!r}")
        visible[tensor.name] = tensor
        self._id(tensor)

    def _id(self, item: Node | Tensor) -> None:
        if item.id < 0 or item.id in self.ids:
            raise InvalidModelError(f"{item!r} has no id of its own; call graph.adopt() after adding nodes by hand")
        self.ids.add(item.id)
