"""One self-contained HTML page per run: no network, no scripts needed to read it, light and dark."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, ParamSpec

from graphopt.report import charts
from graphopt.report.roofline import bound_line
from graphopt.report.statistics import statistics_words
from graphopt.report.timing import LEGEND, contents, speedup
from graphopt.report.words import arrow, cpu_line, human_bytes, number, size_arrow
from graphopt.results import RunResult, as_json, counted

P = ParamSpec("P")
_KERNELS = 20


def render(result: RunResult) -> str:
    """The page as text."""
    from jinja2 import Environment, StrictUndefined, select_autoescape

    environment = Environment(autoescape=select_autoescape(default=True), undefined=StrictUndefined, trim_blocks=True)
    environment.filters.update(number=number, bytes=human_bytes)
    environment.globals.update(
        arrow=_printed(arrow),
        size_arrow=_printed(size_arrow),
        cpu_line=cpu_line,
        counted=counted,
        statistics_words=statistics_words,
    )
    folder = files("graphopt.report")
    template = environment.from_string((folder / "report.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        run=result,
        style=(folder / "report.css").read_text(encoding="utf-8"),
        script=(folder / "report.js").read_text(encoding="utf-8"),
        layer_chart=charts.layer_chart(result.layers),
        latency_chart="" if result.timing is None else charts.latency_chart(result.timing),
        layer_times="" if not result.layer_times else charts.layer_time_chart(result.layer_times),
        kernels=_kernels(result),
        bound_summary=bound_line(result.bounds) if result.bounds else "",
        legend=LEGEND,
        histograms=[charts.histogram_chart(h) for h in result.histograms],
        figures=figures(result),
        data=json.dumps(as_json(result)).replace("</", "<\\/"),
    )


def _printed(words: Callable[P, str]) -> Callable[P, str]:
    """The same words with a printed arrow."""
    return lambda *args, **kwargs: words(*args, **kwargs).replace("->", "→")


def write(result: RunResult, folder: Path) -> Path:
    """Write ``report.html`` and ``report.json`` to a folder, which is made; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(as_json(result), indent=2) + "\n", encoding="utf-8")
    page = folder / "report.html"
    page.write_text(render(result), encoding="utf-8")
    return page


def figures(result: RunResult) -> list[dict[str, str]]:
    """The key figures on top: what, before, after, and the verdict in words."""
    cards: list[dict[str, str]] = []
    if result.output is not None and result.size_ratio is not None:
        cards.append(
            _card(
                "Size",
                human_bytes(result.input.bytes),
                human_bytes(result.output.bytes),
                f"{result.size_ratio:.2f}x the bytes",
                "size",
            )
        )
    if result.timing is not None:
        first, last = result.timing.timings[0], result.timing.timings[-1]
        ratio = "" if last.speedup is None else f"{speedup(last)} {last.verdict}"
        cards.append(_card("Latency", f"{first.wall_ms:.3g} ms", f"{last.wall_ms:.3g} ms", ratio, "latency"))
    else:
        cards.append(_card("Latency", "", "", f"not timed: {result.not_timed}", "latency"))
    if result.accuracy is not None:
        accuracy = result.accuracy
        interval = "" if accuracy.low is None else f" [{accuracy.low:+.4f}, {accuracy.high:+.4f}]"
        words = f"{accuracy.difference:+.4f}{interval} on {counted(accuracy.samples, 'sample')}"
        cards.append(_card(accuracy.metric, f"{accuracy.before:.4f}", f"{accuracy.after:.4f}", words, "accuracy"))
    elif result.comparison is not None:
        worst = number(result.comparison.worst)
        cards.append(_card("Largest error", "", worst, "of an output's range", "error"))
    return cards


def _card(title: str, before: str, after: str, words: str, key: str) -> dict[str, str]:
    return {"title": title, "before": before, "after": after, "words": words, "key": key}


def _kernels(result: RunResult) -> list[dict[str, Any]]:
    """The slowest kernels of each model, for the folded table."""
    chosen = {n: sorted(rows, key=lambda t: -t.microseconds)[:_KERNELS] for n, rows in result.node_times.items()}
    return [{"name": n, "rows": [{"time": t, "nodes": contents(t)} for t in rows]} for n, rows in chosen.items()]
