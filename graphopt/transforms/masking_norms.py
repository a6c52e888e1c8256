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
