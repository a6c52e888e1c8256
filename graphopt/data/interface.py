"""What a model takes and gives: names, types and shapes of its inputs and outputs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from graphopt.data.wire import interface_fields, model_view
from graphopt.errors import InvalidModelError, UsageError

Dim = int | str | None
Kind = Literal["tensor", "sequence", "optional", "map", "sparse_tensor", "unknown"]


@dataclass(frozen=True)
class TensorInfo:
    """One input or output.

    ``dtype`` is the numpy dtype (``object`` for strings, an ml_dtypes type for bfloat16 and float8) and
    ``elem_type`` the ``onnx.TensorProto`` number; both are empty for what is not a tensor. ``shape`` holds an
    int, a symbol or None a dim, and is None when the rank is unknown. ``has_default``: an initializer stands
    in when nothing is fed.
    """

    name: str
    kind: Kind
    dtype: np.dtype[Any] | None
    elem_type: int
    shape: tuple[Dim, ...] | None
    has_default: bool = False

    @property
    def is_tensor(self) -> bool:
        """True for a dense tensor, the only kind that files of arrays can feed."""
        return self.kind == "tensor"

    def free_dims(self) -> dict[str, tuple[int, ...]]:
        """Dims without a number: name -> axes. An unnamed dim is called ``<tensor>.<axis>``."""
        found: dict[str, tuple[int, ...]] = {}
        for axis, dim in enumerate(self.shape or ()):
            if not isinstance(dim, int):
                key = dim or f"{self.name}.{axis}"
                found[key] = (*found.get(key, ()), axis)
        return found

    def describe(self) -> str:
        """Readable form, such as ``x: float32[N,3,?,224]``."""
        kind = str(self.dtype) if self.is_tensor and self.dtype is not None else self.kind
        if self.shape is None:
            return f"{self.name}: {kind}[...]"
        dims = ",".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.name}: {kind}[{dims}]"


@dataclass(frozen=True)
class Interface:
    """Inputs and outputs of a model, in the order of the file."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    @property
    def required(self) -> tuple[TensorInfo, ...]:
        """Inputs that must be fed: those without a default."""
        return tuple(info for info in self.inputs if not info.has_default)

    def input(self, name: str) -> TensorInfo:
        """Give the input called ``name``; UsageError names the nearest one when there is none."""
        return _find(self.inputs, name, "input")

    def output(self, name: str) -> TensorInfo:
        """Give the output called ``name``; UsageError names the nearest one when there is none."""
        return _find(self.outputs, name, "output")

    def free_dims(self) -> dict[str, tuple[str, ...]]:
        """Dims of required inputs without a number: dim name -> where it stands (``x axis 0``)."""
        found: dict[str, tuple[str, ...]] = {}
        for info in self.required:
            for name, axes in info.free_dims().items():
                found[name] = found.get(name, ()) + tuple(f"{info.name} axis {axis}" for axis in axes)
        return found

    def batch_dims(self) -> tuple[str, ...]:
        """Names of the free dims that are the batch.

        That is the first dim of every required input of rank >= 1, when all of them are free and at most one
        symbol is used. Empty otherwise.
        """
        ranked = [info for info in self.required if info.shape]
        firsts = [(info, info.shape[0]) for info in ranked if info.shape]
        if not firsts or any(isinstance(dim, int) for _, dim in firsts):
            return ()
        names = tuple(dict.fromkeys(str(dim) if dim else f"{info.name}.0" for info, dim in firsts))
        symbols = {dim for _, dim in firsts if dim}
        return names if len(symbols) <= 1 else ()

    def bind(self, dims: Mapping[str, int], batch: int | None = None) -> Interface:
        """Give numbers to free dims. ``batch`` sets the batch dims that ``dims`` does not name.

        Raises UsageError for a name that is no free dim of the model, and for a number below 1.
        """
        known = set(self.free_dims())
        for info in (*self.inputs, *self.outputs):
            known.update(info.free_dims())
        for name, value in dims.items():
            if name not in known:
                raise UsageError(f"--dim {name}: the model has no free dim {name!r}{nearest_name(name, known)}")
            if value < 1:
                raise UsageError(f"--dim {name}={value}: a dim must be at least 1")
        if batch is not None and batch < 1:
            raise UsageError(f"--batch {batch}: a batch must be at least 1")
        values = dict.fromkeys(self.batch_dims(), batch) if batch is not None else {}
        values.update(dims)
        return Interface(
            tuple(_bind(info, values) for info in self.inputs),
            tuple(_bind(info, values) for info in self.outputs),
        )

    def require_static(self, purpose: str) -> None:
        """Raise UsageError that lists the free dims of required inputs; ``purpose`` says what needs them."""
        free = self.free_dims()
        if free:
            listed = "; ".join(f"{name} ({', '.join(places)})" for name, places in free.items())
            example = " ".join(f"--dim {name}=N" for name in free)
            raise UsageError(f"{purpose} needs a value for each of these dims: {listed}. Give {example}")


def read_interface(model: bytes | Path) -> Interface:
    """Read the interface of a serialized model or ONNX file without loading its weights.

    Raises InvalidModelError when it is not an ONNX model, UsageError when there is no such file.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    where = "the model" if isinstance(model, bytes) else str(model)
    with model_view(model) as view:
        fields = interface_fields(view, where)
    try:
        inputs = [onnx.ValueInfoProto.FromString(raw) for raw in fields.inputs]
        outputs = [onnx.ValueInfoProto.FromString(raw) for raw in fields.outputs]
    except DecodeError as error:
        raise InvalidModelError(f"{where}: an input or output cannot be decoded") from error
    return Interface(
        tuple(_info(value, value.name in fields.initializers) for value in inputs),
        tuple(_info(value, False) for value in outputs),
    )


def _info(value: Any, has_default: bool) -> TensorInfo:
    kind = _KINDS.get(value.type.WhichOneof("value") or "", "unknown")
    if kind != "tensor":
        return TensorInfo(value.name, kind, None, 0, None, has_default)
    tensor = value.type.tensor_type
    shape = tuple(_dim(dim) for dim in tensor.shape.dim) if tensor.HasField("shape") else None
    return TensorInfo(value.name, kind, _numpy_dtype(tensor.elem_type), tensor.elem_type, shape, has_default)


_KINDS: Mapping[str, Kind] = {
    "tensor_type": "tensor",
    "sequence_type": "sequence",
    "optional_type": "optional",
    "map_type": "map",
    "sparse_tensor_type": "sparse_tensor",
}


def _dim(dim: Any) -> Dim:
    which = dim.WhichOneof("value")
    if which == "dim_value":
        # Some exporters write -1 for "unknown"; 0 is a real, empty dim.
        return int(dim.dim_value) if dim.dim_value >= 0 else None
    return str(dim.dim_param) or None if which == "dim_param" else None


def _numpy_dtype(elem_type: int) -> np.dtype[Any] | None:
    import onnx

    if elem_type == onnx.TensorProto.STRING:
        return np.dtype(object)
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type))
    except KeyError:
        return None


def _bind(info: TensorInfo, values: Mapping[str, int]) -> TensorInfo:
    if info.shape is None:
        return info
    bound = [
        dim if isinstance(dim, int) else values.get(dim or f"{info.name}.{axis}", dim)
        for axis, dim in enumerate(info.shape)
    ]
    return replace(info, shape=tuple(bound))


def _find(infos: tuple[TensorInfo, ...], name: str, what: str) -> TensorInfo:
    for info in infos:
        if info.name == name:
            return info
    raise UsageError(f"the model has no {what} {name!r}{nearest_name(name, [info.name for info in infos])}")


def nearest_name(name: str, known: Iterable[str]) -> str:
    """End of an error message: the nearest known name, or a list of them when none is near."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    if not names:
        return "; there is none"
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"; there is {shown}"
