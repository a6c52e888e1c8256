"""Option values as text, as plain data of a recipe, and back, directed by the option's type.

A list is ``a+b``, a map ``pattern@value+pattern@value``, no value ``none``. Everything else is one string that
pydantic reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from graphopt.pipeline import text
from graphopt.pipeline.values import Allowed, Pattern, PatternMap

NONE = "none"
_LISTS = (tuple, list, frozenset, set)


def from_text(kind: Any, raw: str) -> object:
    """Plain data for pydantic from a raw value of the pipeline text."""
    kind = _chosen(kind, text.plain(raw))
    if kind is None:
        return None
    if _is_map(kind):
        entries = _entries(raw, get_args(kind)[-1])
        return entries if get_origin(kind) is PatternMap else dict(entries)
    if get_origin(kind) in _LISTS:
        return [from_text(item, part) for item, part in _items(kind, text.split(raw, "+"))]
    return text.plain(raw)


def to_text(value: object) -> str:
    """The raw value of the pipeline text for an option's value."""
    match value:
        case None:
            return NONE
        case bool():
            return "true" if value else "false"
        case Enum():
            return to_text(value.value)
        case float():
            return text.quote(repr(float(value)).replace("e+", "e"))
        case PatternMap() | Mapping():
            entries = value.items() if isinstance(value, Mapping) else value.entries
            return "+".join(f"{text.quote(str(k))}@{to_text(v)}" for k, v in entries)
        case tuple() | list():
            return "+".join(map(to_text, value))
        case set() | frozenset():
            return "+".join(sorted(map(to_text, value)))
        case _:
            return text.quote(str(value))


def from_data(kind: Any, value: object) -> object:
    """Plain data for pydantic from recipe data: the word ``none`` becomes None where the option allows that."""
    if isinstance(value, str):
        kind = _chosen(kind, value)
        if kind is None:
            return None
        return [value] if get_origin(kind) in _LISTS else value
    kind = _chosen(kind, "")
    if isinstance(value, Mapping) and kind is not None and _is_map(kind):
        return {key: from_data(get_args(kind)[-1], item) for key, item in value.items()}
    if isinstance(value, list | tuple) and get_origin(kind) in _LISTS:
        return [from_data(item, part) for item, part in _items(kind, list(value))]
    return value


def to_data(value: object) -> object:
    """Numbers, words, lists, dicts and None for an option's value, as a recipe holds them."""
    match value:
        case None | bool() | int() | float() | str():
            return value.value if isinstance(value, Enum) else value
        case Enum():
            return to_data(value.value)
        case PatternMap() | Mapping():
            entries = value.items() if isinstance(value, Mapping) else value.entries
            return {str(k): to_data(v) for k, v in entries}
        case tuple() | list():
            return [to_data(v) for v in value]
        case set() | frozenset():
            return sorted((to_data(v) for v in value), key=str)
        case _:
            return str(value)


def describe(kind: Any, constraints: tuple[Any, ...] = ()) -> str:
    """In words, what an option of this type accepts."""
    if get_origin(kind) is Annotated:
        return describe(get_args(kind)[0], (*get_args(kind)[1:], *constraints))
    if said := [c.text for c in constraints if isinstance(c, Allowed)]:
        return said[-1]
    if members := _members(kind):
        return " or ".join(NONE if m is NoneType else describe(m, constraints) for m in members)
    if get_origin(kind) is Literal:
        return ", ".join(str(choice) for choice in get_args(kind))
    if _is_map(kind):
        return f"pattern@value joined by '+' (value: {describe(get_args(kind)[-1])})"
    if get_origin(kind) in _LISTS:
        return f"a list joined by '+' of: {describe(get_args(kind)[0])}"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(str(member.value) for member in kind)
    return _WORDS.get(kind, getattr(kind, "__name__", str(kind))) + _bounds(constraints)


def is_supported(kind: Any) -> bool:
    """Whether values of the type can be written as text: a list or map of lists or maps cannot."""
    if get_origin(kind) is Annotated:
        return is_supported(get_args(kind)[0])
    members = _members(kind) or (kind,)
    inner = [arg for m in members if _is_map(m) or get_origin(m) in _LISTS for arg in get_args(m)]
    flat = [n for arg in inner for n in (_members(arg) or (arg,))]
    return not any(_is_map(n) or get_origin(n) in _LISTS for n in flat)


_WORDS: Mapping[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Pattern: "a node pattern (glob, op=GLOB or re=REGEX)",
}


def _chosen(kind: Any, value: str) -> Any:
    """The type with annotations gone and, of a union, the member that this text belongs to; None for ``none``."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    members = _members(kind)
    if not members:
        return kind
    if NoneType in members and value == NONE:
        return None
    rest = [_chosen(m, value) for m in members if m is not NoneType]
    literal = [m for m in rest if get_origin(m) is Literal and value in map(str, get_args(m))]
    collections = [m for m in rest if _is_map(m) or get_origin(m) in _LISTS]
    return (literal or collections or [str])[0] if len(rest) > 1 else rest[0]


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else ()


def _is_map(kind: Any) -> bool:
    return get_origin(kind) in (PatternMap, dict, Mapping)


def _items(kind: Any, parts: list[Any]) -> list[tuple[Any, Any]]:
    """The parts of a list with the type of each."""
    args = get_args(kind) or (str,)
    if get_origin(kind) is tuple and Ellipsis not in args:
        return [(args[min(i, len(args) - 1)], part) for i, part in enumerate(parts)]
    return [(args[0], part) for part in parts]


def _entries(raw: str, kind: Any) -> list[tuple[str, object]]:
    entries: list[tuple[str, object]] = []
    for part in text.split(raw, "+"):
        cut = text.split_last(part, "@")
        if cut is None:
            raise ValueError(f"{part!r} has no '@'; write pattern@value, joined by '+'")
        entries.append((text.plain(cut[0]), from_text(kind, cut[1])))
    return entries


def _bounds(constraints: tuple[Any, ...]) -> str:
    found = {name: getattr(c, name) for c in constraints for name in ("ge", "gt", "le", "lt") if hasattr(c, name)}
    low = found.get("ge", found.get("gt"))
    high = found.get("le", found.get("lt"))
    if low is not None and high is not None:
        start = f" from {low}" if "ge" in found else f" above {low}"
        return f"{start} to {high}" if "le" in found else f"{start} and less than {high}"
    if low is not None:
        return f" of at least {low}" if "ge" in found else f" above {low}"
    if high is not None:
        return f" of at most {high}" if "le" in found else f" below {high}"
    return ""
