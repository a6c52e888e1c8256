"""The oracle: the unpruned graph with removed units masked.

It edits a clone of the graph that entered the pass and knows nothing of slicing. Wherever a node sums, takes an
extreme or normalises over an axis that loses positions, the removed ones are replaced by the neutral value in front
of it. Masks are graph inputs, so that one session serves the check and its power test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.analysis.labels import Axis, Coupling, Frozen
from graphopt.analysis.labels.records import Mask, Mean, Norm
from graphopt.graph import Graph
from graphopt.ir import Array, Node, Tensor, Variable
from graphopt.model import Model
from graphopt.transforms.prune.keepset import KeepSet
from graphopt.transforms.prune.masking_norms import masked_norm


@dataclass
class Oracle:
    """A masked clone. ``feeds(keep)`` are the values of its mask inputs for a keep-set."""

    model: Model
    masks: dict[str, Axis] = field(default_factory=dict)

    def feeds(self, keep: KeepSet) -> dict[str, Array]:
        """Mask values, by input name."""
        return {name: keep.mask(axis) for name, axis in self.masks.items()}


def build(model: Model, coupling: Coupling, keep: KeepSet) -> Oracle:
    """The oracle for all axes that ``keep`` changes. ``model`` is unpruned and holds the graph of ``coupling``.

    The model is only read.
    """
    order = {node: index for index, node in enumerate(model.graph.nodes)}
    builder = _Builder(model.clone(), coupling, keep, order)
    for mask in coupling.record.masks:
        builder.mask(mask)
    for mean in coupling.record.means:
        builder.mean(mean)
    for norm in coupling.record.norms:
        builder.norm(norm)
    builder.oracle.model.graph.sort()
    return builder.oracle


class _Builder:
    def __init__(self, clone: Model, coupling: Coupling, keep: KeepSet, order: dict[Node, int]) -> None:
        self.oracle = Oracle(clone)
        self._graph: Graph = clone.graph
        self._nodes = list(clone.graph.nodes)
        self._coupling = coupling
        self._keep = keep
        self._order = order
        self._inputs: dict[int, Variable] = {}
        self._shaped: dict[tuple[int, int, int], Tensor] = {}

    def _twin(self, node: Node) -> Node:
        return self._nodes[self._order[node]]

    def _input(self, axis: Axis) -> Variable:
        found = self._inputs.get(id(axis))
        if found is None:
            found = self._graph.new_variable(f"keep_{len(self._inputs)}", np.dtype(bool), [len(axis)])
            self._graph.inputs.append(found)
            self.oracle.masks[found.name] = axis
            self._inputs[id(axis)] = found
        return found

    def shaped(self, axis: Axis, place: int, rank: int) -> Tensor:
        """The mask of ``axis`` as a bool tensor that broadcasts along ``place`` of ``rank`` axes."""
        key = (id(axis), place, rank)
        if key not in self._shaped:
            shape = [len(axis) if k == place else 1 for k in range(rank)]
            target = self._graph.new_constant("mask_shape", np.array(shape, np.int64))
            self._shaped[key] = self._graph.add_node("Reshape", [self._input(axis), target]).outputs[0]
        return self._shaped[key]

    def count(self, axes: Sequence[Axis], dtype: np.dtype[np.generic]) -> Tensor:
        """How many combinations of positions of ``axes`` stay, as a scalar."""
        total: Tensor | None = None
        for axis in axes:
            if isinstance(axis, Frozen):
                one: Tensor = self._graph.new_constant("extent", np.array(len(axis), dtype))
            else:
                number = self._graph.add_node("Cast", [self._input(axis)], attrs={"to": _enum(dtype)}).outputs[0]
                one = self._graph.add_node("ReduceSum", [number], attrs={"keepdims": 0}).outputs[0]
            total = one if total is None else self._graph.add_node("Mul", [total, one]).outputs[0]
        assert total is not None
        return total

    def mask(self, mask: Mask) -> None:
        """Replace removed positions on one edge."""
        if not self._keep.changed(mask.labels):
            return
        node = self._twin(mask.node)
        fact = self._coupling.facts[mask.node.inputs[mask.index]]
        assert fact.shape is not None
        assert fact.dtype is not None
        fill: Tensor = (
            self._graph.new_constant("fill", np.array(_fill(mask.fill, fact.dtype), fact.dtype))
            if mask.point is None
            else node.inputs[mask.point]
        )
        shaped = self.shaped(mask.labels, mask.axis, len(fact.shape))
        value = node.inputs[mask.index]
        node.inputs[mask.index] = _where(shaped, value, fill, self._graph, np.dtype(fact.dtype))

    def mean(self, mean: Mean) -> None:
        """Scale a mean over masked positions to one over kept positions."""
        changed = [a for a in mean.axes if self._keep.changed(a)]
        if not changed:
            return
        node = self._twin(mean.node)
        dtype = self._coupling.facts[mean.node.outputs[0]].dtype
        assert dtype is not None
        whole = self._graph.new_constant("extent", np.array(float(np.prod([len(a) for a in changed])), dtype))
        factor = self._graph.add_node("Div", [whole, self.count(changed, dtype)]).outputs[0]
        self.redirect(node, lambda raw: self._graph.add_node("Mul", [raw, factor]))

    def redirect(self, node: Node, make: object) -> None:
        """Let ``make(raw output)`` produce what the node produced so far."""
        assert callable(make)
        old = node.outputs[0]
        raw = self._graph.new_variable(f"{old.name}_raw", old.dtype, None)
        node.outputs[0] = raw
        made: Node = make(raw)
        made.outputs[0] = old

    def norm(self, norm: Norm) -> None:
        """Replace a normalisation by one whose statistics read kept positions only."""
        if any(self._keep.changed(norm.labels[a]) for a in norm.over):
            dtype = self._coupling.facts[norm.node.outputs[0]].dtype
            shape = self._coupling.facts.shape(norm.node.outputs[0])
            assert dtype is not None
            assert shape is not None
            live = {a: norm.labels[a] for a in norm.over if self._keep.changed(norm.labels[a])}
            masked_norm(self._graph, self._twin(norm.node), norm, dtype, shape, live, self.shaped)


def _where(mask: Tensor, value: Tensor, fill: Tensor, graph: Graph, dtype: np.dtype[Any]) -> Tensor:
    """``mask ? value : fill``; truth values are combined, because ONNX Runtime has no Where for them."""
    if graph.opset < 9 and dtype.kind != "b":
        return _sum_of_both(mask, value, fill, graph, dtype)
    if dtype.kind != "b":
        return graph.add_node("Where", [mask, value, fill]).outputs[0]
    kept = graph.add_node("And", [mask, value]).outputs[0]
    filled = graph.add_node("And", [graph.add_node("Not", [mask]).outputs[0], fill]).outputs[0]
    return graph.add_node("Or", [kept, filled]).outputs[0]


def _sum_of_both(mask: Tensor, value: Tensor, fill: Tensor, graph: Graph, dtype: np.dtype[Any]) -> Tensor:
    """``value * mask + fill * not mask``, for opsets without Where."""
    parts = []
    for where, what in ((mask, value), (graph.add_node("Not", [mask]).outputs[0], fill)):
        factor = graph.add_node("Cast", [where], attrs={"to": _enum(dtype)}).outputs[0]
        parts.append(graph.add_node("Mul", [what, factor]).outputs[0])
    return graph.add_node("Add", parts).outputs[0]


def _enum(dtype: np.dtype[np.generic]) -> int:
    from onnx.helper import np_dtype_to_tensor_dtype

    return int(np_dtype_to_tensor_dtype(dtype))


def _fill(kind: str, dtype: np.dtype[Any]) -> float:
    if dtype.kind == "b":
        return kind in ("one", "high")
    if kind in ("low", "high"):
        limits: Any = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
        return float(limits.min if kind == "low" else limits.max)
    return 1.0 if kind == "one" else 0.0
