"""Quantize and dequantize. Scales and zero points follow the axis they belong to."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.analysis.labels.site import Rule, Site


def qdq(site: Site) -> None:
    """Per tensor: pass. Per axis: scale and zero point lose the same positions. Blocked: whole blocks go."""
    x = site.axes(0)
    scale = site.shape(1)
    if site.attr("block_size", 0):
        _blocked(site, int(site.attr("block_size")), int(site.attr("axis", 1)) % len(x))
    elif len(scale) == 1 and scale[0] > 1:
        place = int(site.attr("axis", 1)) % len(x)
        for index in (1, 2):
            if site.has(index):
                site.equal(x[place], site.axes(index)[0])
    site.emit(x)


def _blocked(site: Site, size: int, place: int) -> None:
    """The scale has the shape of the input with one position per block on the axis."""
    x = site.axes(0)
    whole = len(x[place]) == size * site.shape(1)[place]
    if not whole:
        site.freeze(x[place], "(blocked quantization with a rest)")
    for index in (1, 2):
        if not site.has(index):
            continue
        for k, own in enumerate(site.axes(index)):
            if k == place and whole:
                site.equal(x[place], site.merge([own, site.stuck(size, "(block)")]))
            elif k == place:
                site.freeze(own, "(blocked quantization with a rest)")
            else:
                site.equal(own, x[k])


ROWS: Mapping[str, Rule] = {
    "QuantizeLinear": qdq,
    "DequantizeLinear": qdq,
    "com.microsoft:QuantizeLinear": qdq,
    "com.microsoft:DequantizeLinear": qdq,
}
