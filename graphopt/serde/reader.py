"""From files and bytes to a small proto and a store that knows where the weights lie."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from onnx import TensorProto

from graphopt.errors import InvalidModelError
from graphopt.serde.exporter import Weights
from graphopt.serde.external import region_of
from graphopt.serde.wire import MIN_DETACHED, detach
from graphopt.storage import FileRegion, MemoryRegion, Region, StoredTensor, tensor_bytes


class Store(Protocol):
    """Says where the bytes of a tensor of a small proto lie."""

    def __call__(self, tensor: TensorProto) -> StoredTensor:
        """The stored tensor."""
        ...


class FileStore:
    """Resolves markers to regions of the model file or bytes, and external data to regions of other files."""

    def __init__(self, marker: str, regions: list[Region], base: Path | None) -> None:
        self._marker = marker
        self._regions = regions
        self._base = base
        self.external = False

    def __call__(self, tensor: TensorProto) -> StoredTensor:
        """The stored tensor; declared extents are checked against the bytes that are there.

        Raises:
            InvalidModelError: the number of bytes does not fit the declared shape and type.
        """
        if tensor.data_location != TensorProto.EXTERNAL:
            _check_inline(tensor)
            return StoredTensor(tensor)
        if self._marker and len(tensor.external_data) and tensor.external_data[-1].key == self._marker:
            region = self._regions[int(tensor.external_data[-1].value)]
            del tensor.external_data[-1]
            tensor.ClearField("data_location")
            _check_size(tensor, region.length)
            return StoredTensor(tensor, region)
        self.external = True
        region = region_of(tensor, self._base)
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        return StoredTensor(tensor, region)


class ProtoStore:
    """Takes the bytes out of the tensors of a caller's proto, which is neither changed nor kept."""

    def __init__(self, base: Path | None) -> None:
        self._files = FileStore("", [], base)

    @property
    def external(self) -> bool:
        """Whether a tensor lay outside the proto."""
        return self._files.external

    def __call__(self, tensor: TensorProto) -> StoredTensor:
        """The stored tensor.

        Raises:
            InvalidModelError: the number of bytes does not fit the declared shape and type.
        """
        if _is_large(tensor):
            raw = tensor.raw_data
            _check_size(tensor, len(raw))
            small = TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
            small.metadata_props.extend(tensor.metadata_props)
            if tensor.doc_string:
                small.doc_string = tensor.doc_string
            return StoredTensor(small, MemoryRegion(raw, 0, len(raw)))
        own = TensorProto()
        own.CopyFrom(tensor)
        return self._files(own)


def _is_large(tensor: TensorProto) -> bool:
    """Whether the tensor holds its bytes itself, as raw data that is worth keeping apart."""
    if not tensor.HasField("raw_data") or tensor.data_location == TensorProto.EXTERNAL or tensor.HasField("segment"):
        return False
    return isinstance(tensor.name, str) and tensor_bytes(tensor) >= MIN_DETACHED


class SharedStore:
    """Resolves markers to the sources that an exporter listed; used to clone a model in memory."""

    external = False

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def __call__(self, tensor: TensorProto) -> StoredTensor:
        """The stored tensor, sharing its array or region."""
        if tensor.data_location != TensorProto.EXTERNAL:
            return StoredTensor(tensor)
        source = self._weights.sources[int(tensor.external_data[-1].value)]
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        return StoredTensor(tensor, source)


@dataclass(frozen=True)
class Content:
    """A model without its large weights, the store that has them, and what to call it in messages."""

    model: bytes
    store: FileStore
    label: str


def from_bytes(data: bytes, base: Path | None) -> Content:
    """Split a serialized model; ``data`` is shared, not copied."""
    parts = detach(memoryview(data))
    regions: list[Region] = [MemoryRegion(data, offset, length) for offset, length in parts.regions]
    return Content(parts.model, FileStore(parts.marker, regions, base), "the given bytes")


def from_file(path: Path) -> Content:
    """Split a model file; its large weights stay on disk.

    Raises:
        InvalidModelError: the file is empty, truncated or not protobuf; the message names it.
    """
    info = path.stat()
    if info.st_size == 0:
        raise InvalidModelError(f"{str(path)!r} is empty")
    with open(path, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        view = memoryview(data)
        try:
            parts = detach(view)
        except InvalidModelError as error:
            # The frames of the traceback hold views of the file, which cannot be closed before they are gone.
            raise InvalidModelError(f"{str(path)!r}: {error}") from error.with_traceback(None)
        finally:
            view.release()
    regions: list[Region] = [FileRegion(path, o, length, info.st_mtime_ns) for o, length in parts.regions]
    return Content(parts.model, FileStore(parts.marker, regions, path.parent), repr(str(path)))


def _check_size(tensor: TensorProto, length: int) -> None:
    expected = tensor_bytes(tensor)
    if tensor.data_type != TensorProto.STRING and length != expected:
        raise InvalidModelError(
            f"tensor {tensor.name!r} declares {list(tensor.dims)}, which takes {expected} bytes; the file has {length}"
        )


_PER_VALUE: dict[int, tuple[str, int]] = {
    TensorProto.FLOAT: ("float_data", 1),
    TensorProto.DOUBLE: ("double_data", 1),
    TensorProto.INT64: ("int64_data", 1),
    TensorProto.STRING: ("string_data", 1),
    TensorProto.COMPLEX64: ("float_data", 2),
    TensorProto.COMPLEX128: ("double_data", 2),
    TensorProto.UINT32: ("uint64_data", 1),
    TensorProto.UINT64: ("uint64_data", 1),
}
_PACKED = ("INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2")


def _check_inline(tensor: TensorProto) -> None:
    """Compare the declared extents with the values that the proto itself holds."""
    if tensor.HasField("raw_data"):
        _check_size(tensor, len(tensor.raw_data))
        return
    count = 1
    tensor_bytes(tensor)
    for extent in tensor.dims:
        count *= extent
    if TensorProto.DataType.Name(tensor.data_type) in _PACKED:
        return
    name, per_value = _PER_VALUE.get(tensor.data_type, ("int32_data", 1))
    held = len(getattr(tensor, name))
    if held != count * per_value:
        raise InvalidModelError(f"tensor {tensor.name!r} declares {list(tensor.dims)}, but holds {held} values")
