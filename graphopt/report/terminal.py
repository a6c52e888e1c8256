"""Results as rich tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import RenderableType
from rich.table import Table

from graphopt.analysis.difference import Change
from graphopt.report.statistics import statistics_words
from graphopt.report.timing import footprint_table, layer_time_table, speedup, timing_notes, timing_table
from graphopt.report.words import arrow, human_bytes, new_table, number, size_arrow, yes_no
from graphopt.results import Accuracy, Comparison, PassResult, Remark, RunResult, counted, timed_names


def comparison_table(comparison: Comparison) -> Table:
    """One row per output: errors, cosine, SQNR, agreement."""
    kind = " (synthetic inputs)" if comparison.synthetic else ""
    table = new_table(f"Outputs on {counted(comparison.samples, 'sample')}{kind}")
    for title in ("output", "max abs", "mean abs", "of range", "cosine", "SQNR dB", "agreement", "note"):
        table.add_column(title, justify="left" if title in ("output", "note") else "right")
    for row in comparison.outputs:
        agreement = row.top1_agreement if row.top1_agreement is not None else row.equal_share
        table.add_row(
            row.name,
            number(row.max_abs),
            number(row.mean_abs),
            number(row.relative_to_range),
            number(row.cosine, 6),
            number(row.sqnr_db, 4),
            "" if agreement is None else f"{agreement:.2%}",
            _notes(row.note, row.new_non_finite, row.shape_mismatches),
        )
    return table


def pass_table(passes: Sequence[PassResult]) -> Table:
    """One row per pass: what it changed and how long it took."""
    table = new_table("Passes")
    for title in ("#", "pass", "guarantee", "nodes", "parameters", "MACs", "size", "seconds", "changed"):
        left = title in ("#", "pass", "guarantee", "changed")
        table.add_column(title, justify="left" if left else "right", overflow="fold")
    for row in passes:
        table.add_row(
            row.number,
            f"{row.name}:{row.options}" if row.options else row.name,
            row.guarantee,
            arrow(row.before.nodes, row.after.nodes),
            arrow(row.before.parameters, row.after.parameters),
            arrow(row.before.macs, row.after.macs),
            size_arrow(row.before, row.after),
            f"{row.seconds:.2f}",
            statistics_words(row) or yes_no(row.changed),
        )
    return table


def remark_table(remarks: Iterable[Remark], limit: int | None = None) -> Table:
    """One row per remark; ``limit`` cuts and says how many are left."""
    table = new_table("Remarks")
    for title in ("pass", "kind", "node", "what"):
        table.add_column(title, overflow="fold")
    rows = list(remarks)
    for remark in rows[:limit]:
        table.add_row(remark.source, remark.kind, remark.node, remark.message)
    if limit is not None and len(rows) > limit:
        table.caption = f"{len(rows) - limit} more; -v or --json shows all"
    return table


def accuracy_line(accuracy: Accuracy) -> str:
    """One line: metric before and after, difference and interval."""
    interval = ""
    if accuracy.low is not None and accuracy.high is not None:
        interval = f" [{accuracy.low:+.4f}, {accuracy.high:+.4f}]"
    return (
        f"{accuracy.metric}: {accuracy.before:.4f} -> {accuracy.after:.4f} "
        f"(difference {accuracy.difference:+.4f}{interval}, {counted(accuracy.samples, 'sample')})"
    )


def _notes(note: str, non_finite: int, mismatches: int) -> str:
    parts = [note] if note else []
    if non_finite:
        parts.append(f"{non_finite} new NaN or Inf")
    if mismatches:
        parts.append(f"{counted(mismatches, 'run')} with another shape")
    return "; ".join(parts)


def operator_table(operators: Mapping[str, tuple[int, int]]) -> Table:
    """Nodes by operator, before and after."""
    table = new_table("Nodes by operator")
    for title in ("operator", "before", "after", "change"):
        table.add_column(title, justify="left" if title == "operator" else "right")
    for op, (before, after) in operators.items():
        table.add_row(op, f"{before:,}", f"{after:,}", f"{after - before:+,}" if after != before else "")
    rows = [counts for op, counts in operators.items() if op != "Constant"]
    total = [sum(column) for column in zip(*rows, strict=True)] or [0, 0]
    table.add_section()
    table.add_row(
        "total without Constant" if "Constant" in operators else "total",
        f"{total[0]:,}",
        f"{total[1]:,}",
        f"{total[1] - total[0]:+,}",
    )
    return table


def change_table(changes: Sequence[Change], limit: int | None = None) -> Table:
    """Structural changes, one a row."""
    table = new_table(counted(len(changes), "change"))
    for title in ("what", "name", "before", "after"):
        table.add_column(title, overflow="fold")
    for change in changes[:limit]:
        table.add_row(change.kind, change.name, change.before, change.after)
    if limit is not None and len(changes) > limit:
        table.caption = f"{len(changes) - limit} more; --all or --json shows them"
    return table


def show_run(result: RunResult, remarks: int | None = None) -> list[RenderableType]:
    """Everything a run found out, in the order in which it is read: the verdict last, where the eye is."""
    items: list[RenderableType] = []
    if result.passes:
        items.append(pass_table(result.passes))
    if result.remarks and remarks != 0:
        items.append(remark_table(result.remarks, remarks))
    if result.comparison is not None:
        items.append(comparison_table(result.comparison))
    if result.timing is not None:
        items += [timing_table(result.timing), *timing_notes(result.timing)]
    if result.layer_times:
        items.append(layer_time_table(result.layer_times, remarks))
    if result.footprints and result.output is not None:
        names = timed_names(result.input.name, result.output.name)
        sizes = dict(zip(names, (result.input.bytes, result.output.bytes), strict=True))
        items.append(footprint_table(result.footprints, sizes))
    return [*items, *verdict_lines(result)]


def verdict_lines(result: RunResult) -> list[str]:
    """Size, latency and accuracy, before and after."""
    lines = [f"data      {result.data}"]
    if result.output is not None and result.size_ratio is not None:
        before, after = human_bytes(result.input.bytes), human_bytes(result.output.bytes)
        lines.append(f"size      {before} -> {after} (ratio {result.size_ratio:.3f})")
    if result.timing is not None:
        first, last = result.timing.timings[0], result.timing.timings[-1]
        lines.append(f"latency   {first.wall_ms:.3g} ms -> {last.wall_ms:.3g} ms ({speedup(last)}, {last.verdict})")
    else:
        lines.append(f"latency   not timed here: {result.not_timed}")
    if result.accuracy is not None:
        lines.append(f"accuracy  {accuracy_line(result.accuracy)}")
    if result.output is not None:
        lines.append(f"written   {result.output.name}")
    if result.report:
        lines.append(f"report    {result.report}")
    return lines
