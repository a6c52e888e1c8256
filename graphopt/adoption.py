"""Takes over nodes and tensors that a pass made with graphsurgeon's own classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from graphopt.ir import Constant, Node, Variable, ensure_id, subgraphs

if TYPE_CHECKING:
    from graphopt.graph import Graph


def adopt(root: Graph) -> None:
    """Make everything in ``root`` and its nested graphs one of ours, named, numbered and owned. Scans the model."""
    parents = _parents(root)
    owned = {id(c) for graph in parents for c in graph.initializers}
    homes: dict[int, tuple[Constant, Graph]] = {}
    for graph in parents:
        graph.share_names(root.name_table(), root._ids)
        graph.opsets = root.opsets
        for node in graph.nodes:
            _adopt_node(node, root)
            for tensor in (*node.inputs, *node.outputs):
                _adopt_tensor(tensor, root)
        for tensor in (*graph.inputs, *graph.outputs, *graph.initializers):
            _adopt_tensor(tensor, root)
        for tensor in (*(t for n in graph.nodes for t in n.inputs), *graph.outputs):
            if isinstance(tensor, Constant) and id(tensor) not in owned:
                known = homes.get(id(tensor))
                home = graph if known is None else _common(known[1], graph, parents)
                homes[id(tensor)] = (tensor, home)
    for constant, home in homes.values():
        home.initializers.append(constant)


def _parents(root: Graph) -> dict[Graph, Graph | None]:
    """Each graph with the one around it, outer ones first."""
    parents: dict[Graph, Graph | None] = {root: None}
    stack = [root]
    while stack:
        graph = stack.pop()
        for node in graph.nodes:
            for value in node.attrs.values():
                if isinstance(value, gs.Graph) and type(value) is not type(root):
                    value.__class__ = type(root)
                    value.initializers, value.quantization_annotation, value.metadata_props = [], [], {}
            for sub in subgraphs(node):
                parents[sub] = graph
                stack.append(sub)
    return parents


def _common(a: Graph, b: Graph, parents: dict[Graph, Graph | None]) -> Graph:
    """The innermost graph around both."""
    above: set[int] = set()
    at: Graph | None = a
    while at is not None:
        above.add(id(at))
        at = parents[at]
    while id(b) not in above:
        outer = parents[b]
        assert outer is not None
        b = outer
    return b


def _adopt_node(node: gs.Node, root: Graph) -> None:
    if not isinstance(node, Node):
        node.__class__ = Node
    if node.domain == "ai.onnx" or node.domain is None:
        node.domain = ""
    if node.domain not in root.opsets:
        root.opsets[node.domain] = 1
    if not node.name and node.id < 0:
        node.name = root.unique_name(node.op)
    ensure_id(node, root._ids)


def _adopt_tensor(tensor: gs.Tensor, root: Graph) -> None:
    if isinstance(tensor, gs.Constant) and not isinstance(tensor, Constant):
        values = tensor._values
        tensor.__class__ = Constant
        tensor.values = np.asarray(values.load() if isinstance(values, LazyValues) else values)
    elif isinstance(tensor, gs.Variable) and not isinstance(tensor, Variable):
        tensor.__class__ = Variable
        if tensor.dtype is not None and not isinstance(tensor.dtype, int):
            tensor.dtype = np.dtype(tensor.dtype)
    root.name_table().setdefault(tensor.name, 0)
    ensure_id(tensor, root._ids)
