"""What bounds each layer: as a table and a line for the terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table

from graphopt.analysis.roofline import Peaks
from graphopt.report.words import BOUND_WORDS, number
from graphopt.results import LayerBound, counted


def bound_items(
    target: str, peaks: Peaks, bounds: Sequence[LayerBound], limit: int | None = 15
) -> list[RenderableType]:
    """The nodes with the longest floors and what bounds them, then the whole in a few words."""
    table = Table(title=f"What bounds each node on {target}", title_justify="left", header_style="bold")
    for title in ("node", "operator", "type", "MACs", "bytes", "MACs a byte", "bound by", "floor µs"):
        right = title in ("MACs", "bytes", "MACs a byte", "floor µs")
        table.add_column(title, justify="right" if right else "left", overflow="fold")
    for row in sorted(bounds, key=lambda b: -b.floor_us)[:limit]:
        table.add_row(
            row.node,
            row.op,
            row.precision,
            f"{row.macs:,}",
            f"{row.bytes:,}",
            f"{row.intensity:.1f}",
            bound_word(row),
            number(row.floor_us),
        )
    return [table, bound_line(bounds), peaks_line(peaks)]


def bound_word(row: LayerBound) -> str:
    """What bounds a node."""
    return BOUND_WORDS[row.bound]


def bound_line(bounds: Sequence[LayerBound]) -> str:
    """The least time of the whole, and how it is divided."""
    times: dict[str, float] = defaultdict(float)
    nodes: dict[str, int] = defaultdict(int)
    for row in bounds:
        times[bound_word(row)] += row.floor_us
        nodes[bound_word(row)] += 1
    whole = sum(times.values())
    longest = sorted(times.items(), key=lambda item: -item[1])
    parts = [f"{number(time)} µs by {name} ({counted(nodes[name], 'node')})" for name, time in longest]
    return f"at least {number(whole)} µs a sample, before the runtime fuses nodes: {', '.join(parts)}"


def peaks_line(peaks: Peaks) -> str:
    """The figures that the floors come from."""
    return (
        f"peaks of the profile ({peaks.source}): {peaks.macs_us['float32'] / 1000:.0f} float32 and "
        f"{peaks.macs_us['int8'] / 1000:.0f} int8 MACs a ns, {peaks.bytes_us / 1000:.0f} bytes a ns; under "
        f"{peaks.ridge('float32'):.1f} (float32) and {peaks.ridge('int8'):.1f} (int8) MACs a byte memory bounds"
    )
