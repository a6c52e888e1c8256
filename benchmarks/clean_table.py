"""The table of ``clean_zoo.py``: a summary for each tool, times against graphopt's, a row for each graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from benchmarks.clean_workers import TOOLS

TOLERANCE = 1e-5
LARGE = 200
BEST = ("onnxslim", "onnxsim")
Record = dict[str, Any]
Rows = dict[str, dict[str, Record]]


def table(runs: Sequence[Sequence[Record]]) -> str:
    """Markdown of the records of several runs; of two records of a tool and graph the later one counts."""
    rows: Rows = {}
    for record in (r for run in runs for r in run):
        rows.setdefault(record["file"], {})[record["tool"]] = record
    tools = [t for t in TOOLS if any(t in row for row in rows.values())]
    parts = [*_summary(rows, tools), "", *_totals(rows, tools), *_times(runs, tools), *_repeated(rows), ""]
    parts += [*_losses(rows), ""]
    return "\n".join([*parts, *_graphs(rows, tools), ""])


def _good(rows: Rows, tool: str) -> list[Record]:
    return [row[tool] for row in rows.values() if "after" in row.get(tool, {})]


def equal(record: Record) -> bool:
    """Whether the result computes the same: within the tolerance, or within the original's own rounding noise."""
    return bool(record["difference"] <= max(TOLERANCE, record.get("noise", 0.0)))


def _summary(rows: Rows, tools: list[str]) -> list[str]:
    head = "tool | graphs | failed | nodes before | nodes left | not equal | within rounding noise | interface changed"
    lines = [f"| {head} | its input changed | at most the better of onnxslim and onnxsim |", "|" + "---|" * 10]
    for tool in tools:
        made, good = sum(tool in row for row in rows.values()), _good(rows, tool)
        noisy = sum(equal(r) and r["difference"] > TOLERANCE for r in good)
        finished = [row for row in rows.values() if "after" in row.get(tool, {})]
        pairs = [(row[tool]["after"], best) for row in finished if (best := _best(row)) is not None]
        level = sum(own <= best for own, best in pairs)
        share = f"{level} of {len(pairs)} ({level / len(pairs):.1%})" if pairs else ""
        sums = sum(r["before"] for r in good), sum(r["after"] for r in good)
        unequal = sum(not equal(r) for r in good)
        faces = sum(not r.get("interface_kept", True) for r in good)
        touched = sum(r["input_changed"] for r in good)
        figures = (tool, made, made - len(good), *sums, unequal, noisy, faces, touched, share)
        lines.append(f"| {' | '.join(map(str, figures))} |")
    return lines


def _best(row: dict[str, Record]) -> int | None:
    """Nodes that the better of the two peers leaves, of results that compute the same."""
    return min((row[t]["after"] for t in BEST if "after" in row.get(t, {}) and equal(row[t])), default=None)


def _totals(rows: Rows, tools: list[str]) -> list[str]:
    """Sums over the graphs that all tools finished."""
    common = [row for row in rows.values() if all("after" in row.get(t, {}) for t in tools)]
    sums = ", ".join(f"{t} {sum(row[t]['after'] for row in common)}" for t in tools)
    return [f"Nodes left on the {len(common)} graphs that all of them finished: {sums}."]


def _times(runs: Sequence[Sequence[Record]], tools: list[str]) -> list[str]:
    """Geometric means of time ratios; both times from one run."""
    lines = []
    for peer in (t for t in tools if t != "graphopt"):
        ratios: dict[str, float] = {}
        for run in runs:
            times = {(r["tool"], r["file"]): r["cpu"] for r in run if "cpu" in r and r["before"] > LARGE}
            for (tool, file), own in times.items():
                if tool == "graphopt" and (peer, file) in times:
                    ratios[file] = own / times[peer, file]
        if ratios:
            values = sorted(ratios.values())
            mean = math.exp(sum(map(math.log, values)) / len(values))
            lines.append(
                f"Processor time of graphopt over {peer}'s, {len(values)} graphs of more than {LARGE} nodes: "
                f"geometric mean {mean:.2f}, median {values[len(values) // 2]:.2f}, largest {values[-1]:.2f}."
            )
    return lines


def _repeated(rows: Rows) -> list[str]:
    """Whether graphopt gives the same bytes again, and leaves its own results as they are."""
    known = [row["graphopt"] for row in rows.values() if "stable" in row.get("graphopt", {})]
    if not known:
        return []
    again, stable = (sum(r[name] for r in known) for name in ("repeats", "stable"))
    return [f"Of {len(known)} graphs graphopt gave the same model twice on {again}, and kept its own on {stable}."]


def _losses(rows: Rows) -> list[str]:
    lines = []
    for file, row in sorted(rows.items()):
        best, own = _best(row), row.get("graphopt", {}).get("after")
        if best is not None and own is not None and own > best:
            small = row.get("graphopt_smallest", {}).get("after")
            more = "" if small is None else f", {small} with keep_gelu=false"
            lines.append(f"- {_name(file)}: {own} nodes{more}, the better peer {best}")
    return ["Graphs where a peer leaves fewer nodes:", "", *lines] if lines else []


def _graphs(rows: Rows, tools: list[str]) -> list[str]:
    lines = ["Nodes left, seconds of processor time, largest error over the output's range.", ""]
    lines += ["| graph | nodes | " + " | ".join(tools) + " |", "|---|---|" + "---|" * len(tools)]
    for file, row in sorted(rows.items()):
        before = next((r["before"] for r in row.values()), "")
        lines.append(f"| {_name(file)} | {before} | " + " | ".join(_cell(row.get(t)) for t in tools) + " |")
    return lines


def _name(file: str) -> str:
    return file.removesuffix(".gz").removesuffix(".onnx")


def _cell(record: Record | None) -> str:
    if record is None:
        return ""
    if "error" in record:
        return "failed"
    note = "" if equal(record) else ", not equal"
    return f"{record['after']}, {record['cpu']:.3f} s, {record['difference']:.0e}{note}"
