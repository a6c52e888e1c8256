"""The networkx view: ids, edges and captures."""

from __future__ import annotations

import networkx as nx
from texts import BRANCH, CHAIN

from graphopt.analysis.networkx_view import to_networkx


def test_edges_follow_tensors(parse):
    graph = parse(CHAIN).graph
    add, relu = graph.nodes
    view = to_networkx(graph)
    assert list(view.edges(data="tensors")) == [(add.id, relu.id, ["a"])]
    assert nx.is_directed_acyclic_graph(view)


def test_captured_values_are_edges(parse):
    graph = parse(BRANCH).graph
    neg, branch = graph.nodes
    assert to_networkx(graph).has_edge(neg.id, branch.id)
