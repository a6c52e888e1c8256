"""Numbers, sizes and empty tables, as all reports show them."""

from __future__ import annotations

import math

from rich.table import Table

from graphopt.results import CpuInfo, GraphStats

BOUND_WORDS = {"compute": "arithmetic", "memory": "memory", "fixed": "cost of a node"}


def cpu_line(cpu: CpuInfo) -> str:
    """The processor and whether it has VNNI."""
    vnni = {True: "VNNI", False: "no VNNI", None: "VNNI unknown"}[cpu.vnni]
    return f"{cpu.model}, {vnni}"


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits; large counts get thousands separators."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if float(value).is_integer() and abs(value) >= 1000:
        return f"{int(value):,}"
    return f"{value:.{digits}g}"


def human_bytes(count: float) -> str:
    """Bytes with a unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    raise AssertionError


def arrow(before: int | None, after: int | None) -> str:
    """``before -> after``, or one number when they are equal."""
    if before is None or after is None:
        return "?"
    return f"{before:,}" if before == after else f"{before:,} -> {after:,}"


def size_arrow(before: GraphStats, after: GraphStats) -> str:
    """Bytes of weights before and after."""
    if before.weight_bytes == after.weight_bytes:
        return human_bytes(before.weight_bytes)
    return f"{human_bytes(before.weight_bytes)} -> {human_bytes(after.weight_bytes)}"


def yes_no(value: bool) -> str:
    """yes or no."""
    return "yes" if value else "no"


def new_table(title: str) -> Table:
    """An empty table with its title."""
    return Table(title=title, title_justify="left", title_style="bold", header_style="bold", expand=False)
