"""Pipeline text: ``pass[:key=value]*`` joined by commas.

A value is a row of characters, each either plain or literal. Quotes and backslashes make characters literal:
``"a+b"``, ``'a+b'`` and ``a\\+b`` all hold a literal plus. The separators of a value (``+`` of a list, ``@`` of a
map) and of the pipeline (``,`` and ``:``) are plain characters only, so every string can be written. This module
knows no pass and no option; values stay raw until an option's type says how to split them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from graphopt.errors import UsageError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\Z")
_BARE = re.compile(r"[^\s,:+@\"'\\]+\Z")


@dataclass(frozen=True)
class StepText:
    """One pass of a pipeline text: its name and its options, raw."""

    name: str
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return ":".join([self.name, *(f"{key}={value}" for key, value in self.options)])


def parse_text(text: str) -> tuple[StepText, ...]:
    """Split a pipeline text into steps. White space around separators does not count; no text is no step.

    Raises:
        UsageError: with the text and a caret under the place.
    """
    if not text.strip():
        return ()
    return tuple(_parse_step(text, start, end) for start, end in _cut(text, 0, len(text), ","))


def format_text(steps: Iterable[StepText]) -> str:
    """The text of the steps; ``parse_text`` reads it back."""
    return ",".join(str(step) for step in steps)


def split(raw: str, separator: str) -> list[str]:
    """Cut a raw value at each plain ``separator``. The empty value has no parts."""
    if not raw:
        return []
    return [raw[start:end] for start, end in _cut(raw, 0, len(raw), separator)]


def split_last(raw: str, separator: str) -> tuple[str, str] | None:
    """Cut a raw value at its last plain ``separator``, or give None when it has none."""
    places = [at for at, char, literal in _scan(raw, 0, len(raw)) if not literal and char == separator]
    return (raw[: places[-1]], raw[places[-1] + 1 :]) if places else None


def plain(raw: str) -> str:
    """The string that a raw value stands for: quotes and escapes resolved."""
    return "".join(char for _, char, _ in _scan(raw, 0, len(raw)))


def quote(value: str) -> str:
    """The raw value that stands for a string: bare where that is possible."""
    if _BARE.match(value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _parse_step(text: str, start: int, end: int) -> StepText:
    (name_start, name_end), *rest = (_strip(text, *piece) for piece in _cut(text, start, end, ":"))
    name = text[name_start:name_end]
    if not name:
        raise _error(text, name_start, "a pass name is missing")
    if not _NAME.match(name):
        raise _error(text, name_start, f"{name!r} is not a pass name (letters, digits, '_', '-', '.')")
    options: dict[str, str] = {}
    for piece_start, piece_end in rest:
        key, equals, value = text[piece_start:piece_end].partition("=")
        key = key.strip()
        if not _NAME.match(key):
            raise _error(text, piece_start, "an option name is missing; write key=value after ':'")
        if not equals:
            raise _error(text, piece_end, f"option {key!r} has no value; write {key}=value")
        if key in options:
            raise _error(text, piece_start, f"option {key!r} of {name!r} is given twice")
        options[key] = value.lstrip()
    return StepText(name, tuple(options.items()))


def _scan(text: str, start: int, end: int) -> Iterator[tuple[int, str, bool]]:
    """Each character with its position and whether it is literal; quotes and backslashes themselves are left out."""
    quote_at = -1
    position = start
    while position < end:
        char = text[position]
        if char == "\\":
            position += 1
            if position >= end:
                raise _error(text, position - 1, "a backslash at the end escapes nothing; write \\\\ for a backslash")
            yield position, text[position], True
        elif quote_at >= 0 and char == text[quote_at]:
            quote_at = -1
        elif quote_at < 0 and char in "\"'":
            quote_at = position
        else:
            yield position, char, quote_at >= 0
        position += 1
    if quote_at >= 0:
        raise _error(text, quote_at, "this quote is not closed")


def _cut(text: str, start: int, end: int, separator: str) -> list[tuple[int, int]]:
    """The pieces between plain separators, as (start, end)."""
    places = [at for at, char, literal in _scan(text, start, end) if not literal and char == separator]
    return list(zip([start, *(at + 1 for at in places)], [*places, end], strict=True))


def _strip(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace() and not _escaped(text, start, end - 1):
        end -= 1
    return start, end


def _escaped(text: str, start: int, at: int) -> bool:
    before = text[start:at]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def _error(text: str, position: int, message: str) -> UsageError:
    line_start = text.rfind("\n", 0, position) + 1
    line = text[line_start:].partition("\n")[0]
    caret = " " * (position - line_start)
    return UsageError(f"pipeline text, column {position - line_start + 1}: {message}\n  {line}\n  {caret}^")
