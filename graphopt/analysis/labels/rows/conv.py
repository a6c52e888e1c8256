"""Convolutions of any rank: dense, grouped, depthwise, transposed, fused."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from graphopt.analysis.labels.site import Rule, Site
from graphopt.analysis.labels.space import Axis


def conv(site: Site) -> None:
    """X[N, C, ...] W[M, C/g, ...] B[M] (and Z[N, M, ...] of FusedConv)."""
    x, w = site.axes(0), site.axes(1)
    _convolve(site, x[1], w[0], w[1], produced_first=True)
    _cost(site, w[0], w[1])
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
        site.fix_attr("group", lambda kept: kept.count(blocks[0]) if kept.changed(blocks[0]) else None)
        if len(blocks[1]) > 1:
            site.mask(0, 1)
    _finish(site, out)
    site.cost(float(prod(site.shape(0)[2:]) * site.shape(0)[0] * prod(site.shape(1)[2:])), (x[1], w[1]))


def _convolve(site: Site, channels: Axis, first: Axis, second: Axis, produced_first: bool) -> None:
    group = int(site.attr("group", 1))
    if group == 1:
        site.equal(channels, second)
        site.mask(0, 1)
        _finish(site, first)
        return
    inner = len(channels) // group
    outer = len(first) // group
    blocks = site.split(channels, [group, inner])
    if inner > 1:
        site.equal(blocks[1], second)
    made = site.split(first, [group, outer])
    site.equal(blocks[0], made[0])
    if inner > 1:
        site.mask(0, 1)
    site.fix_attr("group", lambda kept: kept.count(blocks[0]) if kept.changed(blocks[0]) else None)
    _finish(site, first)


def _finish(site: Site, out: Axis) -> None:
    if site.has(2):
        site.equal(site.axes(2)[0], out)
    x = site.axes(0)
    for axis in x[2:]:
        site.freeze(axis, "(spatial axis)")
    for axis in site.axes(1)[2:]:
        site.freeze(axis, "(kernel)")
    site.emit([x[0], out, *(site.stuck(e, "(spatial axis)") for e in site.out()[2:])])


def _cost(site: Site, out: Axis, inner: Axis) -> None:
    shape = site.out()
    site.cost(float(shape[0] * prod(shape[2:]) * prod(site.shape(1)[2:])), (out, inner))


ROWS: Mapping[str, Rule] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "com.microsoft:FusedConv": conv,
}
