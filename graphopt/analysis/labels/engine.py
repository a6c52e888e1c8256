"""Labels a whole graph: one pass over the nodes, then one solve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from graphopt.analysis.labels.groups import FreeGrid, free_grids
from graphopt.analysis.labels.rows import OpKey, builtin
from graphopt.analysis.labels.site import Axes, EdgeKey, Record, Rule, Site
from graphopt.analysis.labels.solve import Solution, solve
from graphopt.analysis.labels.space import Frozen
from graphopt.analysis.shapes import Facts, interpret_best
from graphopt.graph import Graph, subgraphs
from graphopt.ir import Node, Tensor, is_constant


@dataclass
class Coupling:
    """Result of the analysis: what the rows said, and the classes that follow.

    ``other_facts`` are those under other values of the symbolic dims; they tell which computed values are fixed.
    """

    graph: Graph
    record: Record
    solution: Solution
    other_facts: Facts | None = None

    @cached_property
    def free_grids(self) -> list[FreeGrid]:
        """Groups that need equal numbers of units, whichever they are."""
        return free_grids(self.record, self.solution)

    @property
    def facts(self) -> Facts:
        """Concrete shapes and values of all tensors."""
        return self.record.facts

    def weight_axes(self) -> Iterator[tuple[Tensor, Axes, tuple[EdgeKey, ...]]]:
        """Every labelled constant with its axes and the edges that read it so."""
        record = self.record
        for tensor, edges in record.labelled.items():
            own = [e for e in edges if e in record.edge_axes]
            for edge in own:
                yield tensor, record.edge_axes[edge], (edge,)
            if len(own) < len(edges):
                yield tensor, record.axes[tensor], tuple(e for e in edges if e not in record.edge_axes)


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
    record = Record(facts or interpret_best(graph))
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
    other = record.facts
    if record.facts.dims:
        other = interpret_best(graph, other=True)
    return Coupling(graph, record, solve(record.space), other)


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
        _freeze_values(site)


def _freeze_values(site: Site) -> None:
    """Inputs that a row reads as values only (shapes, indices) keep their extents, computed ones included."""
    for index, tensor in enumerate(site.node.inputs):
        if index not in site.touched and not tensor.is_empty() and not is_constant(tensor):
            site.freeze_input(index, "(read as a value)")


def _opaque(site: Site, why: str) -> None:
    site.record.opaque[site.node] = why
    site.freeze_all(why)
