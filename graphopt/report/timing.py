"""Timings as rich tables: latency with its verdict, sweeps over batch sizes and threads, memory, slowest nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from graphopt.report.words import BOUND_WORDS, cpu_line, human_bytes, new_table, number
from graphopt.results import Footprint, LayerTime, NodeTime, SweepPoint, Timing, TimingReport, counted

_VERDICT_STYLE = {"faster": "green", "slower": "red", "same": "", "noise": "dim", "reference": ""}
LEGEND = (
    "The interval is 95 % over sessions (every model loaded anew in each). faster, slower: all of it is more than 3 % "
    "off 1, in two runs; same: all of it is within 3 %; noise: neither, so nothing is claimed."
)


def timing_items(point: SweepPoint) -> list[RenderableType]:
    """The table of one batch size and number of threads, and what has to be said about it."""
    table = timing_table(point.timing)
    if point.batch is not None:
        table.title = f"{table.title}, {counted(point.batch, 'sample')} a run"
    return [table, *timing_notes(point.timing)]


def timing_notes(report: TimingReport) -> list[str]:
    """Why a difference is not claimed, and what the verdicts mean."""
    notes = [f"{row.name}: {row.reason}" for row in report.timings if row.reason]
    return [*notes, *([LEGEND] if len(report.timings) > 1 else [])]


def sweep_table(points: Sequence[SweepPoint]) -> Table:
    """Samples a second and percentiles of each model, by batch size and threads."""
    table = new_table("Throughput")
    for title in ("model", "batch", "threads", "samples/s", "p50 ms", "p90 ms", "p99 ms", "speed-up", "verdict"):
        table.add_column(title, justify="left" if title in ("model", "verdict") else "right")
    for place in range(len(points[0].timing.timings)):
        for point in points:
            row = point.timing.timings[place]
            table.add_row(
                row.name,
                "" if point.batch is None else str(point.batch),
                str(point.threads),
                f"{row.throughput:,.0f}",
                number(row.p50_ms),
                number(row.p90_ms),
                number(row.p99_ms),
                speedup(row),
                Text(row.verdict, style=_VERDICT_STYLE[row.verdict]),
            )
        table.add_section()
    return table


def timing_table(report: TimingReport) -> Table:
    """One row per model: latency, spread, percentiles, ratio with its interval and the verdict."""
    table = new_table(f"Latency, {report.provider}, {counted(report.threads, 'thread')} on {cpu_line(report.cpu)}")
    for title in ("model", "median ms", "cpu ms", "spread", "p50", "p90", "p99", "samples/s", "speed-up", "verdict"):
        table.add_column(title, justify="left" if title in ("model", "verdict") else "right")
    for row in report.timings:
        table.add_row(
            row.name,
            number(row.wall_ms),
            number(row.cpu_ms),
            number(row.spread_ms, 2),
            number(row.p50_ms),
            number(row.p90_ms),
            number(row.p99_ms),
            f"{row.throughput:,.0f}",
            speedup(row),
            Text(row.verdict, style=_VERDICT_STYLE[row.verdict]),
        )
    return table


def speedup(timing: Timing) -> str:
    """The ratio with its interval."""
    if timing.speedup is None:
        return ""
    return f"{timing.speedup.value:.2f}x [{timing.speedup.low:.2f}, {timing.speedup.high:.2f}]"


def footprint_table(footprints: Mapping[str, Footprint], sizes: Mapping[str, int]) -> Table:
    """Load time, first run and peak memory of each model, in fresh processes."""
    table = new_table("Cold start and memory, in fresh processes")
    for title in ("model", "file", "load ms", "first run ms", "peak memory", "of it the model"):
        table.add_column(title, justify="left" if title == "model" else "right")
    for name, row in footprints.items():
        peak = "" if row.peak_bytes is None else human_bytes(row.peak_bytes)
        own = "" if row.model_bytes is None else human_bytes(row.model_bytes)
        table.add_row(name, human_bytes(sizes[name]), number(row.load_ms), number(row.first_run_ms), peak, own)
    return table


def profile_table(name: str, rows: Sequence[NodeTime], limit: int = 15) -> Table:
    """The slowest kernels of the optimized graph, with the nodes of the file that are in each."""
    table = new_table(f"Slowest kernels of {name}")
    for title in ("kernel", "µs", "share", "MACs/ns", "nodes of the file", "output"):
        table.add_column(title, justify="right" if title in ("µs", "share", "MACs/ns") else "left", overflow="fold")
    for row in sorted(rows, key=lambda r: -r.microseconds)[:limit]:
        rate = f"{row.macs / row.microseconds / 1000:.1f}" if row.macs and row.microseconds else ""
        output = ", ".join(row.outputs[:1])
        table.add_row(row.op, number(row.microseconds), f"{row.share:.1%}", rate, contents(row), output)
    return table


def layer_time_table(layers: Sequence[LayerTime], limit: int | None = None) -> Table:
    """Time of each layer before and after a run, what bounds it now, and the passes that changed it."""
    table = new_table("Latency by layer")
    for title in ("layer", "before µs", "after µs", "speed-up", "bound by", "changed by"):
        right = title in ("before µs", "after µs", "speed-up")
        table.add_column(title, justify="right" if right else "left", overflow="fold")
    slowest = sorted(layers, key=lambda t: -max(t.before_us, t.after_us))[:limit]
    for row in layers:
        if row in slowest:
            ratio = f"{row.before_us / row.after_us:.1f}x" if row.before_us and row.after_us else ""
            bound = "" if row.bound is None else BOUND_WORDS[row.bound]
            table.add_row(row.name, number(row.before_us), number(row.after_us), ratio, bound, ", ".join(row.passes))
    if limit is not None and len(layers) > limit:
        table.caption = f"the {limit} slowest of {len(layers)}; -v or --json shows all"
    return table


def contents(row: NodeTime) -> str:
    """The nodes of the file in a kernel; its own name where it has none."""
    return ", ".join(row.nodes) or f"({row.name}, made by the runtime)"
