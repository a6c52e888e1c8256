"""What counts as a parameter of a model: the one definition behind every parameter count that is shown.

A parameter is an element of a constant that a model computes with: a float constant, or an integer one that stands for
floats (a quantized weight or bias). Shapes, indices and other integers are none, nor are the scales and zero points of
quantizers. So a model has as many parameters quantized as in float, whether its constants are initializers or the
tensors of ``Constant`` nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from types import MappingProxyType

import numpy as np

from graphopt.graph import Graph
from graphopt.ir import Constant, Node, Tensor
from graphopt.targets.qoperators import CONVERTIBLE

_SMALL = frozenset({"int8", "uint8", "int4", "uint4", "int2", "uint2"})
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_PACKED = "MatMulNBits"
_DATA: Mapping[str, frozenset[int]] = MappingProxyType(
    {
        "MatMulInteger": frozenset({0, 1}),
        "ConvInteger": frozenset({0, 1}),
        "DynamicQuantizeMatMul": frozenset({0, 1, 4}),
        "MatMulIntegerToFloat": frozenset({0, 1, 6}),
        "DynamicQuantizeLSTM": frozenset({0, 1, 2, 3, 5, 6, 7}),
        _PACKED: frozenset({0, 1, 5}),
    }
)
"""Inputs of integer operators that hold values; the others are grids and indices."""

_SPECIAL = frozenset({*_QUANTIZERS, *_DATA, *CONVERTIBLE})
"""Operators that give their constants a role; in a graph without them the type alone decides."""


def count_parameters(graph: Graph) -> int:
    """Parameters of a graph and those nested in it."""
    if not any(node.op in _SPECIAL for node in graph.walk()):
        return sum(prod(c.shape) for c in _all_constants(graph) if _is_parameter(c.dtype, []))
    return sum(_elements(c, readers) for c, readers in _constants(graph) if _is_parameter(c.dtype, readers))


def _elements(constant: Constant, readers: list[tuple[Node, int]]) -> int:
    """How many values a constant holds, several a byte where they are packed."""
    for node, place in readers:
        if node.op == _PACKED and place == 1:
            return int(node.attrs["N"]) * int(node.attrs["K"])
    return prod(constant.shape)


def _all_constants(graph: Graph) -> Iterator[Constant]:
    for part in graph.graphs():
        yield from part.initializers
        for node in part.nodes:
            value = node.attrs.get("value") if node.op == "Constant" and not node.domain else None
            if isinstance(value, Constant):
                yield value


def parameters_of(tensor: Tensor) -> int:
    """How many parameters an initializer holds; 0 where it holds none or the tensor is not one."""
    if not isinstance(tensor, Constant):
        return 0
    readers = list(_readers(tensor))
    return _elements(tensor, readers) if _is_parameter(tensor.dtype, readers) else 0


def _constants(graph: Graph) -> Iterator[tuple[Constant, list[tuple[Node, int]]]]:
    for part in graph.graphs():
        for constant in part.initializers:
            yield constant, list(_readers(constant))
        for node in part.nodes:
            value = node.attrs.get("value") if node.is_op("Constant") else None
            if isinstance(value, Constant):
                yield value, list(_readers(node.outputs[0]))


def _readers(tensor: Tensor) -> Iterator[tuple[Node, int]]:
    for node in dict.fromkeys(tensor.outputs):
        yield from ((node, place) for place, read in enumerate(node.inputs) if read is tensor)


def _is_parameter(dtype: np.dtype[np.generic] | None, readers: list[tuple[Node, int]]) -> bool:
    if dtype is None:
        return False
    roles = [_role(node, place) for node, place in readers]
    if roles and all(role == "grid" for role in roles):
        return False
    return dtype.kind == "f" or dtype.name.startswith(("bfloat", "float")) or dtype.name in _SMALL or "data" in roles


def _role(node: Node, place: int) -> str:
    """``data`` for what is or will be dequantized, ``grid`` for a scale or zero point, else ""."""
    if node.op in _QUANTIZERS:
        return "data" if place == 0 else "grid"
    if node.op in _DATA:
        return "data" if place in _DATA[node.op] else "grid"
    row = CONVERTIBLE.get(node.op)
    if row is None:
        return ""
    data = {operand for operand, _, _ in row.operands} | {row.bias}
    return "data" if place in data else "grid"
