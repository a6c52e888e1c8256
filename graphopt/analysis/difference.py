"""What changed from one graph to another: operators, interface, weights, nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from graphopt.graph import Graph
from graphopt.ir import Constant, Node, RawAttribute, Tensor
from graphopt.model import Model


@dataclass(frozen=True)
class Change:
    """One thing that differs. ``before`` or ``after`` is "" where it is missing."""

    kind: str
    name: str
    before: str
    after: str


@dataclass(frozen=True)
class Difference:
    """All changes, and the number of nodes by operator before and after."""

    operators: Mapping[str, tuple[int, int]]
    changes: tuple[Change, ...]

    @property
    def same(self) -> bool:
        """Whether the two models have the same graph, weights and interface."""
        return not self.changes


def difference(before: Model, after: Model) -> Difference:
    """Compare two models structurally. Nodes are matched by their first output's name, weights by theirs."""
    changes = [
        *_table("opset", {k: str(v) for k, v in before.opsets.items()}, {k: str(v) for k, v in after.opsets.items()}),
        *_table("metadata", before.metadata_props, after.metadata_props),
        *_table("input", _interface(before.graph.inputs), _interface(after.graph.inputs)),
        *_table("output", _interface(before.graph.outputs), _interface(after.graph.outputs)),
        *_table("node", _nodes(before.graph), _nodes(after.graph)),
        *_weights(before.graph, after.graph),
    ]
    return Difference(operators(before.graph, after.graph), tuple(changes))


def operators(before: Graph, after: Graph) -> dict[str, tuple[int, int]]:
    """Nodes by operator before and after, nested graphs included."""
    one, two = _operators(before), _operators(after)
    return {op: (one[op], two[op]) for op in sorted({*one, *two})}


def _operators(graph: Graph) -> Counter[str]:
    return Counter(f"{n.domain}::{n.op}" if n.domain else n.op for n in graph.walk())


def _table(kind: str, before: Mapping[str, str], after: Mapping[str, str]) -> list[Change]:
    names = list(dict.fromkeys([*before, *after]))
    pairs = [(n, before.get(n, ""), after.get(n, "")) for n in names]
    return [Change(kind, n, b, a) for n, b, a in pairs if b != a]


def _interface(tensors: list[Tensor]) -> dict[str, str]:
    return {t.name: f"{t.dtype}{list(t.shape) if t.shape is not None else '[...]'}" for t in tensors}


def _nodes(graph: Graph) -> dict[str, str]:
    return {(n.outputs[0].name if n.outputs else n.name): _describe(n) for n in graph.walk()}


def _describe(node: Node) -> str:
    inputs = ", ".join(t.name for t in node.inputs)
    attrs = ", ".join(f"{k}={_attribute(v)}" for k, v in sorted(node.attrs.items()))
    return f"{node.op}({inputs})" + (f" <{attrs}>" if attrs else "")


def _attribute(value: object) -> str:
    match value:
        case Graph():
            return f"graph of {len(value.nodes)} nodes"
        case Constant():
            return f"tensor {value.dtype}{list(value.shape)}"
        case RawAttribute():
            return "(raw)"
        case _:
            return repr(value)


def _weights(before: Graph, after: Graph) -> list[Change]:
    one = {c.name: c for g in before.graphs() for c in g.initializers}
    two = {c.name: c for g in after.graphs() for c in g.initializers}
    changes = []
    for name in dict.fromkeys([*one, *two]):
        a, b = one.get(name), two.get(name)
        if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
            changes.append(Change("weight", name, _shape(a), _shape(b)))
        elif not _equal(a, b):
            changes.append(Change("weight", name, f"{_shape(a)}", f"{_shape(b)}, {_values(a, b)}"))
    return changes


def _equal(a: Constant, b: Constant) -> bool:
    return a.values is b.values or bool(np.array_equal(a.values, b.values, equal_nan=a.values.dtype.kind == "f"))


def _shape(constant: Constant | None) -> str:
    return "" if constant is None else f"{constant.dtype}{list(constant.shape)}"


def _values(a: Constant, b: Constant) -> str:
    changed = int(np.count_nonzero(a.values != b.values))
    return f"{changed} of {a.values.size} values differ"
