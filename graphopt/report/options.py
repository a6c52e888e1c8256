"""Passes and their options as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic_core import PydanticUndefined
from rich.table import Table

from graphopt.pipeline.registry import AnyPass


@dataclass(frozen=True)
class OptionRow:
    """One option of a pass."""

    name: str
    allowed: str
    default: str
    description: str


@dataclass(frozen=True)
class PassRow:
    """One pass."""

    name: str
    guarantee: str
    summary: str
    options: tuple[OptionRow, ...]


def describe(kind: type[AnyPass]) -> PassRow:
    """Name, guarantee, first line of the documentation, and options of a pass."""
    options = []
    for name, field in kind.options_type.model_fields.items():
        default = "" if field.default is PydanticUndefined else field.default
        shown = "none" if default is None else str(default)
        options.append(OptionRow(name, kind.options_type.allowed(name), shown, field.description or ""))
    return PassRow(kind.name, kind.guarantee, kind.summary(), tuple(options))


def passes_table(rows: Sequence[PassRow]) -> Table:
    """One pass a row."""
    table = Table(title="Passes", title_justify="left", header_style="bold")
    for title in ("pass", "guarantee", "what it does", "options"):
        table.add_column(title)
    for row in rows:
        table.add_row(row.name, row.guarantee, row.summary, " ".join(o.name for o in row.options))
    return table


def options_table(rows: Sequence[OptionRow]) -> Table:
    """One option a row."""
    table = Table(title="Options", title_justify="left", header_style="bold")
    for title in ("option", "allowed", "default", "meaning"):
        table.add_column(title)
    for row in rows:
        table.add_row(row.name, row.allowed, row.default, row.description)
    return table
