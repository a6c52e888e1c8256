"""A graph as a networkx graph, for algorithms that nobody should write again."""

from __future__ import annotations

import networkx as nx

from graphopt.graph import Graph
from graphopt.order import captured


def to_networkx(graph: Graph) -> nx.DiGraph:
    """Node ids with an edge from each producer to each consumer; ``node`` and ``tensors`` are kept as attributes.

    Nested graphs are not entered; what they capture counts as read by the node that holds them.
    """
    view = nx.DiGraph()
    view.add_nodes_from((n.id, {"node": n, "op": n.op}) for n in graph.nodes)
    own = {n.id for n in graph.nodes}
    for node in graph.nodes:
        for tensor in captured(node):
            for producer in tensor.inputs:
                if producer.id not in own:
                    continue
                if view.has_edge(producer.id, node.id):
                    view[producer.id][node.id]["tensors"].append(tensor.name)
                else:
                    view.add_edge(producer.id, node.id, tensors=[tensor.name])
    return view
