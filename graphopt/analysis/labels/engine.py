"""Labels a whole graph: one pass over the nodes, then one solve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphopt.analysis.labels.rows import OpKey, builtin
from graphopt.analysis.labels.site import Axes, EdgeKey, Record, Rule, Site
from graphopt.analysis.labels.solve import Solution, solve
from graphopt.analysis.labels.space import Frozen
from graphopt.analysis.shapes import Facts, interpret
from graphopt.graph import Graph, subgraphs
from graphopt.ir import Node, Tensor


@dataclass
class Coupling:
    """Result of the analysis: what the rows said, and the classes that follow."""

    graph: Graph
    record: Record
    solution: Solution

    @property
    def facts(self) -> Facts:
        """Concrete shapes and values of all tensors."""
        return self.record.facts

    def constant_axes(self) -> dict[Tensor, list[tuple[EdgeKey | None, Axes]]]:
        """For each labelled constant its axes, per consuming edge (None: for all of them)."""
        found: dict[Tensor, list[tuple[EdgeKey | None, Axes]]] = {}
        for (node, index), axes in self.record.edge_axes.items():
            found.setdefault(node.inputs[index], []).append(((node, index), axes))
        from graphopt.ir import is_constant

        for tensor, axes in self.record.axes.items():
            if is_constant(tensor) and tensor not in found:
                found[tensor] = [(None, axes)]
        return found


def analyse(
    graph: Graph,
    facts: Facts | None = None,
    rules: Mapping[OpKey, Rule] | None = None,
    frozen: Mapping[Tensor, str] | None = None,
    opset_versions: Mapping[str, int] | None = None,
) -> Coupling:
    """Find the coupled channels of ``graph``.

    ``rules`` adds or replaces rows, keyed (domain, operator). ``frozen`` names tensors none of whose axes may change,
    with the reason.
    """
    record = Record(facts or interpret(graph))
    table = {**builtin(), **(rules or {})}
    for tensor in graph.inputs:
        _freeze_tensor(record, tensor, f"graph input {tensor.name}")
    captured = _captured(graph)
    for node in graph.nodes:
        _label(node, record, table, opset_versions or graph.opsets)
        for tensor in node.outputs:
            if tensor in captured:
                _freeze_tensor(record, tensor, "captured by a nested graph")
    for tensor in graph.initializers:
        if tensor in captured:
            _freeze_tensor(record, tensor, "captured by a nested graph")
    for tensor in graph.outputs:
        _freeze_tensor(record, tensor, f"graph output {tensor.name}")
    for tensor, reason in (frozen or {}).items():
        _freeze_tensor(record, tensor, reason)
    return Coupling(graph, record, solve(record.space))


def _freeze_tensor(record: Record, tensor: Tensor, reason: str) -> None:
    found = record.axes.get(tensor)
    if found is not None:
        for axis in found:
            record.space.freeze(axis, reason)
        return
    shape = record.facts.shape(tensor)
    if shape is not None:
        record.axes[tensor] = tuple(Frozen(e, reason if e > 1 else "") for e in shape)


def _captured(graph: Graph) -> set[Tensor]:
    return {t for node in graph.nodes for sub in subgraphs(node) for inner in sub.walk() for t in inner.inputs}


def _label(node: Node, record: Record, table: Mapping[OpKey, Rule], opsets: Mapping[str, int]) -> None:
    if node.is_op("Constant"):
        return
    site = Site(node, record, opsets)
    unknown = [t.name for t in (*node.inputs, *node.outputs) if not t.is_empty() and record.facts.shape(t) is None]
    rule = table.get((node.domain or "", node.op))
    if unknown:
        _opaque(site, f"(extents of {unknown[0]} are not known)")
    elif subgraphs(node):
        _opaque(site, "(control flow)")
    elif rule is None:
        _opaque(site, f"(no rule for {node.domain + ':' if node.domain else ''}{node.op})")
    else:
        rule(site)


def _opaque(site: Site, why: str) -> None:
    site.record.opaque[site.node] = why
    site.freeze_all(why)
