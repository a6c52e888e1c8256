"""From a Graph to a GraphProto, with large weights left out and listed instead."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto

from graphopt.errors import UsageError
from graphopt.graph import Graph
from graphopt.ir import Array, Constant, Dim, Node, RawAttribute, Tensor, Variable
from graphopt.serde.wire import MIN_DETACHED
from graphopt.storage import Region, SparseTensor, StoredTensor

Source: TypeAlias = "Region | Array"


@dataclass
class Weights:
    """The bytes left out of a proto. ``sources[i]`` belongs to the tensor whose external data says ``i``."""

    marker: str
    sources: list[Source] = field(default_factory=list)

    def add(self, source: Source) -> int:
        """Number of the new source."""
        self.sources.append(source)
        return len(self.sources) - 1

    def lengths(self) -> list[int]:
        """Bytes of each source."""
        return [s.nbytes if isinstance(s, np.ndarray) else s.length for s in self.sources]


class GraphExporter:
    """Writes graphs of one model; tensors of ``MIN_DETACHED`` bytes and more go to ``weights``.

    ``listing``: the graph whose initializers are inputs too, which is the main graph before IR version 4.
    """

    def __init__(self, weights: Weights, listing: Graph | None = None) -> None:
        self._weights = weights
        self._listing = listing

    def write(self, graph: Graph, proto: onnx.GraphProto) -> None:
        """Write ``graph`` into an empty ``proto``: nodes in their order, initializers in theirs."""
        proto.name = graph.name
        if graph.doc_string:
            proto.doc_string = graph.doc_string
        for node in graph.nodes:
            self._write_node(node, proto.node.add())
        for constant in graph.initializers:
            if isinstance(constant.stored, SparseTensor):
                sparse = proto.sparse_initializer.add()
                sparse.CopyFrom(constant.stored.proto)
                sparse.values.name = constant.name
            else:
                self._tensor(constant.name, constant._values, constant.doc_string, proto.initializer.add())
        for tensor in self._listed(graph):
            value_info(tensor, proto.input.add())
            if isinstance(tensor, Variable) and tensor.default is not None:
                self._tensor(tensor.name, tensor.default, "", proto.initializer.add())
        for tensor in graph.outputs:
            value_info(tensor, proto.output.add())
        ends = {id(t) for t in (*graph.inputs, *graph.outputs)}
        for tensor in (*graph.initializers, *(t for n in graph.nodes for t in n.outputs)):
            if _is_described(tensor) and id(tensor) not in ends:
                value_info(tensor, proto.value_info.add())
        proto.quantization_annotation.extend(graph.quantization_annotation)
        write_props(proto.metadata_props, graph.metadata_props)

    def _listed(self, graph: Graph) -> list[Tensor]:
        """What stands among the inputs; initializers that do too keep the file's order, new ones come last."""
        if graph is not self._listing:
            return graph.inputs
        left: dict[str, Tensor] = {t.name: t for t in (*graph.inputs, *graph.initializers)}
        known = [left.pop(name) for name in graph.listed if name in left]
        return [*known, *left.values()]

    def _node(self, node: Node) -> onnx.NodeProto:
        """The NodeProto of one node."""
        proto = onnx.NodeProto()
        self._write_node(node, proto)
        return proto

    def _write_node(self, node: Node, proto: onnx.NodeProto) -> None:
        proto.op_type = node.op
        proto.input.extend([t.name for t in node.inputs])
        proto.output.extend([t.name for t in node.outputs])
        for name, value in node.attrs.items():
            if value is not None:
                self._attribute(node, name, value, proto.attribute.add())
        if node.name:
            proto.name = node.name
        if node.domain:
            proto.domain = node.domain
        if node.doc_string:
            proto.doc_string = node.doc_string
        if node.overload:
            proto.overload = node.overload
        if node.metadata_props:
            write_props(proto.metadata_props, node.metadata_props)

    def _attribute(self, node: Node, name: str, value: Any, proto: AttributeProto) -> None:
        if isinstance(value, RawAttribute):
            proto.CopyFrom(value.proto)
        elif isinstance(value, Graph):
            proto.name, proto.type = name, AttributeProto.GRAPH
            self.write(value, proto.g)
        elif isinstance(value, Constant) or (isinstance(value, np.ndarray) and not _wants_list(node, name)):
            proto.name, proto.type = name, AttributeProto.TENSOR
            self._attribute_tensor(value, proto.t)
        else:
            _plain_attribute(node, name, value, proto)

    def _attribute_tensor(self, value: Constant | Array, proto: TensorProto) -> None:
        if isinstance(value, np.ndarray):
            self._tensor("", value, "", proto)
        else:
            name = value.stored.proto.name if isinstance(value.stored, StoredTensor) else value.name
            self._tensor(name, value._values, "", proto)

    def _tensor(self, name: str, values: StoredTensor | Array, doc: str, proto: TensorProto) -> None:
        if isinstance(values, StoredTensor):
            proto.CopyFrom(values.proto)
            if name or proto.name:
                proto.name = name
            if values.source is not None:
                self._detach(proto, values.source)
            return
        if values.dtype == object or values.nbytes < MIN_DETACHED or not _is_plain(values.dtype):
            proto.CopyFrom(onnx.numpy_helper.from_array(values, name))
        else:
            proto.name, proto.data_type = name, element_type(values.dtype)
            proto.dims.extend(values.shape)
            self._detach(proto, values)
        if doc:
            proto.doc_string = doc

    def _detach(self, proto: TensorProto, source: Source) -> None:
        del proto.external_data[:]
        proto.ClearField("raw_data")
        proto.data_location = TensorProto.EXTERNAL
        proto.external_data.add(key=self._weights.marker, value=str(self._weights.add(source)))


def value_info(tensor: Tensor, info: onnx.ValueInfoProto) -> None:
    """Describe a tensor in an empty ``info``."""
    info.name = tensor.name
    if tensor.doc_string:
        info.doc_string = tensor.doc_string
    if tensor.metadata_props:
        write_props(info.metadata_props, tensor.metadata_props)
    declared = tensor.type_proto if isinstance(tensor, Variable) else None
    dtype, shape = tensor.dtype, tensor.shape
    if declared is not None:
        info.type.CopyFrom(declared)
        if not info.type.HasField("tensor_type"):
            return
        info.type.tensor_type.ClearField("shape")
    if dtype is None and shape is None:
        return
    kind = info.type.tensor_type
    kind.SetInParent()
    if dtype is not None:
        kind.elem_type = element_type(dtype)
    if shape is not None:
        _write_shape(kind.shape, shape)
        for dim, denotation in zip(kind.shape.dim, getattr(tensor, "denotations", ()), strict=False):
            dim.denotation = denotation


def element_type(dtype: Any) -> int:
    """The TensorProto element type of a numpy dtype, or of a TensorProto enum value itself."""
    return dtype if isinstance(dtype, int) else _element_type(np.dtype(dtype))


@functools.cache
def _element_type(dtype: np.dtype[Any]) -> int:
    return int(onnx.helper.np_dtype_to_tensor_dtype(dtype))


def write_props(target: Any, props: Mapping[str, str]) -> None:
    """Append string pairs to a repeated StringStringEntryProto."""
    for key, value in props.items():
        target.add(key=key, value=value)


def _write_shape(proto: onnx.TensorShapeProto, shape: Sequence[Dim]) -> None:
    proto.SetInParent()
    for extent in shape:
        dim = proto.dim.add()
        if isinstance(extent, str):
            dim.dim_param = extent
        elif extent is not None and extent >= 0:
            dim.dim_value = int(extent)


def _is_described(tensor: Tensor) -> bool:
    if isinstance(tensor, Constant):
        return tensor.described
    if tensor.is_empty():
        return False
    return tensor.dtype is not None or tensor.type_proto is not None


def _is_plain(dtype: np.dtype[Any]) -> bool:
    """Whether the raw bytes of an array of this type are the bytes of its tensor."""
    return (
        np.little_endian
        and dtype.kind in "biufcV"
        and "int4" not in dtype.name
        and "int2" not in dtype.name
        and "float4" not in dtype.name
    )


def _wants_list(node: Node, name: str) -> bool:
    return _declared_type(node, name) in {
        AttributeProto.INTS,
        AttributeProto.FLOATS,
        AttributeProto.INT,
        AttributeProto.FLOAT,
    }


def _declared_type(node: Node, name: str) -> int | None:
    """The attribute's type as the file said it, else as the operator's schema says it."""
    if name in node.attr_types:
        return node.attr_types[name]
    return _schema_types(node.op, node.domain or "").get(name)


@functools.cache
def _schema_types(op: str, domain: str) -> Mapping[str, int]:
    """The types of an operator's attributes, in the newest version that is known here."""
    if not onnx.defs.has(op, domain):
        return {}
    declared = onnx.defs.get_schema(op, domain).attributes
    return {n: int(AttributeProto.AttributeType.Value(str(a.type).rpartition(".")[2])) for n, a in declared.items()}


def _plain_attribute(node: Node, name: str, value: Any, proto: AttributeProto) -> None:
    kind = _declared_type(node, name)
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if kind is None:
        if isinstance(value, list | tuple) and not value:
            raise UsageError(
                f"node {node.name!r} ({node.op}): the type of the empty attribute {name!r} is unknown; "
                "set node.attr_types"
            )
        proto.CopyFrom(onnx.helper.make_attribute(name, int(value) if isinstance(value, bool) else value))
        return
    proto.name = name
    proto.type = kind  # type: ignore[assignment]
    try:
        _assign(proto, kind, value)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"node {node.name!r} ({node.op}): attribute {name!r} cannot be {value!r}; "
            f"it must be of type {AttributeProto.AttributeType.Name(kind)}"
        ) from error


def _assign(proto: AttributeProto, kind: int, value: Any) -> None:
    match kind:
        case AttributeProto.FLOAT:
            proto.f = float(value)
        case AttributeProto.INT:
            proto.i = int(value)
        case AttributeProto.STRING:
            proto.s = _encode(value)
        case AttributeProto.FLOATS:
            proto.floats.extend(float(v) for v in value)
        case AttributeProto.INTS:
            proto.ints.extend(int(v) for v in value)
        case AttributeProto.STRINGS:
            proto.strings.extend(_encode(v) for v in value)
        case _:
            raise TypeError(f"no plain value for attribute type {kind}")


def _encode(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)
