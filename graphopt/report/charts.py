"""Small charts as inline SVG: horizontal bars, interval marks, histograms. Colours are CSS variables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from graphopt.results import LayerChange, LayerTime, TimingReport, WeightHistogram

_ROW, _LABEL, _WIDTH = 20, 230, 860


def layer_chart(layers: Sequence[LayerChange]) -> str:
    """One bar per weighted layer: the share of parameters kept, with the weight's shape and precision."""
    span = _WIDTH - _LABEL - 270
    rows = []
    for index, layer in enumerate(layers):
        y = index * _ROW
        width = max(1.0, span * min(1.0, layer.kept))
        rows.append(_label(y, layer.name))
        rows.append(f'<rect class="track" x="{_LABEL}" y="{y + 3}" width="{span}" height="13" rx="2"/>')
        kind = "int" if "int" in layer.precision else "float"
        rows.append(f'<rect class="bar {kind}" x="{_LABEL}" y="{y + 3}" width="{width:.1f}" height="13" rx="2"/>')
        rows.append(_note(_LABEL + span + 8, y, _layer_words(layer)))
    return _svg(len(layers) * _ROW, rows, "Share of parameters kept by layer")


def _layer_words(layer: LayerChange) -> str:
    """Share kept, shape, operator where it is another one, precision."""
    if not layer.after:
        return f"{0:4.0%}  {_shape(layer.before)} gone"
    change = "" if layer.after == layer.before else f" → {_shape(layer.after)}"
    other = "" if layer.op_after in ("", layer.op) else f" {layer.op_after}"
    return f"{layer.kept:4.0%}  {_shape(layer.before)}{change} {layer.precision}{other}"


def latency_chart(report: TimingReport) -> str:
    """Median latency of each model with its interquartile spread."""
    longest = max((t.wall_ms + t.spread_ms for t in report.timings), default=1.0) or 1.0
    span = _WIDTH - _LABEL - 270
    rows = []
    for index, timing in enumerate(report.timings):
        y = index * _ROW
        width = span * timing.wall_ms / longest
        low = max(0.0, width - span * timing.spread_ms / longest / 2)
        high = width + span * timing.spread_ms / longest / 2
        ratio = ""
        if timing.speedup is not None:
            ratio = f"  {timing.speedup.value:.2f}x [{timing.speedup.low:.2f}, {timing.speedup.high:.2f}]"
        rows.append(_label(y, timing.name))
        rows.append(f'<rect class="bar float" x="{_LABEL}" y="{y + 3}" width="{width:.1f}" height="13" rx="2"/>')
        rows.append(f'<path class="whisker" d="M{_LABEL + low:.1f} {y + 9.5}H{_LABEL + high:.1f}"/>')
        rows.append(_note(_LABEL + span + 8, y, f"{timing.wall_ms:.3g} ms{ratio}"))
    return _svg(len(report.timings) * _ROW, rows, "Median latency")


_BOUNDS = {"compute": "bound by arithmetic", "memory": "bound by memory", "fixed": "bound by the cost of a node"}


def layer_time_chart(layers: Sequence[LayerTime]) -> str:
    """Two bars a layer, before and after the run, on one scale, with the ratio and what bounds the layer now.

    What is no layer (everything else) is told in numbers only, so that its bar does not dwarf the others.
    """
    span, row = _WIDTH - _LABEL - 340, 26
    longest = max((max(t.before_us, t.after_us) for t in layers if t.op), default=1.0) or 1.0
    parts = []
    for index, layer in enumerate(layers):
        y = index * row
        changed = f" ({', '.join(layer.passes)})" if layer.passes else ""
        parts.append(_label(y + 2, layer.name, layer.name + changed))
        bars = ((layer.before_us, "float"), (layer.after_us, "int")) if layer.op else ()
        for place, (time, kind) in enumerate(bars):
            width = max(1.0, span * time / longest)
            top = y + 3 + 9 * place
            parts.append(f'<rect class="bar {kind}" x="{_LABEL}" y="{top}" width="{width:.1f}" height="8" rx="1.5"/>')
        parts.append(_note(_LABEL + span + 8, y + 2, _time_words(layer)))
    return _svg(len(layers) * row, parts, "Latency by layer before and after")


def _time_words(layer: LayerTime) -> str:
    ratio = f" {layer.before_us / layer.after_us:.1f}x" if layer.after_us and layer.before_us else ""
    bound = f"  {_BOUNDS[layer.bound]}" if layer.bound else ""
    return f"{_us(layer.before_us)} → {_us(layer.after_us)} µs{ratio}{bound}"


def _us(time: float) -> str:
    return f"{time:,.0f}" if time >= 100 else f"{time:.3g}"


def bar_rows(rows: Sequence[tuple[str, float, str, str]], title: str) -> str:
    """One bar a row: label, length from 0 to 1, kind (``float``, ``int``, ``bad``), and the text behind it."""
    span = _WIDTH - _LABEL - 330
    parts = []
    for index, (label, share, kind, text) in enumerate(rows):
        y = index * _ROW
        parts.append(_label(y, label))
        parts.append(f'<rect class="track" x="{_LABEL}" y="{y + 3}" width="{span}" height="13" rx="2"/>')
        width = max(1.0, span * min(1.0, share))
        parts.append(f'<rect class="bar {kind}" x="{_LABEL}" y="{y + 3}" width="{width:.1f}" height="13" rx="2"/>')
        parts.append(_note(_LABEL + span + 8, y, text))
    return _svg(len(rows) * _ROW, parts, title)


def histogram_chart(histogram: WeightHistogram) -> str:
    """Weights of one layer before (outline) and after (filled), on a square-root scale.

    Dashed lines are where the weights are cut off: the ends of the quantization grid, or of what a clip left. Ticks
    below are the steps of the grid, thinned to a power of two where they would touch.
    """
    width, height, foot = 260.0, 90.0, 8.0
    top = max((*histogram.before, *histogram.after, 1)) ** 0.5
    step = width / len(histogram.before)
    after = "".join(
        f'<rect class="bar int" x="{i * step:.1f}" y="{height - height * v**0.5 / top:.1f}" '
        f'width="{step:.2f}" height="{height * v**0.5 / top:.1f}"/>'
        for i, v in enumerate(histogram.after)
        if v
    )
    points = " ".join(
        f"{i * step + step / 2:.1f},{height - height * v**0.5 / top:.1f}" for i, v in enumerate(histogram.before)
    )
    scale = width / (histogram.high - histogram.low)
    cuts = "".join(
        f'<path class="cut" d="M{(x - histogram.low) * scale:.1f} 0V{height:.0f}"/>'
        for x in histogram.grid or histogram.kept or ()
        if histogram.low < x < histogram.high
    )
    ticks, every = _ticks(histogram, scale, height, foot)
    caption = _histogram_words(histogram, every)
    return (
        f'<figure class="hist"><svg viewBox="0 0 {width:.0f} {height + foot:.0f}" role="img" '
        f'aria-label="{escape(caption)}">{after}<polyline class="outline" points="{points}"/>{cuts}'
        f'<path class="ticks" d="{ticks}"/></svg><figcaption>{escape(caption)}</figcaption></figure>'
    )


def _histogram_words(histogram: WeightHistogram, every: int) -> str:
    kept = "" if histogram.kept is None else f"; now {histogram.kept[0]:.3g} to {histogram.kept[1]:.3g}"
    step = "" if histogram.step is None else f", step {histogram.step:.3g}"
    tick = f", a tick every {every} steps" if every > 1 else ""
    return f"{histogram.name}: {histogram.low:.3g} to {histogram.high:.3g}{kept}{step}{tick}"


def _ticks(histogram: WeightHistogram, scale: float, height: float, foot: float) -> tuple[str, int]:
    """The path of the grid's ticks, at least 4 units apart, and how many steps lie between two."""
    if histogram.step is None or histogram.grid is None or histogram.step <= 0:
        return "", 0
    every = 1
    while histogram.step * every * scale < 4.0:
        every *= 2
    first = math.ceil(max(histogram.low, histogram.grid[0]) / (histogram.step * every))
    last = math.floor(min(histogram.high, histogram.grid[1]) / (histogram.step * every))
    places = (i * histogram.step * every for i in range(first, last + 1))
    path = "".join(f"M{(x - histogram.low) * scale:.1f} {height + 2:.0f}v{foot - 3:.0f}" for x in places)
    return path, every


def _svg(height: int, rows: Sequence[str], title: str) -> str:
    body = "".join(rows)
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {height + 4}" role="img" aria-label="{escape(title)}">{body}</svg>'
    )


def _label(y: int, text: str, title: str = "") -> str:
    short = text if len(text) <= 32 else "…" + text[-31:]
    hint = f"<title>{escape(title or text)}</title>"
    return f'<text class="label" x="{_LABEL - 8}" y="{y + 14}">{hint}{escape(short)}</text>'


def _note(x: float, y: int, text: str) -> str:
    return f'<text class="note" xml:space="preserve" x="{x}" y="{y + 14}">{escape(text)}</text>'


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"
