"""Where weights are kept until somebody reads them: a region of a file, a region of bytes, or a TensorProto."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto
from onnx_graphsurgeon.ir.tensor import LazyValues

from graphopt.errors import InvalidModelError
from graphopt.ir import Array

_CHUNK = 1 << 23
_SUB_BYTE = {
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.FLOAT4E2M1: 4,
    **{getattr(TensorProto, name): 2 for name in ("INT2", "UINT2") if hasattr(TensorProto, name)},
}


@dataclass(frozen=True)
class FileRegion:
    """``length`` bytes at ``offset`` of a file that must not change while it is in use."""

    path: Path
    offset: int
    length: int
    mtime_ns: int

    def chunks(self) -> Iterator[bytes]:
        """The bytes, a few megabytes at a time."""
        with self._open() as handle:
            left = self.length
            while left:
                data = handle.read(min(left, _CHUNK))
                if not data:
                    raise InvalidModelError(f"{self.path} is shorter than it was when the model was loaded")
                left -= len(data)
                yield data

    def read(self) -> bytearray:
        """All the bytes, in one buffer."""
        out = bytearray(self.length)
        with self._open() as handle:
            if handle.readinto(memoryview(out)) != self.length:
                raise InvalidModelError(f"{self.path} is shorter than it was when the model was loaded")
        return out

    def _open(self) -> Any:
        handle = self.path.open("rb")
        if os.fstat(handle.fileno()).st_mtime_ns != self.mtime_ns:
            handle.close()
            raise InvalidModelError(f"{self.path} changed while its model was in use; load it again")
        handle.seek(self.offset)
        return handle


@dataclass(frozen=True)
class MemoryRegion:
    """``length`` bytes at ``offset`` of an immutable buffer."""

    buffer: bytes
    offset: int
    length: int

    def chunks(self) -> Iterator[memoryview]:
        """The bytes as one view; nothing is copied."""
        yield self.read()

    def read(self) -> memoryview:
        """A read-only view of the bytes."""
        return memoryview(self.buffer)[self.offset : self.offset + self.length]


Region: TypeAlias = FileRegion | MemoryRegion


class StoredTensor(LazyValues):  # type: ignore[misc]
    """A tensor as the file holds it. ``load`` gives a read-only array; it is read once and then kept.

    ``proto`` has everything but the bytes when ``source`` (a region, or an array shared with another model) holds
    them. Untouched tensors are written back from
    here, bit for bit, so types that numpy cannot hold survive too.
    """

    def __init__(self, proto: TensorProto, source: Region | Array | None = None) -> None:
        self.tensor = proto
        self.source = source
        self.shape = tuple(proto.dims)
        self.dtype = numpy_type(proto.data_type)
        self.nbytes = tensor_bytes(proto)
        self._array: Array | None = source if isinstance(source, np.ndarray) else None

    @property
    def proto(self) -> TensorProto:
        """The TensorProto; without its bytes when ``source`` is set."""
        return self.tensor

    def load(self) -> Array:
        """The values as a read-only array of ``shape``."""
        if self._array is None:
            array = self._read()
            array.flags.writeable = False
            self._array = array
        return self._array

    def _read(self) -> Array:
        if self.source is None:
            return np.asarray(onnx.numpy_helper.to_array(self.tensor)).view()
        if isinstance(self.source, np.ndarray):
            return self.source
        data = self.source.read()
        if self.tensor.data_type in _SUB_BYTE or np.little_endian is False:
            full = TensorProto(dims=self.tensor.dims, data_type=self.tensor.data_type, raw_data=bytes(data))
            return np.asarray(onnx.numpy_helper.to_array(full))
        return np.frombuffer(data, self.dtype).reshape(self.shape)


class SparseTensor(LazyValues):  # type: ignore[misc]
    """A sparse initializer, kept as its protobuf. ``load`` gives the dense, read-only array."""

    def __init__(self, proto: onnx.SparseTensorProto) -> None:
        self.tensor = proto
        self.source = None
        self.shape = tuple(proto.dims)
        self.dtype: np.dtype[Any] = onnx.helper.tensor_dtype_to_np_dtype(proto.values.data_type)
        self.nbytes = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        self._array: Array | None = None

    @property
    def proto(self) -> onnx.SparseTensorProto:
        """The SparseTensorProto."""
        return self.tensor

    def load(self) -> Array:
        """The dense values (source: ONNX IR, SparseTensorProto: linear or per-axis indices)."""
        if self._array is None:
            values = onnx.numpy_helper.to_array(self.tensor.values)
            indices = onnx.numpy_helper.to_array(self.tensor.indices)
            dense = np.zeros(self.shape, self.dtype)
            where = tuple(indices.T) if indices.ndim == 2 else np.unravel_index(indices, self.shape)
            dense[where] = values
            dense.flags.writeable = False
            self._array = dense
        return self._array


@functools.cache
def numpy_type(kind: int) -> np.dtype[Any]:
    """The numpy type of a TensorProto element type."""
    dtype: np.dtype[Any] = onnx.helper.tensor_dtype_to_np_dtype(kind)
    return dtype


def tensor_bytes(proto: TensorProto) -> int:
    """Bytes that the declared shape and type take when stored raw (strings: 0, they have no fixed size)."""
    count = 1
    for extent in proto.dims:
        if extent < 0:
            raise InvalidModelError(f"tensor {proto.name!r} declares a negative extent: {list(proto.dims)}")
        count *= extent
    bits = _SUB_BYTE.get(proto.data_type)
    if bits is not None:
        return (count * bits + 7) // 8
    if proto.data_type == TensorProto.STRING:
        return 0
    try:
        return count * int(numpy_type(proto.data_type).itemsize)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidModelError(f"tensor {proto.name!r} has the unknown data type {proto.data_type}") from error
