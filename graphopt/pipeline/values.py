"""The value types that pass options use besides numbers, words and lists.

``Pattern`` picks nodes, ``PatternMap`` gives nodes a value each, ``Share`` is a part of a whole, ``Size`` counts
bytes. A pass may use any other type that pydantic can read from a string, if ``str`` gives that string back.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Generic, TypeVar, get_args

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from graphopt.ir import Node

T = TypeVar("T")

_UNITS = {"": 1, "B": 1}
_UNITS |= {f"{prefix}{tail}": 1000**n for n, prefix in enumerate("kMGT", 1) for tail in ("", "B")}
_UNITS |= {f"{prefix}iB": 1024**n for n, prefix in enumerate("KMGT", 1)}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\Z")


@dataclass(frozen=True)
class Pattern:
    """Picks nodes by name or operator.

    ``text`` is a glob on the whole node name (``/layer1/*``; a name that equals it matches too), ``op=`` and a
    glob on the operator (``op=Conv*``, ``op=com.microsoft.*``), or ``re=`` and a regular expression that is
    searched in the name.

    Raises:
        ValueError: the regular expression does not compile.
    """

    text: str

    def __post_init__(self) -> None:
        if not self.text:
            raise ValueError("an empty pattern matches nothing; write * for all nodes")
        try:
            _ = self._regex
        except re.error as error:
            raise ValueError(f"{self.text!r} is not a regular expression: {error}") from error

    def matches(self, node: Node) -> bool:
        """Whether the pattern picks the node."""
        if self.text.startswith("op="):
            qualified = f"{node.domain}.{node.op}" if node.domain else node.op
            return any(self._regex.match(op) for op in {node.op, qualified})
        return self.matches_name(node.name)

    def matches_name(self, name: str) -> bool:
        """Whether the pattern picks a node of this name; ``op=`` patterns pick no name."""
        if self.text.startswith("op="):
            return False
        if self.text.startswith("re="):
            return self._regex.search(name) is not None
        return name == self.text or self._regex.match(name) is not None

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        if self.text.startswith("re="):
            return re.compile(self.text.removeprefix("re="))
        return re.compile(fnmatch.translate(self.text.removeprefix("op=")))

    def __str__(self) -> str:
        return self.text

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(_pattern, serialization=core_schema.to_string_ser_schema())

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "description": "glob on node names, op=GLOB or re=REGEX"}


class PatternMap(Generic[T]):
    """Values by node pattern, immutable. Where several patterns pick a node the last one counts."""

    # Not a dataclass: pydantic would take PatternMap[float] apart field by field.
    __slots__ = ("entries",)

    entries: tuple[tuple[Pattern, T], ...]

    def __init__(self, entries: Iterable[tuple[Pattern, T]] = ()) -> None:
        last: dict[Pattern, tuple[Pattern, T]] = {}
        for pattern, value in entries:
            last.pop(pattern, None)
            last[pattern] = (pattern, value)
        self.entries = tuple(last.values())

    def get(self, node: Node) -> T | None:
        """The value for a node, or None when no pattern picks it."""
        return next((value for pattern, value in reversed(self.entries) if pattern.matches(node)), None)

    def replaced(self, pattern: Pattern, value: T) -> PatternMap[T]:
        """A map in which the pattern has this value, and counts last."""
        return PatternMap((*self.entries, (pattern, value)))

    def __iter__(self) -> Iterator[tuple[Pattern, T]]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PatternMap) and self.entries == other.entries

    def __hash__(self) -> int:
        return hash(self.entries)

    def __repr__(self) -> str:
        return f"PatternMap({self.entries!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        value = handler.generate_schema(*get_args(source)) if get_args(source) else core_schema.any_schema()
        pair = core_schema.tuple_schema([handler.generate_schema(Pattern), value])
        return core_schema.no_info_after_validator_function(
            cls,
            core_schema.no_info_before_validator_function(_pairs, core_schema.list_schema(pair)),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda entries: {str(pattern): value for pattern, value in entries}
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        value = handler(schema)["items"]["prefixItems"][1]
        return {"type": "object", "additionalProperties": value, "description": "node pattern to value"}


def _pattern(value: object) -> Pattern:
    if isinstance(value, Pattern):
        return value
    if isinstance(value, str):
        return Pattern(value)
    raise ValueError("a node pattern is a string")


def _pairs(value: object) -> object:
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, PatternMap):
        return list(value.entries)
    if isinstance(value, Iterable) and not isinstance(value, str):
        return list(value)
    raise ValueError("write pattern@value, joined by '+'")


def _share(value: object) -> object:
    if isinstance(value, str) and value.endswith("%"):
        return float(value[:-1]) / 100
    return value


def _size(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = _SIZE.match(value.strip())
    if match is None or match[2] not in _UNITS:
        raise ValueError("write a number of bytes, with a unit if you like: 64MB, 1.5GB, 512KiB")
    return round(Decimal(match[1]) * _UNITS[match[2]])


@dataclass(frozen=True)
class Allowed:
    """Says in words what an annotated option type accepts."""

    text: str


Share = Annotated[
    float, Field(ge=0, le=1), BeforeValidator(_share), Allowed("a number from 0 to 1, or a percentage such as 30%")
]
Size = Annotated[int, Field(ge=0), BeforeValidator(_size), Allowed("bytes, with a unit if you like: 64MB, 1.5GB")]
