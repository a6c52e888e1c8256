"""Whether a pass changed a model, found by looking, not by asking the pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.graph import Graph
from graphopt.ir import Constant, Node, Tensor, Variable
from graphopt.model import Model


class Fingerprint:
    """The state of a model: structure by value, weights by identity. Linear in nodes; reads no weights.

    It keeps everything that it saw alive, so that an object made later cannot be mistaken for an earlier one.
    """

    def __init__(self, model: Model) -> None:
        self._alive: list[object] = []
        self._state = (
            model.ir_version,
            tuple(model.opsets.items()),
            tuple(model.metadata_props.items()),
            tuple(self._same(f) for f in model.functions),
            tuple(self._graph(g) for g in model.graph.graphs()),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fingerprint) and self._state == other._state

    __hash__ = None  # type: ignore[assignment]

    def _graph(self, graph: Graph) -> tuple[object, ...]:
        return (
            graph.name,
            tuple(map(self._tensor, graph.inputs)),
            tuple(map(self._tensor, graph.outputs)),
            tuple(map(self._tensor, getattr(graph, "initializers", ()))),
            tuple(map(self._node, graph.nodes)),
        )

    def _node(self, node: Node) -> tuple[object, ...]:
        return (
            self._same(node),
            node.name,
            node.op,
            node.domain or "",
            tuple((name, self._value(value)) for name, value in node.attrs.items()),
            tuple(self._tensor(t) for t in node.inputs),
            tuple(self._tensor(t) for t in node.outputs),
        )

    def _tensor(self, tensor: Tensor) -> tuple[object, ...]:
        if isinstance(tensor, Constant):
            return self._same(tensor), tensor.name, self._same(tensor._values)
        if tensor.is_empty():
            return ("",)
        shape = None if tensor.shape is None else tuple(tensor.shape)
        default = self._same(tensor.default) if isinstance(tensor, Variable) else None
        return self._same(tensor), tensor.name, tensor.dtype, shape, default

    def _value(self, value: Any) -> object:
        if isinstance(value, list | tuple):
            return tuple(map(self._value, value))
        if isinstance(value, gs.Constant):
            return self._same(value), self._same(value._values)
        if isinstance(value, int | float | str | bytes | np.generic):
            return type(value).__name__, repr(value) if isinstance(value, float | np.floating) else value
        return self._same(value)

    def _same(self, thing: object) -> int:
        self._alive.append(thing)
        return id(thing)
