"""The result of ``check`` as rich tables for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from graphopt.results import CheckReport, EngineReport, Problem, Remark

_STYLE = {"error": "red", "warning": "yellow", "note": "dim"}
_ALIKE = 3


def show_check(report: CheckReport, full: bool = False) -> list[RenderableType]:
    """Verdict, problems, how quantized layers run, what was asked and what could not be. ``full``: every row."""
    items: list[RenderableType] = [verdict(report)]
    if report.problems:
        items.append(problem_table(report.problems, full))
    items.extend(engine_lines(report.engines))
    if full:
        items.extend(layer_table(e) for e in report.engines if e.layers)
    items.extend(f"asked: {text}" for text in report.evidence)
    items.extend(Text(f"not checked: {text}", "yellow") for text in report.not_checked)
    return items


def verdict(report: CheckReport) -> Text:
    """One line: whether it will run."""
    counts = Counter[str](p.severity for p in report.problems)
    tail = ", ".join(f"{counts[s]} {s}{'' if counts[s] == 1 else 's'}" for s in _STYLE if counts[s])
    if report.runs and report.not_checked and not (report.problems or report.evidence or report.engines):
        return Text(f"{report.target}: nothing was checked", "yellow")
    if report.runs:
        return Text(f"{report.target}: no error found" + (f" ({tail})" if tail else ""), "green")
    return Text(f"{report.target}: it will not run as it is ({tail})", "red")


def problem_table(problems: Sequence[Problem], full: bool) -> Table:
    """Problems with their fixes. Those alike are one row with a count, unless ``full``."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("", "rule", "where", "what", "fix"):
        table.add_column(title, overflow="fold")
    groups: dict[tuple[str, ...], list[str]] = {}
    for p in problems:
        fix = f"{p.fix} [--fix]" if p.fixable else p.fix
        key = (p.severity, p.rule, p.message, fix, p.node if full else "")
        groups.setdefault(key, []).append(p.node or "the model")
    for (severity, rule, message, fix, _), nodes in groups.items():
        more = f" and {len(nodes) - _ALIKE} more" if len(nodes) > _ALIKE else ""
        where = ", ".join(nodes[:_ALIKE]) + more
        table.add_row(*(Text(t) for t in (severity, rule, where, message, fix)), style=_STYLE[severity])
    return table


def engine_lines(engines: Iterable[EngineReport]) -> list[Text]:
    """One line an engine: how many of the quantized layers compute on integers, and which do not."""
    lines = []
    for engine in engines:
        if not engine.built:
            lines.append(Text(f"{engine.capability}: not built: {engine.message}", "red"))
            continue
        left = engine.float_anyway
        share = f"{engine.quantized - len(left)} of {engine.quantized}"
        text = f"{engine.capability}: {share} quantized layers run in {_low(engine)}"
        rest = Counter(layer.precision or "unknown" for layer in engine.layers if not layer.quantized)
        if rest:
            text += "; not quantized: " + ", ".join(f"{n} in {kind}" for kind, n in rest.items())
        lines.append(Text(text, "yellow" if left else "green" if engine.quantized else ""))
    return lines


def _low(engine: EngineReport) -> str:
    """The types that quantized layers run in."""
    found = {layer.precision for layer in engine.layers if layer.quantized} & {"int8", "float8"}
    return " and ".join(sorted(found, reverse=True)) or "int8"


def layer_table(engine: EngineReport) -> Table:
    """How each convolution and matrix product runs."""
    table = Table(title=engine.capability, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for title in ("layer", "operator", "Q/DQ", "runs in", "kernel", "reason"):
        table.add_column(title, overflow="fold")
    for layer in engine.layers:
        cells = (layer.node, layer.op, "yes" if layer.quantized else "", layer.precision, layer.kernel, layer.reason)
        table.add_row(*(Text(c) for c in cells))
    return table


def fix_table(remarks: Sequence[Remark]) -> Table:
    """What ``--fix`` did and did not do; those alike are one row."""
    table = Table(title="Fixes", title_justify="left", box=None, header_style="bold", pad_edge=False)
    for title in ("", "where", "what"):
        table.add_column(title, overflow="fold")
    groups: dict[tuple[str, str], list[str]] = {}
    for remark in remarks:
        groups.setdefault((remark.kind, remark.message), []).append(remark.node or "the model")
    for (kind, message), nodes in groups.items():
        more = f" and {len(nodes) - _ALIKE} more" if len(nodes) > _ALIKE else ""
        table.add_row(
            Text(kind),
            Text(", ".join(nodes[:_ALIKE]) + more),
            Text(message),
            style="yellow" if kind == "skipped" else "",
        )
    return table
