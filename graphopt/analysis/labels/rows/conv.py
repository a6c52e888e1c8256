"""Convolutions of any rank: dense, grouped, depthwise, transposed, fused."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from graphopt.analysis.labels.site import Rule, Site
from graphopt.analysis.labels.space import Axis


def conv(site: Site) -> None:
    """X[N, C, ...] W[M, C/g, ...] B[M] (and Z[N, M, ...] of FusedConv)."""
    convolve(site, weight=1, bias=2, last=False)
    _added(site)


def nhwc_conv(site: Site) -> None:
    """com.microsoft: as Conv with channels last, X[N, ..., C]; the weight is that of Conv."""
    convolve(site, weight=1, bias=2, last=True)
    _added(site)


def _added(site: Site) -> None:
    if site.has(3):
        for mine, other in zip(site.record.axes[site.node.outputs[0]], site.axes(3), strict=True):
            site.equal(mine, other)


def conv_transpose(site: Site) -> None:
    """X[N, C, ...] W[C, M/g, ...] B[M]."""
    x, w = site.axes(0), site.axes(1)
    group = int(site.attr("group", 1))
    if group == 1:
        site.equal(x[1], w[0])
        site.mask(0, 1)
        out: Axis = w[1]
    else:
        blocks = site.split(x[1], [group, len(x[1]) // group])
        site.equal(x[1], w[0])
        out = site.merge([blocks[0], w[1]])
        for axis in (x[1], out):
            site.count(axis, group)
        site.block_weight(1, 1, out, group)
        site.fix_attr("group", lambda kept: kept.count(blocks[0]) if kept.changed(blocks[0]) else None)
        if len(blocks[1]) > 1:
            site.mask(0, 1)
    _finish(site, out)
    site.cost(float(prod(site.shape(0)[2:]) * site.shape(0)[0] * prod(site.shape(1)[2:])), (x[1], w[1]))


def convolve(site: Site, weight: int, bias: int | None, last: bool, point: int | None = None) -> Axis:
    """A convolution whose weight and bias are these inputs; ``last``: channels are the last axis; ``point``: the input
    with the zero point. Emits the output and returns its channel axis."""
    x, w = site.axes(0), site.axes(weight)
    place = len(x) - 1 if last else 1
    group, channels, out = int(site.attr("group", 1)), x[place], w[0]
    if group == 1:
        site.equal(channels, w[1])
        site.mask(0, place, point=point)
    else:
        _grouped(site, channels, out, w[1], group)
        site.block_weight(weight, 1, channels, group)
        if len(w[1]) > 1:
            site.mask(0, place, point=point)
    if bias is not None and site.has(bias):
        site.equal(site.axes(bias)[0], out)
    for k, axis in enumerate(x):
        if k not in (0, place):
            site.freeze(axis, "(spatial axis)")
    for axis in w[2:]:
        site.freeze(axis, "(kernel)")
    made = [x[0], *(site.stuck(e, "(spatial axis)") for e in site.out()[1:])]
    made[place] = out
    site.emit(made)
    kernel = prod(site.shape(weight)[2:])
    site.cost(float(prod(site.out()) // max(len(out), 1) * kernel), (out, w[1]))
    return out


def _grouped(site: Site, channels: Axis, out: Axis, inner: Axis, group: int) -> None:
    blocks = site.split(channels, [group, len(channels) // group])
    if len(inner) > 1:
        site.equal(blocks[1], inner)
    made = site.split(out, [group, len(out) // group])
    site.equal(blocks[0], made[0])
    for axis in (channels, out):
        site.count(axis, group)
    site.fix_attr("group", lambda kept: kept.count(blocks[0]) if kept.changed(blocks[0]) else None)


def _finish(site: Site, out: Axis) -> None:
    if site.has(2):
        site.equal(site.axes(2)[0], out)
    x = site.axes(0)
    for axis in x[2:]:
        site.freeze(axis, "(spatial axis)")
    for axis in site.axes(1)[2:]:
        site.freeze(axis, "(kernel)")
    site.emit([x[0], out, *(site.stuck(e, "(spatial axis)") for e in site.out()[2:])])


def deform_conv(site: Site) -> None:
    """X[N, C, H, W], W[M, C/g, kH, kW], offset[N, groups * kH * kW * 2, ...], B[M], mask: channels of one offset group
    go together only with the group, so with several groups they stay."""
    if int(site.attr("offset_group", 1)) > 1:
        site.freeze(site.axes(0)[1], "(offset groups)")
    for index in (2, 4):
        site.freeze_input(index, "(offsets)")
    convolve(site, weight=1, bias=3, last=False)


ROWS: Mapping[str, Rule] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "DeformConv": deform_conv,
    "com.microsoft:FusedConv": conv,
    "com.microsoft:NhwcConv": nhwc_conv,
    "com.microsoft:NhwcFusedConv": nhwc_conv,
}
