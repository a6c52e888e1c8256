"""Any result as plain dicts and lists, and counts in words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


def as_json(value: Any) -> Any:
    """Plain dicts, lists, strings and numbers for any result; NaN and infinities become strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def counted(count: int, noun: str) -> str:
    """A number with its noun, which gets an s unless it is one."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
