"""ONNX Runtime's exceptions, turned into graphopt's: short, with the node named."""

from __future__ import annotations

import re
from functools import cache
from typing import Literal

from graphopt.errors import DataError, GraphoptError, InvalidModelError, UnsupportedError, ValidationError

Role = Literal["input", "result"]

_MAX_LENGTH = 400
_PREFIX = re.compile(r"^\s*\[ONNXRuntimeError\]\s*:\s*\d+\s*:\s*\w+\s*:\s*")
_SOURCE = re.compile(
    r"/\S*?/(?:onnxruntime|include)/\S+\.(?:cc|h|cu):\d+\s+(?:[\w:<>&*,~\s]+\([^)]*\)\s*(?:const\s*)?)?"
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_NODE = (
    re.compile(r"running (?P<op>\w+) node\. Name:\s*'(?P<name>[^']*)'"),
    re.compile(r"In Node, \(\"(?P<name>[^\"]*)\", (?P<op>\w+)"),
    re.compile(r"Node \((?P<name>[^)]*)\) Op \((?P<op>\w+)\)"),
    re.compile(r"operator \((?P<op>\w+)\) in node \((?P<name>[^)]*)\)"),
    re.compile(r"implementation for (?P<op>\w+)\(\d+\) node with name '(?P<name>[^']*)'"),
)
_UNSUPPORTED = ("NOT_IMPLEMENTED", "is not a registered function/op", "is under development")


@cache
def ort_exceptions() -> tuple[type[Exception], ...]:
    """Every exception class that ONNX Runtime raises; they have no common base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception)]
    return (*own, RuntimeError, ValueError)


def shorten(message: str) -> str:
    """One line of at most 400 characters, without ONNX Runtime's source paths and codes."""
    text = _COLOUR.sub("", message)
    text = _SOURCE.sub("", _PREFIX.sub("", text))
    text = " ".join(text.split())
    return text if len(text) <= _MAX_LENGTH else text[: _MAX_LENGTH - 3] + "..."


def node_of(message: str) -> str:
    """Name and operator of the node that a message is about, such as ``Conv_3 (Conv)``; "" when it names none."""
    for pattern in _NODE:
        found = pattern.search(message)
        if found:
            name, op = found["name"], found["op"]
            return f"{name} ({op})" if name else f"an unnamed {op}"
    return ""


def load_error(error: Exception, where: str, role: Role) -> GraphoptError:
    """Error for a model that does not load: ValidationError for a result, else InvalidModel- or UnsupportedError."""
    raw = str(error)
    node = node_of(raw)
    text = f"{where} does not load in ONNX Runtime{f', at node {node}' if node else ''}: {shorten(raw)}"
    if role == "result":
        return ValidationError(text)
    if any(mark in raw for mark in _UNSUPPORTED):
        return UnsupportedError(text)
    return InvalidModelError(text)


def run_error(error: Exception, where: str, role: Role, hint: str = "") -> GraphoptError:
    """Error for a model that loads but fails on data: ValidationError for a result, else DataError."""
    raw = str(error)
    node = node_of(raw)
    text = f"{where} fails on this data{f', at node {node}' if node else ''}: {shorten(raw)}{hint}"
    return ValidationError(text) if role == "result" else DataError(text)
