"""Quantize and dequantize. Scales and zero points follow the axis they belong to."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.analysis.labels.site import Rule, Site


def qdq(site: Site) -> None:
    """Per tensor: pass. Per axis: scale and zero point lose the same positions. Blocked: the axis stays."""
    x = site.axes(0)
    scale = site.shape(1)
    if site.attr("block_size", 0):
        for index in range(site.inputs):
            site.freeze_input(index, "(blocked quantization)")
    elif len(scale) == 1 and scale[0] > 1:
        place = int(site.attr("axis", 1)) % len(x)
        for index in (1, 2):
            if site.has(index):
                site.equal(x[place], site.axes(index)[0])
    site.emit(x)


ROWS: Mapping[str, Rule] = {
    "QuantizeLinear": qdq,
    "DequantizeLinear": qdq,
    "com.microsoft:QuantizeLinear": qdq,
    "com.microsoft:DequantizeLinear": qdq,
}
