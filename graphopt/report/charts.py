"""Small charts as inline SVG: horizontal bars, interval marks, histograms. Colours are CSS variables."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from graphopt.results import LayerChange, NodeTime, TimingReport, WeightHistogram

_ROW, _LABEL, _WIDTH = 20, 230, 860
_INTEGER = ("QLinear", "QGemm", "MatMulInteger", "ConvInteger", "Quantize")


def layer_chart(layers: Sequence[LayerChange]) -> str:
    """One bar per weighted layer: the share of parameters kept, with the weight's shape and precision."""
    span = _WIDTH - _LABEL - 270
    rows = []
    for index, layer in enumerate(layers):
        y = index * _ROW
        width = max(1.0, span * min(1.0, layer.kept))
        text = f"{layer.kept:.0%}  {_shape(layer.before)} → {_shape(layer.after)}  {layer.precision}"
        rows.append(_label(y, layer.name))
        rows.append(f'<rect class="track" x="{_LABEL}" y="{y + 3}" width="{span}" height="13" rx="2"/>')
        kind = "int" if "int" in layer.precision else "float"
        rows.append(f'<rect class="bar {kind}" x="{_LABEL}" y="{y + 3}" width="{width:.1f}" height="13" rx="2"/>')
        rows.append(_note(_LABEL + span + 8, y, text))
    return _svg(len(layers) * _ROW, rows, "Share of parameters kept by layer")


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


def node_chart(nodes: Sequence[NodeTime], longest: float, limit: int = 20) -> str:
    """The slowest nodes of one model, on a scale that ends at ``longest`` microseconds."""
    span = _WIDTH - _LABEL - 270
    rows = []
    shown = sorted(nodes, key=lambda n: -n.microseconds)[:limit]
    for index, node in enumerate(shown):
        y = index * _ROW
        width = max(1.0, span * node.microseconds / (longest or 1.0))
        kind = (
            "int" if node.op.startswith(("QLinear", "QGemm", "MatMulInteger", "ConvInteger", "Quantize")) else "float"
        )
        rows.append(_label(y, node.name))
        rows.append(f'<rect class="bar {kind}" x="{_LABEL}" y="{y + 3}" width="{width:.1f}" height="13" rx="2"/>')
        rows.append(_note(_LABEL + span + 8, y, f"{node.microseconds:.3g} µs  {node.share:.1%}  {node.op}"))
    return _svg(len(shown) * _ROW, rows, "Slowest nodes")


def bar_rows(rows: Sequence[tuple[str, float, str, str]], title: str) -> str:
    """One bar a row: label, length from 0 to 1, kind (``float``, ``int``, ``bad``), and the text behind it."""
    span = _WIDTH - _LABEL - 270
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
    """Weights of one layer before (outline) and after (filled), on a square-root scale."""
    width, height = 260, 90
    top = max((*histogram.before, *histogram.after, 1)) ** 0.5
    count = len(histogram.before)
    step = width / count
    after = "".join(
        f'<rect class="bar int" x="{i * step:.1f}" y="{height - height * v**0.5 / top:.1f}" '
        f'width="{step:.2f}" height="{height * v**0.5 / top:.1f}"/>'
        for i, v in enumerate(histogram.after)
        if v
    )
    points = " ".join(
        f"{i * step + step / 2:.1f},{height - height * v**0.5 / top:.1f}" for i, v in enumerate(histogram.before)
    )
    grid = "" if histogram.step is None else f" step {histogram.step:.3g}"
    caption = f"{histogram.name}  [{histogram.low:.3g}, {histogram.high:.3g}]{grid}"
    return (
        f'<figure class="hist"><svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(caption)}">{after}'
        f'<polyline class="outline" points="{points}"/></svg><figcaption>{escape(caption)}</figcaption></figure>'
    )


def _svg(height: int, rows: Sequence[str], title: str) -> str:
    body = "".join(rows)
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {height + 4}" role="img" aria-label="{escape(title)}">{body}</svg>'
    )


def _label(y: int, text: str) -> str:
    short = text if len(text) <= 34 else "…" + text[-33:]
    return f'<text class="label" x="{_LABEL - 8}" y="{y + 14}"><title>{escape(text)}</title>{escape(short)}</text>'


def _note(x: float, y: int, text: str) -> str:
    return f'<text class="note" x="{x}" y="{y + 14}">{escape(text)}</text>'


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "gone"
