"""What is known of every tensor before the model runs: element type, symbolic shape, symbolic value.

One sweep over the model in topological order. An operator with a row in ``fact_rows`` is interpreted over symbolic
extents; any other goes through ONNX's own shape inference, node by node. Declared types fill what stays unknown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto
from onnx.checker import ValidationError
from onnx.shape_inference import InferenceError, infer_node_outputs

from graphopt.graph import Graph, subgraphs
from graphopt.ir import Array, Constant, Node, Tensor, Variable, constant_value, is_constant
from graphopt.serde.exporter import GraphExporter, Weights, element_type
from graphopt.transforms.clean.symbols import MAYBE_EMPTY, UNKNOWN, Expr, Extent, symbol

SymShape: TypeAlias = tuple[Extent, ...]

MAX_VALUES = 1024
INTEGER_RANGES: Mapping[int, tuple[int, int]] = {
    TensorProto.BOOL: (0, 1),
    TensorProto.INT8: (-(2**7), 2**7 - 1),
    TensorProto.UINT8: (0, 2**8 - 1),
    TensorProto.INT16: (-(2**15), 2**15 - 1),
    TensorProto.UINT16: (0, 2**16 - 1),
    TensorProto.INT32: (-(2**31), 2**31 - 1),
    TensorProto.UINT32: (0, 2**32 - 1),
    TensorProto.INT64: (-(2**63), 2**63 - 1),
    TensorProto.UINT64: (0, 2**64 - 1),
}
"""The smallest and the largest number of each integer type, by TensorProto element type."""
INTEGER_TYPES = frozenset(INTEGER_RANGES)


@dataclass(frozen=True, slots=True)
class Fact:
    """Element type (TensorProto enum), shape, and value: an object array of extents for small integer tensors."""

    dtype: int | None = None
    shape: SymShape | None = None
    value: Array | None = None

    @property
    def static(self) -> tuple[int, ...] | None:
        """The shape when every extent is a number."""
        if self.shape is None or not all(isinstance(d, int) for d in self.shape):
            return None
        return self.shape  # type: ignore[return-value]

    @property
    def rank(self) -> int | None:
        """Number of dimensions."""
        return None if self.shape is None else len(self.shape)

    @property
    def nbytes(self) -> int | None:
        """Bytes of the tensor, when its shape is static."""
        static = self.static
        if static is None or self.dtype is None or self.dtype == TensorProto.STRING:
            return None
        return math.prod(static) * np.dtype(onnx.helper.tensor_dtype_to_np_dtype(self.dtype)).itemsize

    def numbers(self) -> Array | None:
        """The value as an object array when all of it is known."""
        if self.value is None or any(isinstance(v, Expr) for v in self.value.flat):
            return None
        return self.value


    def same(self, other: Fact) -> bool:
        """Whether both say the same."""
        if self is other:
            return True
        if self.dtype != other.dtype or self.shape != other.shape:
            return False
        a, b = self.value, other.value
        if a is None or b is None:
            return a is b
        return a is b or (a.shape == b.shape and bool(a.tolist() == b.tolist()))

    def completed(self, other: Fact) -> Fact:
        """This fact, with what it leaves open taken from another fact of the same tensor."""
        kind = self.dtype if self.dtype is not None else other.dtype
        value = other.value if self.value is None and other.dtype == kind else self.value
        if self.shape is None:
            return Fact(kind, other.shape, value)
        if other.shape is None or len(other.shape) != len(self.shape):
            return Fact(kind, self.shape, value)
        pairs = zip(self.shape, other.shape, strict=True)
        return Fact(kind, tuple(b if is_open(a) else a for a, b in pairs), value)


NOTHING = Fact()
Row: TypeAlias = "Callable[[Node, Interpreter], Sequence[Fact]]"


class Interpreter:
    """Holds the facts of a model. ``facts[tensor]`` is there for every tensor after ``run``."""

    def __init__(self, root: Graph, rows: Mapping[str, Row]) -> None:
        self._root = root
        self._rows = rows
        self.facts: dict[Tensor, Fact] = {}
        self._fresh = 0
        self._names: dict[str, Extent] = {}
        self._exporter = GraphExporter(Weights("facts"))
        self._imports = [onnx.helper.make_opsetid(d, v) for d, v in root.opsets.items()]

    @property
    def opset(self) -> int:
        """The ``ai.onnx`` version."""
        return self._root.opset

    def run(self) -> None:
        """Interpret the whole model. The graph must be sorted."""
        self._enter(self._root)

    def update(self, stale: set[Node]) -> None:
        """Interpret nodes again whose inputs changed, and what follows from them. The graph must be sorted.

        What was known stays known: rewrites keep the meaning of a tensor. ``stale`` is used up.
        """
        if stale:
            self._renew(self._root, stale)

    def _renew(self, graph: Graph, stale: set[Node]) -> None:
        for node in graph.nodes:
            for sub in subgraphs(node) if node.attrs else ():
                before = [self.facts.get(t) for t in sub.outputs]
                self._renew(sub, stale)
                if any(self.facts.get(t) is not b for t, b in zip(sub.outputs, before, strict=True)):
                    stale.add(node)
            if node not in stale:
                continue
            stale.discard(node)
            for tensor, fact in zip(node.outputs, self.interpret(node), strict=True):
                old = self.facts.get(tensor)
                new = fact if old is None else fact.completed(old)
                if not tensor.is_empty() and (old is None or not new.same(old)):
                    self.facts[tensor] = new
                    stale.update(tensor.outputs)

    def fact(self, tensor: Tensor) -> Fact:
        """What is known of a tensor; nothing for an omitted one."""
        found = self.facts.get(tensor)
        if found is None:
            if tensor.is_empty():
                return NOTHING
            found = self._constant(tensor) if isinstance(tensor, Constant) else self._declared(tensor)
            self.facts[tensor] = found
        return found

    def input(self, node: Node, index: int) -> Fact:
        """What is known of an input; nothing when it is omitted."""
        return self.fact(node.inputs[index]) if index < len(node.inputs) else NOTHING

    def array(self, node: Node, index: int) -> Array | None:
        """A known integer input, as int64."""
        numbers = self.input(node, index).numbers()
        return None if numbers is None else numbers.astype(np.int64)

    def fresh_extent(self) -> Extent:
        """An extent that nothing is known of; no other one is called so."""
        self._fresh += 1
        return symbol(f"{MAYBE_EMPTY}{self._fresh}")

    def _enter(self, graph: Graph) -> None:
        for tensor in graph.inputs:
            self.fact(tensor)
        for node in graph.nodes:
            for sub in subgraphs(node):
                self._enter(sub)
            for tensor, fact in zip(node.outputs, self.interpret(node), strict=True):
                if not tensor.is_empty():
                    self.facts[tensor] = fact

    def interpret(self, node: Node) -> list[Fact]:
        """What follows for each output of a node from its inputs, attributes and the declared types."""
        row = None if node.domain else self._rows.get(node.op)
        found = row(node, self) if row is not None else ()
        found = found or self.infer(node)
        facts = [*found, *[NOTHING] * (len(node.outputs) - len(found))]
        return [self._completed(t, _representable(f)) for t, f in zip(node.outputs, facts, strict=False)]

    def infer(self, node: Node) -> Sequence[Fact]:
        """ONNX's own shape inference for one node."""
        version = self._root.domain_opset(node.domain)
        nothing = [NOTHING] * len(node.outputs)
        if not onnx.defs.has(node.op, version, node.domain or "") or subgraphs(node):
            return nothing
        schema = onnx.defs.get_schema(node.op, version, node.domain or "")
        types: dict[str, onnx.TypeProto] = {}
        data: dict[str, TensorProto] = {}
        for tensor in node.inputs:
            if tensor.is_empty():
                continue
            proto = self._type(tensor)
            if proto is None:
                return nothing
            types[tensor.name] = proto
            known = self._known(tensor)
            if known is not None:
                data[tensor.name] = onnx.numpy_helper.from_array(known, tensor.name)
        proto_node = self._exporter._node(node)
        try:
            found = infer_node_outputs(
                schema, proto_node, types, data, opset_imports=self._imports, ir_version=self._root.ir_version
            )
        except (InferenceError, ValidationError):
            return nothing
        return [self._read(found[t.name]) if t.name in found else NOTHING for t in node.outputs]

    def _known(self, tensor: Tensor) -> Array | None:
        fact = self.fact(tensor)
        numbers = fact.numbers()
        if numbers is not None and fact.dtype is not None:
            return numbers.astype(onnx.helper.tensor_dtype_to_np_dtype(fact.dtype))
        if is_constant(tensor) and fact.static is not None and math.prod(fact.static) <= 64:
            return constant_value(tensor)
        return None

    def _type(self, tensor: Tensor) -> onnx.TypeProto | None:
        if isinstance(tensor, Variable) and tensor.type_proto is not None:
            return tensor.type_proto
        fact = self.fact(tensor)
        if fact.dtype is None:
            return None
        proto = onnx.TypeProto()
        proto.tensor_type.elem_type = fact.dtype
        if fact.shape is not None:
            proto.tensor_type.shape.SetInParent()
            for extent in fact.shape:
                dim = proto.tensor_type.shape.dim.add()
                if isinstance(extent, int):
                    dim.dim_value = extent
                else:
                    dim.dim_param = str(extent)
                    self._names[dim.dim_param] = extent
        return proto

    def _read(self, proto: onnx.TypeProto) -> Fact:
        if not proto.HasField("tensor_type"):
            return NOTHING
        kind = proto.tensor_type
        if not kind.HasField("shape"):
            return Fact(kind.elem_type or None)
        shape: list[Extent] = []
        for dim in kind.shape.dim:
            if dim.HasField("dim_value"):
                shape.append(int(dim.dim_value))
            else:
                known = self._names.get(dim.dim_param) if dim.dim_param else None
                shape.append(self.fresh_extent() if known is None else known)
        return Fact(kind.elem_type or None, tuple(shape))

    def _constant(self, tensor: Constant) -> Fact:
        shape = tuple(int(d) for d in tensor.shape)
        kind = element_type(tensor.dtype)
        value = None
        if kind in INTEGER_TYPES and math.prod(shape) <= MAX_VALUES:
            value = as_extents(tensor.values)
        return Fact(kind, shape, value)

    def _declared(self, tensor: Tensor) -> Fact:
        if isinstance(tensor, Variable) and tensor.type_proto is not None:
            return NOTHING
        kind = None if tensor.dtype is None else element_type(tensor.dtype)
        if tensor.shape is None:
            return Fact(kind)
        return Fact(kind, tuple(self._declared_extent(d) for d in tensor.shape))

    def _declared_extent(self, extent: int | str | None) -> Extent:
        if isinstance(extent, str) and extent and extent[0] not in (UNKNOWN, MAYBE_EMPTY):
            return symbol(extent)
        if extent is None or isinstance(extent, str) or extent < 0:
            return self.fresh_extent()
        return int(extent)

    def _completed(self, tensor: Tensor, fact: Fact) -> Fact:
        """The fact, with what is unknown taken from the declaration."""
        if fact.dtype is not None and fact.shape is not None and not any(map(is_open, fact.shape)):
            return fact
        return fact.completed(self._declared(tensor))


def _representable(fact: Fact) -> Fact:
    """The fact without a value that its type does not hold: what a runtime has then depends on how it wraps."""
    if fact.value is None or fact.dtype is None or fact.dtype not in INTEGER_RANGES:
        return fact
    low, high = INTEGER_RANGES[fact.dtype]
    fits = all(low <= v <= high for v in fact.value.flat if isinstance(v, int))
    return fact if fits else Fact(fact.dtype, fact.shape)


def as_extents(values: Array) -> Array:
    """An integer array as an object array of Python ints."""
    return object_array([int(v) for v in values.reshape(-1).tolist()], values.shape)


def object_array(items: Iterable[Any], shape: Sequence[Any]) -> Array:
    """An object array of a known shape, filled in order."""
    flat = list(items)
    made: Array = np.empty(len(flat), dtype=np.dtype(object))
    made[:] = flat
    return made.reshape([int(extent) for extent in shape])


def attribute(node: Node, name: str, default: Any = None) -> Any:
    """An attribute, or its default."""
    value = node.attrs.get(name)
    return default if value is None else value


def is_open(extent: Extent) -> bool:
    """Whether nothing is known of the extent: an atom made by ``fresh_extent``."""
    if not isinstance(extent, Expr):
        return False
    name = str(extent)
    return name[0] == MAYBE_EMPTY and name[1:].isdigit()
