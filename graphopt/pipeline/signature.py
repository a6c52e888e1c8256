"""The interface of a model as its user sees it: what a pass must leave alone unless it says otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from onnx import TensorProto

from graphopt.graph import Graph
from graphopt.ir import Dim, Tensor
from graphopt.serde.exporter import element_type


@dataclass(frozen=True)
class Port:
    """An input or output: its name, TensorProto element type (None when undeclared) and shape (None: unknown rank)."""

    name: str
    dtype: int | None
    shape: tuple[Dim, ...] | None

    def __str__(self) -> str:
        kind = "unknown type" if self.dtype is None else TensorProto.DataType.Name(self.dtype).lower()
        return f"{self.name!r} ({kind}, {'unknown rank' if self.shape is None else list(self.shape)})"


Signature: TypeAlias = "tuple[tuple[Port, ...], tuple[Port, ...]]"


def signature(graph: Graph) -> Signature:
    """The inputs and the outputs, in order."""
    return tuple(map(_port, graph.inputs)), tuple(map(_port, graph.outputs))


def difference(before: Signature, after: Signature) -> str:
    """How an interface was broken, in words; "" when a user of the first can use the second.

    Names, order, element types, ranks and extents that were numbers stay. What was unknown may become known.
    """
    for kind, old, new in (("input", before[0], after[0]), ("output", before[1], after[1])):
        if [p.name for p in old] != [p.name for p in new]:
            return f"the {kind}s were {[p.name for p in old]}, they are {[p.name for p in new]}"
        for one, two in zip(old, new, strict=True):
            if not _fits(one, two):
                return f"{kind} {one} became {two}"
    return ""


def _port(tensor: Tensor) -> Port:
    kind = None if tensor.dtype is None else element_type(tensor.dtype)
    return Port(tensor.name, kind, None if tensor.shape is None else tuple(tensor.shape))


def _fits(old: Port, new: Port) -> bool:
    if old.dtype is not None and old.dtype != new.dtype:
        return False
    if old.shape is None or new.shape is None:
        return True
    return len(old.shape) == len(new.shape) and all(
        not isinstance(a, int) or not isinstance(b, int) or a == b for a, b in zip(old.shape, new.shape, strict=True)
    )
