"""From a GraphProto to a Graph. Nothing that the proto holds is lost, and the proto is not changed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, TypeVar

import onnx
from google.protobuf.message import Message  # type: ignore[import-untyped]
from onnx import AttributeProto, TensorProto

from graphopt.errors import InvalidModelError, UnsupportedError
from graphopt.graph import Graph, Opsets
from graphopt.ir import Constant, Node, RawAttribute, Shape, Tensor, Variable, empty
from graphopt.storage import SparseTensor, StoredTensor

Store: TypeAlias = "Callable[[TensorProto], StoredTensor]"
MessageT = TypeVar("MessageT", bound=Message)
_Scope: TypeAlias = "dict[str, Tensor]"

_RAW = {
    AttributeProto.TYPE_PROTO,
    AttributeProto.TYPE_PROTOS,
    AttributeProto.SPARSE_TENSOR,
    AttributeProto.SPARSE_TENSORS,
    AttributeProto.TENSORS,
}


class GraphImporter:
    """Builds graphs of one model: ``store`` says where the bytes of a tensor lie."""

    def __init__(self, opsets: Opsets, ir_version: int, store: Store) -> None:
        self._opsets = opsets
        self._ir_version = ir_version
        self._store = store
        self._ids = itertools.count()
        self._names: dict[str, int] = {}

    def read(self, proto: onnx.GraphProto, outer: tuple[_Scope, ...] = ()) -> Graph:
        """The graph of ``proto``; names not found in it are looked up in the ``outer`` scopes.

        Raises:
            InvalidModelError: a value has two producers, or a node reads a value that nothing produces.
            UnsupportedError: an attribute is a list of graphs.
        """
        scope: _Scope = {}
        require_text(proto, "the graph", "name", "doc_string")
        graph = Graph(name=proto.name, doc_string=proto.doc_string, ir_version=self._ir_version)
        graph.opsets = self._opsets
        graph.share_names(self._names, self._ids)
        graph.metadata_props = props(proto.metadata_props)
        graph.quantization_annotation = copies(proto.quantization_annotation)
        self._declare(proto, scope, graph)
        scopes = (*outer, scope)
        graph.nodes = [self._node(node, scopes) for node in proto.node]
        _describe(proto.value_info, scope)
        graph.outputs = [self._output(info, scopes) for info in proto.output]
        return graph

    def _declare(self, proto: onnx.GraphProto, scope: _Scope, graph: Graph) -> None:
        for tensor in proto.initializer:
            self._add(scope, self._initializer(tensor), f"initializer {tensor.name!r}")
        for sparse in proto.sparse_initializer:
            name = sparse.values.name
            self._add(scope, Constant(name, SparseTensor(copies([sparse])[0])), f"sparse initializer {name!r}")
        constants = [t for t in scope.values() if isinstance(t, Constant)]
        listed: set[str] = set()
        for info in proto.input:
            if info.name in listed:
                raise InvalidModelError(f"graph input {info.name!r} is listed twice")
            listed.add(info.name)
            graph.inputs.append(self._input(info, scope))
        graph.initializers = [c for c in constants if scope[c.name] is c]
        for node in proto.node:
            for name in node.output:
                if name:
                    self._add(scope, Variable(name), f"output {name!r} of node {node.name or node.op_type!r}")

    def _input(self, info: onnx.ValueInfoProto, scope: _Scope) -> Tensor:
        known = scope.get(info.name)
        if isinstance(known, Constant) and self._ir_version < 4:
            known.doc_string = info.doc_string
            return known
        variable = Variable(info.name)
        _fill(variable, info)
        if isinstance(known, Constant):
            if not isinstance(known.stored, StoredTensor):
                raise UnsupportedError(f"graph input {info.name!r} has a sparse default value; make it dense first")
            variable.default = known.stored
            scope[info.name] = variable
            variable.id = next(self._ids)
        else:
            self._add(scope, variable, f"graph input {info.name!r}")
        return variable

    def _output(self, info: onnx.ValueInfoProto, scopes: tuple[_Scope, ...]) -> Tensor:
        tensor = _lookup(info.name, scopes, f"graph output {info.name!r}")
        if isinstance(tensor, Variable):
            _fill(tensor, info)
        return tensor

    def _add(self, scope: _Scope, tensor: Tensor, what: str) -> None:
        if not isinstance(tensor.name, str):
            raise InvalidModelError(f"{what} has a name that is not UTF-8 text")
        if tensor.name in scope:
            raise InvalidModelError(f"{what} reuses a name: two values are called {tensor.name!r}")
        tensor.id = next(self._ids)
        self._names[tensor.name] = 0
        scope[tensor.name] = tensor

    def _initializer(self, tensor: TensorProto) -> Constant:
        if not tensor.name:
            raise InvalidModelError("the model has an initializer without a name")
        constant = Constant(tensor.name, self._store(tensor))
        if tensor.doc_string:
            constant.doc_string = tensor.doc_string
        return constant

    def _node(self, proto: onnx.NodeProto, scopes: tuple[_Scope, ...]) -> Node:
        where = f"node {proto.name or proto.op_type!r} ({proto.op_type})"
        require_text(proto, where, "op_type", "domain", "name", "doc_string", "overload")
        inputs = [_lookup(name, scopes, where) if name else empty() for name in proto.input]
        outputs = [scopes[-1][name] if name else empty() for name in proto.output]
        attrs = {a.name: self._attribute(a, scopes, where) for a in proto.attribute}
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        node = Node(proto.op_type, proto.name, attrs, inputs, outputs, domain)
        node.id = next(self._ids)
        self._names.setdefault(proto.name, 0)
        node.attr_types = {a.name: a.type for a in proto.attribute}
        if proto.doc_string:
            node.doc_string = proto.doc_string
        if proto.overload:
            node.overload = proto.overload
        if proto.metadata_props:
            node.metadata_props = props(proto.metadata_props)
        return node

    def _attribute(self, proto: AttributeProto, scopes: tuple[_Scope, ...], where: str) -> Any:
        require_text(proto, where, "name", "doc_string")
        if proto.type in _RAW or proto.ref_attr_name or proto.doc_string:
            return RawAttribute(copies([proto])[0])
        match proto.type:
            case AttributeProto.FLOAT:
                return proto.f
            case AttributeProto.INT:
                return proto.i
            case AttributeProto.STRING:
                return _text(proto.s)
            case AttributeProto.FLOATS:
                return list(proto.floats)
            case AttributeProto.INTS:
                return list(proto.ints)
            case AttributeProto.STRINGS:
                return [_text(s) for s in proto.strings]
            case AttributeProto.TENSOR:
                return Constant(proto.t.name or proto.name, self._store(proto.t))
            case AttributeProto.GRAPH:
                return self.read(proto.g, scopes)
            case AttributeProto.GRAPHS:
                raise UnsupportedError(
                    f"{where}: attribute {proto.name!r} is a list of graphs, which graphopt cannot keep"
                )
        raise InvalidModelError(f"{where}: attribute {proto.name!r} has the unknown type {proto.type}")


def _lookup(name: str, scopes: tuple[_Scope, ...], where: str) -> Tensor:
    for scope in reversed(scopes):
        if name in scope:
            return scope[name]
    raise InvalidModelError(f"{where} reads {name!r}, which nothing produces")


def _describe(infos: Iterable[onnx.ValueInfoProto], scope: _Scope) -> None:
    for info in infos:
        tensor = scope.get(info.name)
        if isinstance(tensor, Variable):
            _fill(tensor, info)
        elif tensor is not None:
            tensor.described = True
            tensor.metadata_props = props(info.metadata_props)


def _fill(variable: Variable, info: onnx.ValueInfoProto) -> None:
    require_text(info, f"value {variable.name!r}", "doc_string")
    if info.doc_string:
        variable.doc_string = info.doc_string
    if info.metadata_props:
        variable.metadata_props = props(info.metadata_props)
    kind = info.type.WhichOneof("value")
    if kind == "tensor_type":
        tensor = info.type.tensor_type
        if tensor.elem_type:
            variable.dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        variable.shape = read_shape(tensor.shape) if tensor.HasField("shape") else None
        denotations = [d.denotation for d in tensor.shape.dim]
        if any(denotations):
            variable.denotations = denotations
        if info.type.denotation:
            variable.type_proto = copies([info.type])[0]
    elif kind is not None:
        variable.type_proto = copies([info.type])[0]


def read_shape(proto: onnx.TensorShapeProto) -> Shape:
    """Extents of a shape proto: int, symbolic name, or None where nothing is said."""
    if not all(isinstance(d.dim_param, str) for d in proto.dim):
        raise InvalidModelError(f"a symbolic extent is not UTF-8 text: {proto}")
    return [d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in proto.dim]


def copies(messages: Iterable[MessageT]) -> list[MessageT]:
    """Messages of their own: what a graph keeps must not change when somebody changes the proto that it came from."""
    made = []
    for message in messages:
        copy = type(message)()
        copy.CopyFrom(message)
        made.append(copy)
    return made


def _text(data: bytes) -> str | bytes:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


def props(entries: Iterable[onnx.StringStringEntryProto]) -> dict[str, str]:
    """String pairs as a dict."""
    pairs = list(entries)
    for entry in pairs:
        require_text(entry, "metadata", "key", "value")
    return {e.key: e.value for e in pairs}


def require_text(proto: Message, what: str, *fields: str) -> None:
    """Raise when a string field of a message does not hold UTF-8 text (protobuf then gives bytes).

    Raises:
        InvalidModelError: names the field.
    """
    for name in fields:
        if isinstance(getattr(proto, name), bytes):
            raise InvalidModelError(f"{what} has a {name} that is not UTF-8 text: {getattr(proto, name)!r}")
