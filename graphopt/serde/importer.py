"""From a GraphProto to a Graph. Nothing that the proto holds is lost, and the proto is not changed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, TypeVar

import onnx
from google.protobuf.message import Message  # type: ignore[import-untyped]
from onnx import AttributeProto, TensorProto

from graphopt.collection import no_collection
from graphopt.errors import InvalidModelError, UnsupportedError
from graphopt.graph import Graph, Opsets
from graphopt.ir import Constant, Node, RawAttribute, Shape, Tensor, Variable, empty
from graphopt.storage import SparseTensor, StoredTensor, numpy_type

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

    def read(self, proto: onnx.GraphProto) -> Graph:
        """The main graph of ``proto``, with everything nested in it.

        Raises:
            InvalidModelError: a value has two producers, or a node reads a value that nothing produces.
            UnsupportedError: an attribute is a list of graphs.
        """
        with no_collection():
            return self._graph(proto)

    def _graph(self, proto: onnx.GraphProto, outer: tuple[_Scope, ...] = ()) -> Graph:
        """The graph of ``proto``; names not found in it are looked up in the ``outer`` scopes."""
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
            self._add(scope, self._initializer(tensor), "initializer", tensor)
        for sparse in proto.sparse_initializer:
            name = sparse.values.name
            self._add(scope, Constant(name, SparseTensor(copies([sparse])[0])), "sparse initializer", sparse.values)
        constants = [t for t in scope.values() if isinstance(t, Constant)]
        listed: set[str] = set()
        for info in proto.input:
            if info.name in listed:
                raise InvalidModelError(f"graph input {info.name!r} is listed twice")
            listed.add(info.name)
            known = scope.get(info.name)
            if isinstance(known, Constant) and self._ir_version < 4:
                known.doc_string = info.doc_string
            else:
                graph.inputs.append(self._input(info, scope))
        if self._ir_version < 4:
            graph.listed = [info.name for info in proto.input]
        graph.initializers = [c for c in constants if scope[c.name] is c]
        for node in proto.node:
            for name in node.output:
                if name:
                    self._add(scope, Variable(name), f"output {name!r} of", node)

    def _input(self, info: onnx.ValueInfoProto, scope: _Scope) -> Tensor:
        known = scope.get(info.name)
        variable = Variable(info.name)
        _fill(variable, info)
        if isinstance(known, Constant):
            if not isinstance(known.stored, StoredTensor):
                raise UnsupportedError(f"graph input {info.name!r} has a sparse default value; make it dense first")
            variable.default = known.stored
            scope[info.name] = variable
            variable.id = next(self._ids)
        else:
            self._add(scope, variable, "graph input", info)
        return variable

    def _output(self, info: onnx.ValueInfoProto, scopes: tuple[_Scope, ...]) -> Tensor:
        tensor = _lookup(info.name, scopes, "graph output", info)
        if isinstance(tensor, Variable):
            _fill(tensor, info)
        return tensor

    def _add(self, scope: _Scope, tensor: Tensor, what: str, proto: Message) -> None:
        name = tensor.name
        if not isinstance(name, str):
            raise InvalidModelError(f"{what} {_where(proto)} has a name that is not UTF-8 text")
        if name in scope:
            raise InvalidModelError(f"{what} {_where(proto)} reuses a name: two values are called {name!r}")
        tensor.id = next(self._ids)
        self._names[name] = 0
        scope[name] = tensor

    def _initializer(self, tensor: TensorProto) -> Constant:
        if not tensor.name:
            raise InvalidModelError("the model has an initializer without a name")
        constant = Constant(tensor.name, self._store(tensor))
        if tensor.doc_string:
            constant.doc_string = tensor.doc_string
        return constant

    def _node(self, proto: onnx.NodeProto, scopes: tuple[_Scope, ...]) -> Node:
        texts = op, domain, label, doc, overload = (
            proto.op_type,
            proto.domain,
            proto.name,
            proto.doc_string,
            proto.overload,
        )
        if not all(type(text) is str for text in texts):
            require_text(proto, _where(proto), "op_type", "domain", "name", "doc_string", "overload")
        inputs = [_lookup(name, scopes, "", proto) if name else empty() for name in proto.input]
        outputs = [scopes[-1][name] if name else empty() for name in proto.output]
        types = {a.name: a.type for a in proto.attribute}
        attrs = {a.name: self._attribute(a, scopes, proto) for a in proto.attribute}
        node = Node(op, label, attrs, inputs, outputs, "" if domain == "ai.onnx" else domain)
        node.id = next(self._ids)
        self._names.setdefault(label, 0)
        node.attr_types = types
        if doc:
            node.doc_string = doc
        if overload:
            node.overload = overload
        if proto.metadata_props:
            node.metadata_props = props(proto.metadata_props)
        return node

    def _attribute(self, proto: AttributeProto, scopes: tuple[_Scope, ...], node: onnx.NodeProto) -> Any:
        name, kind, doc = proto.name, proto.type, proto.doc_string
        if type(name) is not str or type(doc) is not str:
            require_text(proto, _where(node), "name", "doc_string")
        if kind in _RAW or proto.ref_attr_name or doc:
            return RawAttribute(copies([proto])[0])
        read = _READERS.get(kind)
        if read is not None:
            return read(proto)
        if kind == AttributeProto.TENSOR:
            return Constant(proto.t.name or name, self._store(proto.t))
        if kind == AttributeProto.GRAPH:
            return self._graph(proto.g, scopes)
        where = _where(node)
        if kind == AttributeProto.GRAPHS:
            raise UnsupportedError(f"{where}: attribute {name!r} is a list of graphs, which graphopt cannot keep")
        raise InvalidModelError(f"{where}: attribute {name!r} has the unknown type {kind}")


_READERS: dict[int, Callable[[AttributeProto], Any]] = {
    AttributeProto.FLOAT: lambda proto: proto.f,
    AttributeProto.INT: lambda proto: proto.i,
    AttributeProto.STRING: lambda proto: _text(proto.s),
    AttributeProto.FLOATS: lambda proto: list(proto.floats),
    AttributeProto.INTS: lambda proto: list(proto.ints),
    AttributeProto.STRINGS: lambda proto: [_text(s) for s in proto.strings],
}


def _lookup(name: str, scopes: tuple[_Scope, ...], what: str, proto: Message) -> Tensor:
    for scope in reversed(scopes):
        found = scope.get(name)
        if found is not None:
            return found
    raise InvalidModelError(f"{what} {_where(proto)} reads {name!r}, which nothing produces".lstrip())


def _where(proto: Message) -> str:
    """What to call a node or value in a message."""
    if isinstance(proto, onnx.NodeProto):
        return f"node {proto.name or proto.op_type!r} ({proto.op_type})"
    return repr(proto.name)


def _describe(infos: Iterable[onnx.ValueInfoProto], scope: _Scope) -> None:
    for info in infos:
        tensor = scope.get(info.name)
        if isinstance(tensor, Variable):
            _fill(tensor, info)
        elif tensor is not None:
            tensor.described = True
            tensor.metadata_props = props(info.metadata_props)


def _fill(variable: Variable, info: onnx.ValueInfoProto) -> None:
    doc = info.doc_string
    if doc:
        require_text(info, f"value {variable.name!r}", "doc_string")
        variable.doc_string = doc
    if info.metadata_props:
        variable.metadata_props = props(info.metadata_props)
    kind = info.type.WhichOneof("value")
    if kind == "tensor_type":
        tensor = info.type.tensor_type
        if tensor.elem_type:
            variable.dtype = numpy_type(tensor.elem_type)
        variable.shape = None
        if tensor.HasField("shape"):
            dims = list(tensor.shape.dim)
            variable.shape = _extents(dims, tensor.shape)
            denotations = [d.denotation for d in dims]
            if any(denotations):
                variable.denotations = denotations
        if info.type.denotation:
            variable.type_proto = copies([info.type])[0]
    elif kind is not None:
        variable.type_proto = copies([info.type])[0]


def _extents(dims: Iterable[onnx.TensorShapeProto.Dimension], proto: onnx.TensorShapeProto) -> Shape:
    shape: Shape = [d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in dims]
    if any(isinstance(extent, bytes) for extent in shape):
        raise InvalidModelError(f"a symbolic extent is not UTF-8 text: {proto}")
    return shape


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
