"""Pooling, resizing, sampling: batch and channel pass, spatial axes stay."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.analysis.labels.site import Rule, Site
from graphopt.analysis.labels.space import Axis


def pool(site: Site) -> None:
    """[N, C, spatial...]."""
    x = site.axes(0)
    for axis in x[2:]:
        site.freeze(axis, "(spatial axis)")
    if len(site.node.outputs) > 1 and any(n.op != "MaxUnpool" for n in site.node.outputs[1].outputs):
        site.freeze(x[1], "(flat indices are used)")
    for index, tensor in enumerate(site.node.outputs):
        if not tensor.is_empty():
            site.emit([x[0], x[1], *(site.stuck(e, "(spatial axis)") for e in site.out(index)[2:])], index)


def pool_axes(site: Site, last: bool) -> list[Axis]:
    """Axes of a pooled tensor: batch and channel pass, ``last`` says that the channel is the last axis."""
    x, out = site.axes(0), site.out()
    place = len(x) - 1 if last else 1
    for k, axis in enumerate(x):
        if k not in (0, place):
            site.freeze(axis, "(spatial axis)")
    return [axis if k in (0, place) else site.stuck(out[k], "(spatial axis)") for k, axis in enumerate(x)]


def nhwc_pool(site: Site) -> None:
    """com.microsoft: [N, spatial..., C]."""
    site.emit(pool_axes(site, last=True))


def max_unpool(site: Site) -> None:
    """Values and indices go together; a given output shape is rewritten."""
    x = site.axes(0)
    for mine, other in zip(x, site.axes(1), strict=True):
        site.equal(mine, other)
    for axis in x[2:]:
        site.freeze(axis, "(spatial axis)")
    out: list[Axis] = [x[0], x[1], *(site.stuck(e) for e in site.out()[2:])]
    site.extents_input(2, out)
    site.emit(out)


def resize(site: Site) -> None:
    """Axes whose extent does not change pass, the others stay."""
    x, shape, out = site.axes(0), site.shape(0), site.out()
    made: list[Axis] = []
    for axis, before, after in zip(x, shape, out, strict=True):
        if before == after:
            made.append(axis)
        else:
            site.freeze(axis, "(resized axis)")
            made.append(site.stuck(after, "(resized axis)"))
    if site.node.op == "Resize" and site.has(3) and "axes" not in site.node.attrs:
        site.extents_input(3, made)
    elif site.has(3):
        site.extents_input(3, [made[a] for a in site.attr("axes")])
    site.emit(made)


def grid_sample(site: Site) -> None:
    """X[N, C, ...] at grid[N, ..., r]."""
    x, grid = site.axes(0), site.axes(1)
    for axis in (*x[2:], *grid[1:]):
        site.freeze(axis, "(spatial axis)")
    site.emit([site.join(x[0], grid[0]), x[1], *(site.stuck(e) for e in site.out()[2:])])


def roi_align(site: Site) -> None:
    """X[N, C, H, W]: only C passes."""
    x = site.axes(0)
    for place in (0, 2, 3):
        site.freeze(x[place], "(regions)")
    for index in range(1, site.inputs):
        site.freeze_input(index, "(regions)")
    site.emit([site.stuck(e) if k != 1 else x[1] for k, e in enumerate(site.out())])


_POOLS = "MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool"

ROWS: Mapping[str, Rule] = {
    **dict.fromkeys(_POOLS.split(), pool),
    "com.microsoft:NhwcMaxPool": nhwc_pool,
    "MaxUnpool": max_unpool,
    "Resize": resize,
    "Upsample": resize,
    "GridSample": grid_sample,
    "com.microsoft:GridSample": grid_sample,
    "com.microsoft:CropAndResize": roi_align,
    "RoiAlign": roi_align,
    "MaxRoiPool": roi_align,
}
