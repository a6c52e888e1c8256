"""Masked forms of normalisations, spelled out with elementary operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from graphopt.analysis.labels import Axis
from graphopt.analysis.labels.records import Norm
from graphopt.graph import Graph
from graphopt.ir import Node, Tensor

Shaped = Callable[[Axis, int, int], Tensor]
_DEFAULT_EPSILON = 1e-5
_FUSED_EPSILON = 1e-12


def masked_norm(
    graph: Graph,
    node: Node,
    norm: Norm,
    dtype: np.dtype[np.generic],
    shape: tuple[int, ...],
    live: Mapping[int, Axis],
    shaped: Shaped,
) -> None:
    """Replace ``node`` by a chain in which mean and variance are those of kept positions."""
    spelled = _SPELLED.get(node.op) if node.domain == "com.microsoft" else None
    node = node if spelled is None else spelled(graph, node)
    made = _Chain(graph, dtype, norm.kind == "rms", float(node.attrs.get("epsilon", _DEFAULT_EPSILON)))
    x, rank = node.inputs[0], len(shape)
    mask = made.both([shaped(axis, place, rank) for place, axis in live.items()])
    over = list(norm.over)
    if norm.kind == "group":
        x, mask, over = made.grouped(x, mask, shape, norm.groups)
        y = made.normalise(x, mask, over)
        y = made.op("Reshape", y, graph.new_constant("shape", np.array(_dynamic(shape), np.int64)))
    else:
        y = made.normalise(x, mask, over)
    y = _affine(made, y, node, norm, shape)
    out = node.outputs[0]
    node.outputs[0] = graph.new_variable(f"{out.name}_plain", None, None)
    graph.add_node("Identity", [y], [out])
    if spelled is not None:
        graph.remove_nodes([node])


def _skip(graph: Graph, node: Node) -> Node:
    """input + skip (+ bias), then a plain normalisation."""
    simplified = "Simplified" in node.op
    tables = [t for t in node.inputs[2 : 3 if simplified else 4] if not t.is_empty()]
    bias = node.inputs[3 if simplified else 4] if len(node.inputs) > (3 if simplified else 4) else None
    total = graph.add_node("Add", [node.inputs[0], node.inputs[1]]).outputs[0]
    if bias is not None and not bias.is_empty():
        total = graph.add_node("Add", [total, bias]).outputs[0]
    return _plain(graph, node, total, tables, 3)


def _embed(graph: Graph, node: Node) -> Node:
    """The sum of three table rows, then a plain normalisation."""
    ids, segments, words, places, kinds, gamma, beta = node.inputs[:7]
    total = graph.add_node("Gather", [words, ids]).outputs[0]
    given = node.inputs[8] if len(node.inputs) > 8 and not node.inputs[8].is_empty() else None
    if given is None:
        length = graph.add_node("Shape", [ids]).outputs[0]
        last = graph.add_node("Gather", [length, graph.new_constant("one", np.array(1, np.int64))]).outputs[0]
        bounds = [graph.new_constant("zero", np.array(0, np.int64)), last, graph.new_constant("one", np.array(1))]
        given = graph.add_node("Range", bounds).outputs[0]
    total = graph.add_node("Add", [total, graph.add_node("Gather", [places, given]).outputs[0]]).outputs[0]
    if not kinds.is_empty():
        total = graph.add_node("Add", [total, graph.add_node("Gather", [kinds, segments]).outputs[0]]).outputs[0]
    return _plain(graph, node, total, [gamma, beta], 2)


def _plain(graph: Graph, node: Node, total: Tensor, tables: Sequence[Tensor], sums: int) -> Node:
    """A stand-in that normalises ``total`` into the result of ``node``; output ``sums`` becomes the total."""
    made = graph.add_node("Normalised", [total, *tables], attrs={"epsilon": node.attrs.get("epsilon", _FUSED_EPSILON)})
    result = node.outputs[0]
    node.outputs[0] = graph.new_variable(f"{result.name}_fused", None, None)
    made.outputs[0] = result
    if len(node.outputs) > sums and not node.outputs[sums].is_empty():
        whole = node.outputs[sums]
        node.outputs[sums] = graph.new_variable(f"{whole.name}_fused", None, None)
        graph.add_node("Identity", [total], [whole])
    return made


_SPELLED: Mapping[str, Callable[[Graph, Node], Node]] = {
    "SkipLayerNormalization": _skip,
    "SkipSimplifiedLayerNormalization": _skip,
    "EmbedLayerNormalization": _embed,
}


def _dynamic(shape: Sequence[int]) -> list[int]:
    """The shape with its batch axis inferred."""
    return [-1, *shape[1:]]


def _affine(made: _Chain, y: Tensor, node: Node, norm: Norm, shape: tuple[int, ...]) -> Tensor:
    graph = made.graph
    for index, op in ((1, "Mul"), (2, "Add")):
        if index >= len(node.inputs) or node.inputs[index].is_empty():
            continue
        table = node.inputs[index]
        if norm.kind in ("instance", "group"):
            extents = table.shape if table.shape is not None else [shape[1]]
            width = int(extents[0])  # type: ignore[arg-type]
            if width != shape[1]:
                repeat = graph.new_constant("repeat", np.array([1, shape[1] // width], np.int64))
                column = graph.new_constant("column", np.array([-1, 1], np.int64))
                table = made.op("Tile", made.op("Reshape", table, column), repeat)
            target = graph.new_constant("shape", np.array([-1, *[1] * (len(shape) - 2)], np.int64))
            table = made.op("Reshape", table, target)
        y = made.op(op, y, table)
    return y


class _Chain:
    def __init__(self, graph: Graph, dtype: np.dtype[np.generic], rms: bool, epsilon: float) -> None:
        self.graph = graph
        self._dtype = dtype
        self._rms = rms
        self._epsilon = epsilon

    def op(self, name: str, *inputs: Tensor, **attrs: int) -> Tensor:
        return self.graph.add_node(name, list(inputs), attrs=attrs).outputs[0]

    def _number(self, value: float) -> Tensor:
        return self.graph.new_constant("number", np.array(value, self._dtype))

    def both(self, masks: Sequence[Tensor]) -> Tensor:
        from onnx.helper import np_dtype_to_tensor_dtype

        mask = masks[0]
        for other in masks[1:]:
            mask = self.op("And", mask, other)
        return self.op("Cast", mask, to=int(np_dtype_to_tensor_dtype(self._dtype)))

    def grouped(self, x: Tensor, mask: Tensor, shape: tuple[int, ...], groups: int) -> tuple[Tensor, Tensor, list[int]]:
        inner = [groups, shape[1] // groups, *shape[2:]]
        x = self.op("Reshape", x, self.graph.new_constant("shape", np.array([-1, *inner], np.int64)))
        whole = self.graph.new_constant("shape", np.array([1, *shape[1:]], np.int64))
        mask = self.op("Expand", mask, whole)
        mask = self.op("Reshape", mask, self.graph.new_constant("shape", np.array([1, *inner], np.int64)))
        return x, mask, list(range(2, len(inner) + 1))

    def _sum(self, x: Tensor, over: list[int]) -> Tensor:
        if self.graph.opset >= 13:
            return self.op("ReduceSum", x, self.graph.new_constant("axes", np.array(over, np.int64)), keepdims=1)
        return self.graph.add_node("ReduceSum", [x], attrs={"axes": over, "keepdims": 1}).outputs[0]

    def normalise(self, x: Tensor, mask: Tensor, over: list[int]) -> Tensor:
        zero, one = self._number(0.0), self._number(1.0)
        keep = self.op("Greater", mask, zero)
        ones = self.op("Add", self.op("Mul", self.op("Where", keep, x, zero), zero), mask)
        count = self.op("Max", self._sum(ones, over), one)
        if not self._rms:
            x = self.op("Sub", x, self.op("Div", self._sum(self.op("Where", keep, x, zero), over), count))
        clean = self.op("Where", keep, x, zero)
        variance = self.op("Div", self._sum(self.op("Mul", clean, clean), over), count)
        return self.op("Div", x, self.op("Sqrt", self.op("Add", variance, self._number(self._epsilon))))
