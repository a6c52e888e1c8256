"""Read the few parts of an ONNX file that describe its interface, and skip the rest.

Only field headers of the protobuf wire format are decoded (https://protobuf.dev/programming-guides/encoding).
Weights are never copied: a file is mapped into memory and the reader jumps over them.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from graphopt.errors import InvalidModelError, UsageError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_MODEL_GRAPH = 7
_GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_SPARSE_INITIALIZER = 5, 11, 12, 15
_TENSOR_NAME = 8
_SPARSE_VALUES = 1


@dataclass(frozen=True)
class InterfaceFields:
    """Raw parts of a model: serialized ``ValueInfoProto`` of inputs and outputs, and initializer names."""

    inputs: tuple[bytes, ...]
    outputs: tuple[bytes, ...]
    initializers: frozenset[str]


@contextmanager
def model_view(model: bytes | Path) -> Iterator[memoryview]:
    """Give a read-only view of a serialized model; a file is mapped, not read.

    Raises UsageError when there is no such file, InvalidModelError when it is empty.
    """
    if isinstance(model, bytes):
        yield memoryview(model)
        return
    if model.is_dir():
        raise UsageError(f"{model} is a folder; give an ONNX file")
    if not model.exists():
        raise UsageError(f"{model}: no such file")
    if model.stat().st_size == 0:
        raise InvalidModelError(f"{model} is empty; it is not an ONNX file")
    try:
        handle = model.open("rb")
    except OSError as error:
        raise UsageError(f"{model} cannot be read: {error.strerror}") from error
    with handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = memoryview(mapped)
        try:
            yield view
        finally:
            view.release()


def interface_fields(view: memoryview, where: str) -> InterfaceFields:
    """Collect inputs, outputs and initializer names of the main graph.

    ``where`` names the model in messages. Raises InvalidModelError when the bytes are not a model, are cut
    short, or hold no graph.
    """
    inputs: list[bytes] = []
    outputs: list[bytes] = []
    initializers: set[str] = set()
    graphs = 0
    for field, start, end in _fields(view, 0, len(view), where):
        if field != _MODEL_GRAPH:
            continue
        graphs += 1
        for inner, low, high in _fields(view, start, end, where):
            if inner == _GRAPH_INPUT:
                inputs.append(bytes(view[low:high]))
            elif inner == _GRAPH_OUTPUT:
                outputs.append(bytes(view[low:high]))
            elif inner == _GRAPH_INITIALIZER:
                initializers.add(_tensor_name(view, low, high, where))
            elif inner == _GRAPH_SPARSE_INITIALIZER:
                for part, a, b in _fields(view, low, high, where):
                    if part == _SPARSE_VALUES:
                        initializers.add(_tensor_name(view, a, b, where))
    if not graphs:
        raise InvalidModelError(f"{where} holds no graph; it is not an ONNX model")
    return InterfaceFields(tuple(inputs), tuple(outputs), frozenset(initializers))


def _tensor_name(view: memoryview, start: int, end: int, where: str) -> str:
    name = ""
    for field, low, high in _fields(view, start, end, where):
        if field == _TENSOR_NAME:
            name = bytes(view[low:high]).decode("utf-8", errors="replace")
    return name


def _fields(view: memoryview, start: int, end: int, where: str) -> Iterator[tuple[int, int, int]]:
    """Yield (field number, start, end) of each length-delimited field; step over scalar fields."""
    at = start
    while at < end:
        tag, at = _varint(view, at, end, where)
        field, kind = tag >> 3, tag & 7
        if field == 0:
            raise InvalidModelError(f"{where} is not an ONNX file (bad field at byte {at})")
        if kind == _BYTES:
            size, at = _varint(view, at, end, where)
            if at + size > end:
                missing = at + size - end
                raise InvalidModelError(f"{where} is truncated or damaged: {missing} bytes missing at byte {at}")
            yield field, at, at + size
            at += size
        elif kind == _VARINT:
            _, at = _varint(view, at, end, where)
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
            if at > end:
                raise InvalidModelError(f"{where} is truncated at byte {end}")
        else:
            raise InvalidModelError(f"{where} is not an ONNX file (wire type {kind} at byte {at})")


def _varint(view: memoryview, at: int, end: int, where: str) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise InvalidModelError(f"{where} is truncated at byte {end}")
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise InvalidModelError(f"{where} is not an ONNX file (number too long at byte {at})")
