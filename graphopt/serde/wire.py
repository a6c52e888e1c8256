"""Moves large weights out of, and back into, serialized ONNX models without parsing them.

``detach`` turns a serialized model into a small one, in which each large tensor carries a marker in place of its
bytes, and a list of the regions where the bytes lie. ``attach`` does the reverse and yields the pieces of the
full model in order, so that a file can be written without ever holding it in memory. Both are one recursive
rewrite of the length-delimited fields that can hold a tensor (source: protobuf encoding, onnx.proto).
"""

from __future__ import annotations

import secrets
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from graphopt.errors import InvalidModelError

MIN_DETACHED = 1024
_MAX_GRAPHS = 33
_MAX_DEPTH = 3 * _MAX_GRAPHS

_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _TENSOR = (
    "ModelProto",
    "GraphProto",
    "NodeProto",
    "AttributeProto",
    "TensorProto",
)
_CHILDREN = {
    _MODEL: {7: _GRAPH},
    _GRAPH: {1: _NODE, 5: _TENSOR},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH},
}
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14


@dataclass(frozen=True)
class Blob:
    """Stands for the bytes of the tensor numbered ``index``, ``length`` bytes long."""

    index: int
    length: int


Piece: TypeAlias = memoryview | bytes | Blob


@dataclass(frozen=True)
class Detached:
    """A model without its large weights. ``regions[i]`` is (offset, length) of the tensor marked ``i``."""

    model: bytes
    marker: str
    regions: list[tuple[int, int]]


@dataclass(frozen=True)
class _Rewritten:
    pieces: list[Piece]
    length: int


_Visit: TypeAlias = Callable[[memoryview, int, int], "_Rewritten | None"]
_Descend: TypeAlias = Callable[[int, int], bool]


def detach(buffer: memoryview) -> Detached:
    """Split a serialized model; ``buffer`` is not copied and only its small parts are read.

    Raises:
        InvalidModelError: the bytes are not a well-formed protobuf message.
    """
    marker = "graphopt-" + secrets.token_hex(8)
    regions: list[tuple[int, int]] = []

    def visit(data: memoryview, start: int, end: int) -> _Rewritten | None:
        raw = [(a, b) for field, _, a, b in _fields(data, start, end) if field == _RAW_DATA]
        if len(raw) != 1 or raw[0][1] - raw[0][0] < MIN_DETACHED:
            return None
        regions.append((raw[0][0], raw[0][1] - raw[0][0]))
        note = _length_delimited(_EXTERNAL_DATA, _entry(marker, str(len(regions) - 1)))
        kept = [bytes(data[tag:b]) for field, tag, _, b in _fields(data, start, end) if field != _RAW_DATA]
        body = b"".join(kept) + note + _varint(_DATA_LOCATION << 3) + b"\x01"
        return _Rewritten([body], len(body))

    result = _rewrite(buffer, 0, len(buffer), _MODEL, visit, lambda a, b: b - a >= MIN_DETACHED, 0)
    model = bytes(buffer) if result is None else b"".join(_plain(result.pieces))
    return Detached(model, marker, regions)


def attach(model: bytes, marker: str, lengths: list[int]) -> tuple[list[Piece], int]:
    """The pieces of the full model and its size: bytes, and ``Blob`` where the bytes of a tensor belong."""
    needle = marker.encode()
    marks = list(_find_all(model, needle))

    def descend(start: int, end: int) -> bool:
        at = bisect_left(marks, start)
        return at < len(marks) and marks[at] < end

    def visit(data: memoryview, start: int, end: int) -> _Rewritten | None:
        before: list[bytes] = []
        after: list[bytes] = []
        index = -1
        for field, tag, a, b in _fields(data, start, end):
            if field == _EXTERNAL_DATA:
                index = _entry_value(bytes(data[a:b]))
            elif field != _DATA_LOCATION:
                (before if field < _RAW_DATA else after).append(bytes(data[tag:b]))
        head = b"".join(before) + _varint(_RAW_DATA << 3 | 2) + _varint(lengths[index])
        tail = b"".join(after)
        length = len(head) + lengths[index] + len(tail)
        return _Rewritten([head, Blob(index, lengths[index]), tail], length)

    result = _rewrite(memoryview(model), 0, len(model), _MODEL, visit, descend, 0)
    if result is None:
        return [model], len(model)
    return result.pieces, result.length


def _rewrite(
    data: memoryview, start: int, end: int, kind: str, visit: _Visit, descend: _Descend, depth: int
) -> _Rewritten | None:
    """Rewrite one message of ``kind``; None when nothing in it changes."""
    if kind == _TENSOR:
        return visit(data, start, end)
    if depth > _MAX_DEPTH:
        raise InvalidModelError(
            f"the model nests graphs more than {_MAX_GRAPHS} levels deep, which protobuf cannot read"
        )
    pieces: list[Piece] = []
    length, copied, children = 0, start, _CHILDREN[kind]
    for field, tag, a, b in _fields(data, start, end):
        child = children.get(field)
        if child is None or not descend(a, b):
            continue
        inner = _rewrite(data, a, b, child, visit, descend, depth + 1)
        if inner is None:
            continue
        header = _varint(field << 3 | 2) + _varint(inner.length)
        pieces += [data[copied:tag], header, *inner.pieces]
        length += tag - copied + len(header) + inner.length
        copied = b
    if not pieces:
        return None
    pieces.append(data[copied:end])
    return _Rewritten(pieces, length + end - copied)


def _fields(data: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, start of the tag, start of the value, end of the value) of each field of a message."""
    at = start
    while at < end:
        tag_at = at
        tag, at = _read_varint(data, at, end)
        wire = tag & 7
        value_at = at
        if wire == 2:
            size, value_at = _read_varint(data, at, end)
            at = value_at + size
        elif wire == 0:
            _, at = _read_varint(data, at, end)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise InvalidModelError(f"not an ONNX model: wire type {wire} at byte {tag_at}")
        if at > end or tag >> 3 == 0:
            raise InvalidModelError(f"not an ONNX model, or truncated: the field at byte {tag_at} ends past the data")
        yield tag >> 3, tag_at, value_at, at


def _read_varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise InvalidModelError(f"not an ONNX model, or truncated: a number runs past byte {at}")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _length_delimited(field: int, body: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(body)) + body


def _entry(key: str, value: str) -> bytes:
    return _length_delimited(1, key.encode()) + _length_delimited(2, value.encode())


def _entry_value(entry: bytes) -> int:
    view = memoryview(entry)
    return next(int(bytes(view[a:b])) for field, _, a, b in _fields(view, 0, len(view)) if field == 2)


def _find_all(data: bytes, needle: bytes) -> Iterator[int]:
    at = data.find(needle)
    while at >= 0:
        yield at
        at = data.find(needle, at + 1)


def _plain(pieces: list[Piece]) -> Iterator[memoryview | bytes]:
    for piece in pieces:
        if not isinstance(piece, Blob):
            yield piece
