"""What a model costs: multiply-accumulates, parameters and bytes, per node."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from graphopt.analysis.labels import analyse
from graphopt.analysis.shapes import Facts, interpret
from graphopt.errors import UsageError
from graphopt.graph import Graph
from graphopt.ir import Constant, Node, Variable, constant_value
from graphopt.model import Model


@dataclass(frozen=True)
class NodeCost:
    """Cost of one node. ``parameters`` and ``weight_bytes`` are those of the constants it reads; a constant that
    several nodes read counts in each. ``output_bytes``: size of what it produces."""

    macs: float
    parameters: int
    weight_bytes: int
    output_bytes: int


@dataclass(frozen=True)
class Cost:
    """Cost of a model. In the totals every constant counts once."""

    nodes: Mapping[Node, NodeCost]
    macs: float
    parameters: int
    weight_bytes: int


def cost(model: Model, dims: Mapping[str, int] | None = None) -> Cost:
    """Count a model's work with the symbolic dims of its inputs set to ``dims``.

    Raises:
        UsageError: a symbolic dim has no value; the message lists them.
    """
    missing = sorted(_symbols(model.graph) - set(dims or {}))
    if missing:
        raise UsageError(f"MACs need a value for the symbolic dims {', '.join(missing)}; give --dim NAME=N for each")
    facts = interpret(model.graph, dims)
    return _count(model.graph, facts)


def _symbols(graph: Graph) -> set[str]:
    found: set[str] = set()
    for tensor in graph.inputs:
        if isinstance(tensor, Variable):
            found |= {
                str(e or f"{tensor.name}:{axis}") for axis, e in enumerate(tensor.shape or ()) if not isinstance(e, int)
            }
    return found


def _count(graph: Graph, facts: Facts) -> Cost:
    macs: dict[Node, float] = defaultdict(float)
    for entry in analyse(graph, facts, opset_versions=graph.opsets).record.costs:
        macs[entry.node] += entry.macs()
    nodes: dict[Node, NodeCost] = {}
    for node in graph.nodes:
        weights = [t for t in node.inputs if isinstance(t, Constant)]
        produced = 0
        for tensor in node.outputs:
            fact = facts[tensor] if not tensor.is_empty() else None
            if fact is not None and fact.shape is not None and fact.dtype is not None:
                produced += int(np.prod(fact.shape, dtype=np.int64)) * int(np.dtype(fact.dtype).itemsize)
        nodes[node] = NodeCost(
            macs.get(node, 0.0),
            sum(int(np.prod(t.shape, dtype=np.int64)) for t in weights),
            sum(t.nbytes for t in weights),
            produced,
        )
    constants = [c for g in graph.graphs() for c in g.initializers]
    inner = [v for n in graph.walk() if n.is_op("Constant") and (v := constant_value(n.outputs[0])) is not None]
    return Cost(
        nodes,
        sum(macs.values()),
        sum(int(np.prod(c.shape, dtype=np.int64)) for c in constants) + sum(v.size for v in inner if v.ndim),
        sum(c.nbytes for c in constants) + sum(v.nbytes for v in inner if v.ndim),
    )
