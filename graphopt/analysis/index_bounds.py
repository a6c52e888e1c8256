"""Which values an integer input may take: the extents of what it indexes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphopt.ir import Node, Tensor, Variable
from graphopt.model import Model

_PASSES = frozenset(
    {"Cast", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Slice", "Expand", "Concat"}
)


def index_bounds(model: Model) -> Mapping[str, int]:
    """For each integer graph input that indexes an axis of known extent, the largest legal value (inclusive)."""
    bounds: dict[str, int] = {}
    for tensor in model.graph.inputs:
        if isinstance(tensor, Variable) and tensor.dtype is not None and np.issubdtype(tensor.dtype, np.integer):
            extents = _indexed(tensor)
            if extents:
                bounds[tensor.name] = min(extents) - 1
    return bounds


def _indexed(start: Variable) -> list[int]:
    """Extents of the axes that ``start`` indexes, reached through operators that keep its values."""
    found: list[int] = []
    stack: list[Tensor] = [start]
    seen: set[int] = set()
    while stack:
        tensor = stack.pop()
        for node in tensor.outputs:
            if id(node) in seen:
                continue
            seen.add(id(node))
            if node.is_op("Gather", "GatherElements") and len(node.inputs) > 1 and node.inputs[1] is tensor:
                found.extend(_extent(node))
            elif node.is_op(*_PASSES) and node.inputs[0] is tensor:
                stack.extend(node.outputs)
    return found


def _extent(node: Node) -> list[int]:
    shape = node.inputs[0].shape
    if shape is None:
        return []
    extent = list(shape)[int(node.attrs.get("axis", 0))]
    return [int(extent)] if isinstance(extent, (int, np.integer)) else []
