"""From a Graph to a GraphProto, with large weights left out and listed instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto

from graphopt.errors import UsageError
from graphopt.graph import Graph
from graphopt.ir import Array, Constant, Node, RawAttribute, Shape, Tensor, Variable
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
    """Writes graphs of one model; tensors of ``MIN_DETACHED`` bytes and more go to ``weights``."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def write(self, graph: Graph) -> onnx.GraphProto:
        """The GraphProto of ``graph``: nodes in their order, initializers in theirs."""
        proto = onnx.GraphProto(name=graph.name)
        if graph.doc_string:
            proto.doc_string = graph.doc_string
        proto.node.extend(self._node(n) for n in graph.nodes)
        for constant in graph.initializers:
            if isinstance(constant.stored, SparseTensor):
                sparse = proto.sparse_initializer.add()
                sparse.CopyFrom(constant.stored.proto)
                sparse.values.name = constant.name
            else:
                proto.initializer.append(self._tensor(constant.name, constant._values, constant.doc_string))
        for tensor in graph.inputs:
            proto.input.append(value_info(tensor))
            if isinstance(tensor, Variable) and tensor.default is not None:
                proto.initializer.append(self._tensor(tensor.name, tensor.default, ""))
        proto.output.extend(value_info(t) for t in graph.outputs)
        ends = {id(t) for t in (*graph.inputs, *graph.outputs)}
        mentioned = (*graph.initializers, *(t for n in graph.nodes for t in n.outputs))
        proto.value_info.extend(value_info(t) for t in mentioned if id(t) not in ends and _is_described(t))
        proto.quantization_annotation.extend(graph.quantization_annotation)
        write_props(proto.metadata_props, graph.metadata_props)
        return proto

    def _node(self, node: Node) -> onnx.NodeProto:
        proto = onnx.NodeProto(op_type=node.op)
        proto.input.extend(t.name for t in node.inputs)
        proto.output.extend(t.name for t in node.outputs)
        for name, value in node.attrs.items():
            if value is not None:
                proto.attribute.append(self._attribute(node, name, value))
        for name in ("name", "domain", "doc_string", "overload"):
            if text := getattr(node, name):
                setattr(proto, name, text)
        write_props(proto.metadata_props, node.metadata_props)
        return proto

    def _attribute(self, node: Node, name: str, value: Any) -> AttributeProto:
        if isinstance(value, RawAttribute):
            return value.proto
        if isinstance(value, Graph):
            return AttributeProto(name=name, type=AttributeProto.GRAPH, g=self.write(value))
        if isinstance(value, (Constant, np.ndarray)) and not (
            isinstance(value, np.ndarray) and _wants_list(node, name)
        ):
            return AttributeProto(name=name, type=AttributeProto.TENSOR, t=self._attribute_tensor(value))
        return _plain_attribute(node, name, value)

    def _attribute_tensor(self, value: Constant | Array) -> TensorProto:
        if isinstance(value, np.ndarray):
            return self._tensor("", value, "")
        name = value.stored.proto.name if isinstance(value.stored, StoredTensor) else value.name
        return self._tensor(name, value._values, "")

    def _tensor(self, name: str, values: StoredTensor | Array, doc: str) -> TensorProto:
        if isinstance(values, StoredTensor):
            proto = TensorProto()
            proto.CopyFrom(values.proto)
            if name or proto.name:
                proto.name = name
            if values.source is not None:
                self._detach(proto, values.source)
            return proto
        if values.dtype == object or values.nbytes < MIN_DETACHED or not _is_plain(values.dtype):
            proto = onnx.numpy_helper.from_array(values, name)
        else:
            proto = TensorProto(name=name, dims=values.shape, data_type=element_type(values.dtype))
            self._detach(proto, values)
        if doc:
            proto.doc_string = doc
        return proto

    def _detach(self, proto: TensorProto, source: Source) -> None:
        del proto.external_data[:]
        proto.ClearField("raw_data")
        proto.data_location = TensorProto.EXTERNAL
        proto.external_data.add(key=self._weights.marker, value=str(self._weights.add(source)))


def value_info(tensor: Tensor) -> onnx.ValueInfoProto:
    """The ValueInfoProto of a tensor."""
    info = onnx.ValueInfoProto(name=tensor.name)
    if tensor.doc_string:
        info.doc_string = tensor.doc_string
    write_props(info.metadata_props, tensor.metadata_props)
    if isinstance(tensor, Variable) and tensor.type_proto is not None:
        info.type.CopyFrom(tensor.type_proto)
        if not info.type.HasField("tensor_type"):
            return info
    if tensor.dtype is not None or tensor.shape is not None:
        info.type.tensor_type.SetInParent()
    if tensor.dtype is not None:
        info.type.tensor_type.elem_type = element_type(tensor.dtype)
    if info.type.HasField("tensor_type"):
        info.type.tensor_type.ClearField("shape")
    if tensor.shape is not None:
        _write_shape(info.type.tensor_type, list(tensor.shape))
        for dim, denotation in zip(info.type.tensor_type.shape.dim, getattr(tensor, "denotations", ()), strict=False):
            dim.denotation = denotation
    return info


def element_type(dtype: Any) -> int:
    """The TensorProto element type of a numpy dtype, or of a TensorProto enum value itself."""
    if isinstance(dtype, int):
        return dtype
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def write_props(target: Any, props: Mapping[str, str]) -> None:
    """Append string pairs to a repeated StringStringEntryProto."""
    for key, value in props.items():
        target.add(key=key, value=value)


def _write_shape(tensor_type: onnx.TypeProto.Tensor, shape: Shape) -> None:
    tensor_type.shape.SetInParent()
    for extent in shape:
        dim = tensor_type.shape.dim.add()
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
    if not onnx.defs.has(node.op, node.domain or ""):
        return None
    declared = onnx.defs.get_schema(node.op, node.domain or "").attributes.get(name)
    return None if declared is None else int(AttributeProto.AttributeType.Value(str(declared.type).rpartition(".")[2]))


def _plain_attribute(node: Node, name: str, value: Any) -> AttributeProto:
    kind = _declared_type(node, name)
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if kind is None:
        if isinstance(value, list | tuple) and not value:
            raise UsageError(
                f"node {node.name!r} ({node.op}): the type of the empty attribute {name!r} is unknown; "
                "set node.attr_types"
            )
        return onnx.helper.make_attribute(name, int(value) if isinstance(value, bool) else value)
    proto = AttributeProto(name=name)
    proto.type = kind  # type: ignore[assignment]
    try:
        _assign(proto, kind, value)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"node {node.name!r} ({node.op}): attribute {name!r} cannot be {value!r}; "
            f"it must be of type {AttributeProto.AttributeType.Name(kind)}"
        ) from error
    return proto


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
