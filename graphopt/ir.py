"""Nodes and tensors: onnx-graphsurgeon's classes with identity, stable ids and read-only, lazily read weights.

They differ from their base classes in four ways. Equality and hash are by identity, so they can be keys of
dictionaries and networkx graphs. Each has an ``id``, unique in its model and stable across snapshots; a clone
has its own. They carry what graphsurgeon drops: doc strings, metadata, denotations, non-tensor types. The values of a
``Constant`` are read-only and stay where they are (file, bytes) until somebody reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.util.misc import SynchronizedList

from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    import numpy.typing as npt

    from graphopt.graph import Graph
    from graphopt.storage import StoredTensor

Array: TypeAlias = "npt.NDArray[Any]"
Dim: TypeAlias = int | str | None
Shape: TypeAlias = list[Dim]
Tensor: TypeAlias = "Variable | Constant"

UNSET_ID = -1
_LISTS = ("inputs", "outputs")
_EMPTY: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class RawAttribute:
    """An attribute kept as its protobuf, because Python has no value for it (type protos, sparse tensors, ...)."""

    proto: onnx.AttributeProto


class Node(gs.Node):  # type: ignore[misc]
    """An operation: ``op`` of ``domain`` with ``attrs``, reading ``inputs`` and producing ``outputs``.

    ``inputs`` and ``outputs`` are synchronised lists: editing them keeps the tensors' use-def lists right.
    An omitted optional input or output is a tensor whose ``is_empty()`` is true.
    """

    op: str
    name: str
    domain: str | None
    attrs: dict[str, Any]
    inputs: list[Tensor]
    outputs: list[Tensor]
    id: int = UNSET_ID
    doc_string: str = ""
    overload: str = ""
    metadata_props: Mapping[str, str] = _EMPTY
    attr_types: Mapping[str, int] = MappingProxyType({})

    def __init__(
        self,
        op: str,
        name: str | None = None,
        attrs: dict[str, Any] | None = None,
        inputs: Sequence[Tensor] | None = None,
        outputs: Sequence[Tensor] | None = None,
        domain: str | None = None,
    ) -> None:
        fields = self.__dict__
        fields["op"], fields["name"], fields["domain"] = op, name or "", domain
        fields["attrs"] = {} if attrs is None else attrs
        fields["inputs"] = _linked(self, "outputs", inputs)
        fields["outputs"] = _linked(self, "inputs", outputs)

    def __setattr__(self, name: str, value: Any) -> None:
        _set(self, name, value)

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def is_op(self, *ops: str) -> bool:
        """Whether this is one of the ``ai.onnx`` operators named."""
        return self.op in ops and not self.domain

    def __repr__(self) -> str:
        inputs = ", ".join(t.name for t in self.inputs)
        outputs = ", ".join(t.name for t in self.outputs)
        return f"<{self.name or self.op}: {outputs} = {self.op}({inputs})>"


class Variable(gs.Variable):  # type: ignore[misc]
    """A tensor whose value is known only at run time.

    ``dtype`` is a numpy dtype (ml_dtypes included) or None. ``shape`` is None when the rank is unknown, else a
    list of extents: an int, a symbolic name, or None. ``default`` is the value of an input that may be omitted.
    """

    name: str
    dtype: np.dtype[Any] | None
    shape: Shape | None
    inputs: list[Node]
    outputs: list[Node]
    id: int = UNSET_ID
    doc_string: str = ""
    metadata_props: Mapping[str, str] = _EMPTY
    type_proto: onnx.TypeProto | None = None
    denotations: Sequence[str] = ()
    default: StoredTensor | None = None

    def __init__(
        self,
        name: str,
        dtype: np.dtype[Any] | None = None,
        shape: Shape | None = None,
        type: str = "tensor_type",
    ) -> None:
        fields = self.__dict__
        fields["name"], fields["dtype"], fields["shape"], fields["type"] = name, dtype, shape, type
        fields["inputs"], fields["outputs"] = _linked(self, "outputs", None), _linked(self, "inputs", None)

    def __setattr__(self, name: str, value: Any) -> None:
        _set(self, name, value)

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def is_empty(self) -> bool:
        """Whether this stands for an omitted optional input or output."""
        return self.name == ""

    def __repr__(self) -> str:
        return f"<Variable {self.name}: {self.dtype}{self.shape}>"


class Constant(gs.Constant):  # type: ignore[misc]
    """An initializer. ``values`` is a read-only array, read from the file when first asked for.

    ``described``: the file lists it among its ``value_info`` too.
    """

    name: str
    inputs: list[Node]
    outputs: list[Node]
    id: int = UNSET_ID
    doc_string: str = ""
    metadata_props: Mapping[str, str] = _EMPTY
    described: bool = False
    _values: StoredTensor | Array

    def __init__(self, name: str, values: StoredTensor | Array, **kwargs: Any) -> None:
        super().__init__(name, _frozen(values) if isinstance(values, np.ndarray) else values, **kwargs)

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def is_empty(self) -> bool:
        """Always false: a constant is never an omitted input."""
        return False

    @property
    def stored(self) -> StoredTensor | None:
        """The tensor as the file holds it, or None once ``values`` was replaced."""
        return None if isinstance(self._values, np.ndarray) else self._values

    @property
    def values(self) -> Array:
        """The values, read-only. Replace them through ``Graph.set_weight``."""
        return self._values if isinstance(self._values, np.ndarray) else self._values.load()

    @values.setter
    def values(self, values: Array | LazyValues) -> None:
        self._values = _frozen(np.asarray(values)) if not isinstance(values, LazyValues) else values

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents, known without reading the values."""
        return tuple(self._values.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The element type, known without reading the values."""
        return self._values.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return int(self._values.nbytes)

    def __repr__(self) -> str:
        return f"<Constant {self.name}: {self.dtype}{list(self.shape)}>"


def _linked(owner: Node | Tensor, field: str, items: Iterable[Any] | None) -> SynchronizedList:
    """A synchronised list as graphsurgeon's constructors make them, in fewer steps."""
    made = SynchronizedList.__new__(SynchronizedList)
    made.parent_obj, made.field_name = owner, field
    if items:
        list.extend(made, items)
        for item in made:
            list.append(getattr(item, field), owner)
    return made


def _set(item: Node | Tensor, name: str, value: Any) -> None:
    """As graphsurgeon sets attributes: the contents of ``inputs`` and ``outputs`` are replaced, not the lists."""
    if name in _LISTS:
        held = getattr(item, name)
        if held is not value:
            held.clear()
            held.extend(value)
    else:
        object.__setattr__(item, name, value)


def empty() -> Variable:
    """A tensor that stands for an omitted optional input or output."""
    return Variable("")


def _frozen(array: Array) -> Array:
    """The array, read-only: itself when it already is or owns its data, else a view of it."""
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.flags.writeable:
        array = array.view()
        array.flags.writeable = False
    return array


def constant_value(tensor: Tensor) -> Array | None:
    """The value of an initializer or of a ``Constant`` node's output, else None.

    Sparse constants and the like give None; they are opaque.
    """
    if isinstance(tensor, Constant):
        return tensor.values
    node = constant_node(tensor)
    return None if node is None else _node_value(node)


def constant_node(tensor: Tensor) -> Node | None:
    """The ``Constant`` node that produces the tensor, or None."""
    if isinstance(tensor, Variable) and tensor.inputs and tensor.inputs[0].is_op("Constant"):
        return tensor.inputs[0]
    return None


def subgraphs(node: Node) -> list[Graph]:
    """The graphs that a node holds as attributes."""
    if not node.attrs:
        return []
    return [v for v in node.attrs.values() if isinstance(v, gs.Graph)]


def ensure_id(item: Node | Tensor, ids: Iterator[int]) -> None:
    """Number a node or tensor that has no id yet."""
    if item.id == UNSET_ID:
        item.id = next(ids)


def is_constant(tensor: Tensor) -> bool:
    """Whether the value is fixed in the file: an initializer or the output of a ``Constant`` node."""
    return isinstance(tensor, Constant) or constant_node(tensor) is not None


def static_shape(tensor: Tensor) -> tuple[int, ...] | None:
    """The shape when every extent is a known integer, else None."""
    shape = tensor.shape
    if shape is None or not all(isinstance(d, (int, np.integer)) for d in shape):
        return None
    return tuple(int(d) for d in shape)  # type: ignore[arg-type]


def _node_value(node: Node) -> Array | None:
    for name, value in node.attrs.items():
        match name:
            case "value" if isinstance(value, gs.Constant):
                return np.asarray(value.values)
            case "value" if isinstance(value, np.ndarray):
                return _frozen(value)
            case "value_float":
                return np.array(value, np.float32)
            case "value_floats":
                return np.array(value, np.float32)
            case "value_int" | "value_ints":
                return np.array(value, np.int64)
            case "value_string":
                return np.array(value, object)
            case "value_strings":
                return np.array(value, object)
            case "value" | "sparse_value":
                return None
    raise GraphoptError(f"Constant node {node.name!r} has no value attribute")


def renamed_annotation(annotation: onnx.TensorAnnotation, old: str, new: str) -> onnx.TensorAnnotation:
    """The annotation with tensor ``old`` called ``new``; itself when it does not speak of ``old``."""
    entries = annotation.quant_parameter_tensor_names
    if annotation.tensor_name != old and all(e.value != old for e in entries):
        return annotation
    made = onnx.TensorAnnotation()
    made.CopyFrom(annotation)
    made.tensor_name = new if made.tensor_name == old else made.tensor_name
    for entry in made.quant_parameter_tensor_names:
        entry.value = new if entry.value == old else entry.value
    return made
