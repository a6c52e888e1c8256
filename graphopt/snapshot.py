"""Rollback: a snapshot remembers the structure of a graph and shares its weights.

Weights are read-only arrays that are replaced, never written, so remembering a reference is enough. Taking a
snapshot costs a few small lists per node; restoring puts the same node and tensor objects back as they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_graphsurgeon as gs

from graphopt.collection import no_collection
from graphopt.graph import Graph
from graphopt.ir import Node, Tensor

_CONTAINERS = (list, dict)
_SHARED = {"opsets", "_names"}


@dataclass(frozen=True)
class _Saved:
    """A node or tensor: its class, fields, and the contents of its two synchronised lists."""

    item: Node | Tensor
    kind: type
    fields: dict[str, Any]
    inputs: list[Any]
    outputs: list[Any]


@dataclass(frozen=True)
class Snapshot:
    """The state of a model's graphs, nodes and tensors at one moment."""

    graphs: list[tuple[Graph, dict[str, Any]]]
    items: list[_Saved]
    opsets: dict[str, int]
    names: dict[str, int]


def take(root: Graph) -> Snapshot:
    """Remember ``root`` and everything nested in it. Linear in nodes; no weight is copied."""
    graphs: list[tuple[Graph, dict[str, Any]]] = []
    items: dict[int, _Saved] = {}
    with no_collection():
        for graph in root.graphs():
            graphs.append((graph, _copied(vars(graph))))
            for node in graph.nodes:
                held = (v for v in node.attrs.values() if isinstance(v, gs.Constant)) if node.attrs else ()
                for item in (node, *node.inputs, *node.outputs, *held):
                    _remember(item, items)
            for tensor in (*graph.inputs, *graph.outputs, *graph.initializers):
                _remember(tensor, items)
    return Snapshot(graphs, list(items.values()), dict(root.opsets), dict(root.name_table()))


def restore(root: Graph, snapshot: Snapshot) -> None:
    """Put ``root`` back to the state that ``take`` saw."""
    opsets, names = root.opsets, root.name_table()
    for graph, fields in snapshot.graphs:
        _refill(graph, fields)
    for saved in snapshot.items:
        saved.item.__class__ = saved.kind
        _refill(saved.item, saved.fields)
        list.__setitem__(saved.fields["inputs"], slice(None), saved.inputs)
        list.__setitem__(saved.fields["outputs"], slice(None), saved.outputs)
    opsets.clear()
    opsets.update(snapshot.opsets)
    names.clear()
    names.update(snapshot.names)


def _remember(item: Node | Tensor, into: dict[int, _Saved]) -> None:
    if id(item) not in into:
        fields = {k: _copy(v) if type(v) in _CONTAINERS else v for k, v in item.__dict__.items()}
        into[id(item)] = _Saved(item, type(item), fields, list(item.inputs), list(item.outputs))


def _refill(item: Any, fields: dict[str, Any]) -> None:
    item.__dict__.clear()
    item.__dict__.update(_copied(fields))


def _copied(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with lists and dicts copied, two levels deep, except those that all graphs of a model share."""
    return {k: v if k in _SHARED else _copy(v) for k, v in fields.items()}


def _copy(value: Any) -> Any:
    if type(value) is list:
        return list(value)
    if type(value) is dict:
        return {k: list(v) if type(v) is list else v for k, v in value.items()}
    return value
