"""Writing models: streamed, atomic, deterministic, with weights inline or in a data file beside the model."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from onnx import TensorProto

from graphopt.errors import UsageError
from graphopt.serde.exporter import Source, Weights
from graphopt.serde.wire import Blob, Piece, attach
from graphopt.storage import MemoryRegion

PROTOBUF_LIMIT = (1 << 31) - 1
_ALIGN = 4096


def new_marker() -> str:
    """A key that no file holds, for tensors whose bytes are listed apart."""
    return "graphopt-" + secrets.token_hex(8)


def serialize(proto: onnx.ModelProto, weights: Weights) -> bytes:
    """The full model as bytes.

    Raises:
        UsageError: over protobuf's 2 GB.
    """
    pieces, size = _pieces(proto, weights)
    if size >= PROTOBUF_LIMIT:
        raise UsageError(f"the model takes {size:,} bytes, more than one protobuf message can hold; save it external")
    return b"".join(chunk for piece in pieces for chunk in _chunks(piece, weights))


def fill(proto: onnx.ModelProto, weights: Weights) -> None:
    """Put the bytes of the weights into ``proto``, where its markers are.

    Raises:
        UsageError: over protobuf's 2 GB.
    """
    size = sum(weights.lengths())
    if size >= PROTOBUF_LIMIT:
        raise UsageError(f"the weights take {size:,} bytes, more than one protobuf message can hold; save the model")
    for tensor in _tensors(proto.graph):
        if tensor.data_location == TensorProto.EXTERNAL and tensor.external_data[-1].key == weights.marker:
            source = weights.sources[int(tensor.external_data[-1].value)]
            del tensor.external_data[:]
            tensor.ClearField("data_location")
            tensor.raw_data = _whole(source)


def _whole(source: Source) -> bytes:
    if isinstance(source, MemoryRegion) and source.offset == 0 and source.length == len(source.buffer):
        return source.buffer
    return b"".join(_source_chunks(source))


def stub(proto: onnx.ModelProto, weights: Weights) -> onnx.ModelProto:
    """``proto`` with its markers turned into external references, as the checker and shape inference accept them."""
    for tensor in _tensors(proto.graph):
        if tensor.data_location == TensorProto.EXTERNAL:
            del tensor.external_data[:]
            tensor.external_data.add(key="location", value="weights")
    del weights
    return proto


def save(
    proto: onnx.ModelProto,
    weights: Weights,
    path: Path,
    external: str,
    was_external: bool,
    sources: set[Path],
    force: bool,
) -> None:
    """Write ``proto`` with ``weights`` to ``path``. See ``Model.save``."""
    if external not in ("auto", "inline", "file"):
        raise UsageError(f"external must be auto, inline or file, not {external!r}")
    target = path.resolve()
    if target.is_dir():
        raise UsageError(f"{str(path)!r} is a folder; name a file to write")
    if not target.parent.is_dir():
        raise UsageError(f"there is no folder {str(target.parent)!r} to write to")
    if any(target == s or (target.exists() and s.exists() and target.samefile(s)) for s in sources):
        raise UsageError(f"{str(path)!r} is the file that the model was read from; write to another one")
    if target.exists() and not force:
        raise UsageError(f"{str(path)!r} exists; choose another name or pass --force")
    pieces, size = _pieces(proto, weights)
    if external == "inline" and size >= PROTOBUF_LIMIT:
        raise UsageError(f"the model takes {size:,} bytes, too many for one file; use external=file")
    if external == "file" or (external == "auto" and (was_external or size >= PROTOBUF_LIMIT)):
        _save_external(proto, weights, target)
    else:
        with _appears(target) as handle:
            _stream(pieces, weights, handle)


def _save_external(proto: onnx.ModelProto, weights: Weights, target: Path) -> None:
    if not weights.sources:
        with _appears(target) as handle:
            handle.write(proto.SerializeToString(deterministic=True))
        return
    data_name = f"{target.name}.{_digest(weights)}.data"
    offsets: list[int] = []
    with _appears(target.parent / data_name) as handle:
        at = 0
        for source in weights.sources:
            padding = -at % _ALIGN
            handle.write(bytes(padding))
            at += padding
            offsets.append(at)
            for chunk in _source_chunks(source):
                handle.write(chunk)
                at += len(chunk)
    stale = _own_data_files(target) - {data_name} if target.exists() else set()
    for tensor in _tensors(proto.graph):
        if tensor.data_location == TensorProto.EXTERNAL:
            index = int(tensor.external_data[-1].value)
            del tensor.external_data[:]
            tensor.external_data.add(key="location", value=data_name)
            tensor.external_data.add(key="offset", value=str(offsets[index]))
            tensor.external_data.add(key="length", value=str(weights.lengths()[index]))
    with _appears(target) as handle:
        handle.write(proto.SerializeToString(deterministic=True))
    for name in stale:
        (target.parent / name).unlink(missing_ok=True)


def _own_data_files(target: Path) -> set[str]:
    """Data files that an earlier save to ``target`` left beside it."""
    pattern = re.compile(re.escape(target.name) + r"\.[0-9a-f]{12}\.data")
    return {p.name for p in target.parent.iterdir() if pattern.fullmatch(p.name)}


@contextlib.contextmanager
def _appears(target: Path) -> Iterator[BinaryIO]:
    """A file that is renamed to ``target`` when the block ends well and removed when it does not."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _digest(weights: Weights) -> str:
    """First characters of the SHA-256 of all weights, in order."""
    sha = hashlib.sha256()
    for source in weights.sources:
        for chunk in _source_chunks(source):
            sha.update(chunk)
    return sha.hexdigest()[:12]


def _pieces(proto: onnx.ModelProto, weights: Weights) -> tuple[list[Piece], int]:
    return attach(proto.SerializeToString(deterministic=True), weights.marker, weights.lengths())


def _stream(pieces: list[Piece], weights: Weights, handle: BinaryIO) -> None:
    for piece in pieces:
        for chunk in _chunks(piece, weights):
            handle.write(chunk)


def _chunks(piece: Piece, weights: Weights) -> Iterator[bytes | memoryview]:
    if isinstance(piece, Blob):
        yield from _source_chunks(weights.sources[piece.index])
    else:
        yield piece


def _source_chunks(source: Source) -> Iterator[bytes | memoryview]:
    if isinstance(source, np.ndarray):
        yield np.ascontiguousarray(source).reshape(-1).view(np.uint8).data
    else:
        yield from source.chunks()


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Initializers and tensor attributes of a graph and of the graphs nested in it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)
