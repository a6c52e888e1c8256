"""Attribute values with the operator's own defaults filled in."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import onnx

from graphopt.ir import Node


def attribute(node: Node, name: str, opset: int) -> Any:
    """The value of an attribute; the default of the operator's schema when the node does not set it, else None.

    ``opset`` is the version of the node's own domain.
    """
    if name in node.attrs:
        return node.attrs[name]
    return _default(node.op, node.domain or "", opset, name)


@lru_cache(maxsize=4096)
def _default(op: str, domain: str, opset: int, name: str) -> Any:
    try:
        schema = onnx.defs.get_schema(op, opset, domain)
    except onnx.defs.SchemaError:
        return None
    declared = schema.attributes.get(name)
    if declared is None or declared.default_value.type == onnx.AttributeProto.UNDEFINED:
        return None
    value = onnx.helper.get_attribute_value(declared.default_value)
    return value.decode() if isinstance(value, bytes) else value
