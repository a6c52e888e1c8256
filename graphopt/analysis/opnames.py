"""Lists of operator names, written as one string."""

from __future__ import annotations


def ops(names: str) -> tuple[str, ...]:
    """The names in a text, separated by blanks."""
    return tuple(names.split())
