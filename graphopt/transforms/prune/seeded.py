"""Seeded inputs for checks that need no real data: integers stay within the extents of what they index."""

from __future__ import annotations

import zlib

import numpy as np

from graphopt.analysis.opnames import ops
from graphopt.analysis.shapes import Facts
from graphopt.errors import UnsupportedError
from graphopt.graph import Graph
from graphopt.ir import Array, Node, Tensor, Variable

_PASSES = frozenset(ops("Cast Identity Unsqueeze Squeeze Reshape Flatten Transpose Where Clip Slice Expand Concat"))


def seeded_feeds(graph: Graph, facts: Facts, seed: int = 0) -> dict[str, Array]:
    """One set of inputs with the extents of ``facts``: floats standard normal, masks ones, integers small enough.

    Raises:
        UnsupportedError: an input is no tensor of known shape.
    """
    feeds: dict[str, Array] = {}
    for tensor in graph.inputs:
        if not isinstance(tensor, Variable) or tensor.default is not None:
            continue
        shape, dtype = facts.shape(tensor), tensor.dtype
        if shape is None or dtype is None:
            raise UnsupportedError(f"cannot make values for input {tensor.name!r}: its type or rank is not declared")
        feeds[tensor.name] = _draw(tensor, shape, np.dtype(dtype), facts, seed)
    return feeds


def _draw(tensor: Tensor, shape: tuple[int, ...], dtype: np.dtype[np.generic], facts: Facts, seed: int) -> Array:
    random = np.random.default_rng([seed, zlib.crc32(tensor.name.encode())])
    if "mask" in tensor.name.lower():
        return np.ones(shape, dtype)
    if dtype.kind in "fV":
        return np.asarray(random.standard_normal(shape)).astype(dtype)
    if dtype.kind in "iu":
        return np.asarray(random.integers(0, max(1, _extent(tensor, facts)), shape)).astype(dtype)
    if dtype.kind == "b":
        return np.ones(shape, dtype)
    raise UnsupportedError(f"cannot make values of type {dtype} for input {tensor.name!r}")


def _extent(tensor: Tensor, facts: Facts) -> int:
    """The smallest extent that the values index, 2 if they index nothing."""
    smallest: int | None = None
    stack: list[Tensor] = [tensor]
    seen: set[Tensor] = set()
    while stack:
        current = stack.pop()
        for node in current.outputs:
            limit = _limit(node, current, facts)
            if limit is not None:
                smallest = limit if smallest is None else min(smallest, limit)
            elif node.op in _PASSES:
                stack += [t for t in node.outputs if t not in seen]
                seen.update(node.outputs)
    return 2 if smallest is None else smallest


def _limit(node: Node, tensor: Tensor, facts: Facts) -> int | None:
    if node.op not in ("Gather", "GatherElements") or node.inputs[1] is not tensor:
        return None
    shape = facts.shape(node.inputs[0])
    return None if shape is None else shape[int(node.attrs.get("axis", 0)) % len(shape)]
