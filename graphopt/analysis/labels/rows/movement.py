"""Operators that only move data: label vectors are moved the same way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphopt.analysis.kernels import picked
from graphopt.analysis.labels.records import Kept
from graphopt.analysis.labels.site import Axes, Rule, Site
from graphopt.analysis.labels.space import Axis, Frozen, one
from graphopt.graph import Graph
from graphopt.ir import Array, Node


def reshape(site: Site) -> None:
    """Reshape: the shape input is rewritten from the new extents; 0 and -1 stay."""
    x = site.axes(0)
    out = site.reshape(x, site.out())
    site.emit(out)
    _merged_copies(site, x, out)
    zero_copies = not site.attr("allowzero", 0)

    def make(old: Array, kept: Kept) -> Array:
        new = []
        for place, value in enumerate(old.tolist()):
            axis = out[place]
            copied = value == 0 and zero_copies
            same = copied and kept.count(x[place]) == kept.count(axis)
            stays = value == -1 or same or not (kept.changed(axis) or copied)
            new.append(value if stays else kept.count(axis))
        return np.asarray(new, old.dtype)

    if site.has(1):
        site.fix_input(1, make)
    elif "shape" in site.node.attrs:
        site.fix_attr("shape", lambda kept: make(np.asarray(site.attr("shape")), kept).tolist())


def _merged_copies(site: Site, x: Axes, out: list[Axis]) -> None:
    """Where an axis of equal values is merged into the one before it, only how many there are in each block matters."""
    for place in range(1, len(x)):
        if (site.node.inputs[0], place) not in site.record.uniform or len(out) < place:
            continue
        before, after = [len(a) for a in x], [len(a) for a in out]
        if before[: place - 1] == after[: place - 1] and after[place - 1] == before[place - 1] * before[place]:
            site.count(out[place - 1], before[place - 1])


def view(site: Site) -> None:
    """Flatten, Squeeze, Unsqueeze: extents follow by themselves."""
    site.emit(site.reshape(site.axes(0), site.out()))


def transpose(site: Site) -> None:
    """Axes are permuted."""
    x = site.axes(0)
    site.emit([x[p] for p in site.attr("perm", list(reversed(range(len(x)))))])


def concat(site: Site) -> None:
    """One after the other on ``axis``; the other axes go together."""
    rank = len(site.out())
    place = int(site.attr("axis")) % rank
    inputs = [site.axes(i) for i in range(site.inputs)]
    made: list[Axis] = []
    for k in range(rank):
        if k == place:
            made.append(site.chain([x[k] for x in inputs]))
            continue
        found: Axis | None = None
        for x in inputs:
            found = site.join(found, x[k])
        made.append(one() if found is None else found)
    site.emit(made)


def split(site: Site) -> None:
    """Consecutive pieces of ``axis``; sizes are rewritten."""
    x = site.axes(0)
    place = int(site.attr("axis", 0)) % len(x)
    pieces: list[Axis] = []
    start = 0
    for index in range(len(site.node.outputs)):
        extent = site.out(index)[place]
        pieces.append(site.pick(x[place], slice(start, start + extent)))
        start += extent
        site.emit([*x[:place], pieces[-1], *x[place + 1 :]], index)
    if site.has(1):
        site.extents_input(1, pieces)
    elif "split" in site.node.attrs:
        site.fix_attr("split", lambda kept: [kept.count(p) for p in pieces] if kept.changed(x[place]) else None)
    else:
        site.fix_node(lambda graph, node, kept: _explicit_sizes(site, graph, node, kept, pieces, x[place]))


def _explicit_sizes(site: Site, graph: Graph, node: Node, kept: Kept, pieces: list[Axis], axis: Axis) -> None:
    if not kept.changed(axis):
        return
    sizes = [kept.count(p) for p in pieces]
    node.attrs.pop("num_outputs", None)
    if site.opset < 13:
        node.attrs["split"] = sizes
        return
    table = graph.new_constant(f"{node.name}_sizes", np.array(sizes, np.int64))
    if len(node.inputs) > 1:
        node.inputs[1] = table
    else:
        node.inputs.append(table)


def slice_(site: Site) -> None:
    """Constant bounds pick labels; bounds are rewritten to the counts of kept positions before them."""
    x, shape = list(site.axes(0)), site.shape(0)
    plan = _bounds(site)
    if plan is None:
        _dynamic_slice(site)
        return
    cuts: dict[int, tuple[int, int, int]] = {}
    for axis, start, end, step in plan:
        cuts[axis] = slice(start, end, step).indices(shape[axis])
    made = list(x)
    for axis, (start, stop, step) in cuts.items():
        if (start, stop, step) != (0, shape[axis], 1):
            made[axis] = site.pick(x[axis], np.arange(start, stop, step) if step < 0 else slice(start, stop, step))
    site.emit(made)
    order = [axis for axis, _, _, _ in plan]
    for number, which in ((1, 0), (2, 1)):
        _fix_bounds(site, x, order, cuts, number, which)
    for axis, (start, stop, step) in cuts.items():
        if step != 1 and not isinstance(x[axis], Frozen):
            _fix_strided(site, axis, x[axis], np.arange(start, stop, step))


def _bounds(site: Site) -> list[tuple[int, int, int | None, int]] | None:
    rank = len(site.shape(0))
    if site.inputs > 1:
        starts, ends = site.value(1), site.value(2)
        axes = site.value(3) if site.has(3) else None
        steps = site.value(4) if site.has(4) else None
        if starts is None or ends is None or (site.has(3) and axes is None) or (site.has(4) and steps is None):
            return None
    else:
        starts, ends = np.array(site.attr("starts")), np.array(site.attr("ends"))
        axes, steps = site.attr("axes"), None
    plan: list[tuple[int, int, int | None, int]] = []
    for k, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        axis = int(k if axes is None else axes[k]) % rank
        step = 1 if steps is None else int(steps[k])
        part = picked(site.shape(0)[axis], start, end, step)
        plan.append((axis, part.start, part.stop, step))
    return plan


def _dynamic_slice(site: Site) -> None:
    x, out = site.axes(0), site.out()
    axes = site.value(3) if site.has(3) else None
    touched = set(range(len(x))) if axes is None else {int(a) % len(x) for a in axes.tolist()}
    made: list[Axis] = []
    for k, axis in enumerate(x):
        if k in touched:
            site.freeze(axis, "(bounds known only at run time)")
            made.append(site.stuck(out[k], "(bounds known only at run time)"))
        else:
            made.append(axis)
    site.emit(made)


def _fix_bounds(
    site: Site, x: list[Axis], order: list[int], cuts: dict[int, tuple[int, int, int]], number: int, which: int
) -> None:
    def new(old: Any, kept: Kept) -> list[int]:
        values = []
        for value, axis in zip(old, order, strict=True):
            start, stop, step = cuts[axis]
            bound = (start, stop)[which]
            if step != 1 or not kept.changed(x[axis]) or (which == 1 and value >= len(x[axis])):
                values.append(int(value))
            else:
                values.append(int(kept.mask(x[axis])[: max(bound, 0)].sum()))
        return values

    if site.has(number):
        site.fix_input(number, lambda old, kept: np.asarray(new(old.tolist(), kept), old.dtype))
    elif site.inputs == 1:
        name = ("starts", "ends")[which]
        site.fix_attr(name, lambda kept: new(site.attr(name), kept))


def _fix_strided(site: Site, place: int, axis: Axis, positions: Array) -> None:
    """A strided slice stays when it still picks the same positions, else it becomes a Gather."""

    def apply(graph: Graph, node: Node, kept: Kept) -> None:
        if not kept.changed(axis):
            return
        mask = kept.mask(axis)
        step = int(positions[1] - positions[0]) if len(positions) > 1 else 1
        alive = np.flatnonzero(mask)
        wanted = positions[mask[positions]]
        start = int(positions[0])
        picked = alive[start::step] if step > 0 and start < step else alive[::step] if start == len(mask) - 1 else None
        if picked is not None and np.array_equal(picked, wanted):
            return
        new_place = np.cumsum(mask) - 1
        indices = graph.new_constant(f"{node.name}_positions", new_place[wanted].astype(np.int64))
        source = node.inputs[0]
        node.op, node.attrs = "Gather", {"axis": place}
        node.inputs.clear()
        node.inputs.extend([source, indices])

    if len(site.value(1) if site.inputs > 1 else site.attr("starts")) != 1:  # type: ignore[arg-type]
        site.freeze(axis, "(strided slice of several axes)")
        return
    site.fix_node(apply)


def expand(site: Site) -> None:
    """Axes that grow from 1 are free: they take the labels of whatever they meet."""
    x, out = site.axes(0), site.out()
    made: list[Axis] = []
    for k, extent in enumerate(out):
        place = k - (len(out) - len(x))
        if extent == 1:
            made.append(one())
        elif place >= 0 and len(x[place]) > 1:
            made.append(x[place])
        else:
            made.append(site.space.fresh(extent))
    wanted = site.value(1)
    if wanted is None:
        for axis in made:
            site.freeze(axis, "(shape known only at run time)")
    else:
        site.extents_input(1, made[len(made) - len(wanted) :], keep=(1,))
    site.emit(made)
    for k, axis in enumerate(made):
        place = k - (len(out) - len(x))
        if len(axis) > 1 and (place < 0 or len(x[place]) == 1):
            site.same_along(k)


def constant_of_shape(site: Site) -> None:
    """All axes are free; the shape input is rewritten."""
    made = site.free(site.out())
    if site.value(0) is None:
        for axis in made:
            site.freeze(axis, "(shape known only at run time)")
    else:
        site.extents_input(0, made)
    site.emit(made)


def tile(site: Site) -> None:
    """Labels repeat."""
    x, repeats = site.axes(0), site.value(1)
    if repeats is None:
        site.freeze_all("(repeats known only at run time)")
        return
    made: list[Axis] = []
    for axis, count, extent in zip(x, repeats.tolist(), site.out(), strict=True):
        if count == 1:
            made.append(axis)
        elif len(axis) == 1:
            made.append(site.stuck(extent))
        elif isinstance(axis, Frozen):
            made.append(Frozen(extent, axis.reason))
        else:
            made.append(np.tile(axis, count))
    site.emit(made)


def pad(site: Site) -> None:
    """Padded positions are free zeros in constant mode; other modes need the neighbours."""
    x = site.axes(0)
    amounts = site.value(1) if site.has(1) else np.array(site.attr("pads", site.attr("paddings")))
    if amounts is None or (site.has(3) and site.value(3) is None):
        site.freeze_all("(amounts known only at run time)")
        return
    chosen = site.value(3)
    axes = list(range(len(x))) if chosen is None else [int(a) % len(x) for a in chosen.tolist()]
    half = len(amounts) // 2
    ends: list[tuple[Axis, Axis]] = []
    made = list(x)
    for k, axis in enumerate(axes):
        low, high = int(amounts[k]), int(amounts[half + k])
        free = site.attr("mode", "constant") in ("constant", b"constant") and low >= 0 and high >= 0
        before = site.space.fresh(low) if free else Frozen(low, site.name)
        after = site.space.fresh(high) if free else Frozen(high, site.name)
        ends.append((before, after))
        if (low or high) and free and (len(x[axis]) == 1 or isinstance(x[axis], Frozen)):
            made[axis] = site.stuck(site.out()[axis], "(padded axis)")
        elif (low or high) and free:
            made[axis] = site.chain([p for p in (before, x[axis], after) if len(p)])
        elif low or high:
            site.freeze(x[axis], "(padded axis)")
            made[axis] = site.stuck(site.out()[axis], "(padded axis)")

    def make(old: Any, kept: Kept) -> list[int]:
        new = [int(v) for v in old]
        for k, (before, after) in enumerate(ends):
            if kept.changed(made[axes[k]]):
                new[k], new[half + k] = kept.count(before), kept.count(after)
        return new

    if site.has(1):
        site.fix_input(1, lambda old, kept: np.asarray(make(old.tolist(), kept), old.dtype))
    else:
        name = "pads" if "pads" in site.node.attrs else "paddings"
        site.fix_attr(name, lambda kept: make(site.attr(name), kept))
    site.emit(made)


def depth_to_space(site: Site) -> None:
    """All block positions of one output channel go together."""
    x, size = site.axes(0), int(site.attr("blocksize")) ** 2
    channels = len(x[1]) // size
    if site.attr("mode", "DCR") in ("DCR", b"DCR"):
        _, channel = site.split(x[1], [size, channels])
        block = _
    else:
        channel, block = site.split(x[1], [channels, size])
    site.freeze(block, "(block positions)")
    _space(site, x, channel)


def space_to_depth(site: Site) -> None:
    """All block positions of one input channel go together."""
    x, size = site.axes(0), int(site.attr("blocksize")) ** 2
    _space(site, x, site.merge([site.stuck(size), x[1]]))


def _space(site: Site, x: Axes, channel: Axis) -> None:
    for axis in x[2:]:
        site.freeze(axis, "(spatial axis)")
    site.emit([x[0], channel, *(site.stuck(e, "(spatial axis)") for e in site.out()[2:])])


def describe(site: Site) -> None:
    """Shape, Size: the value is recomputed; nothing is frozen here."""
    site.ignore(0)
    site.emit([site.stuck(e) for e in site.out()])


def numbers(site: Site) -> None:
    """Range, EyeLike: positions are values."""
    site.freeze_all("(positions are values)")


def trilu(site: Site) -> None:
    """The last two axes have an order that matters."""
    x = site.axes(0)
    for axis in x[-2:]:
        site.freeze(axis, "(triangle)")
    site.emit(x)


ROWS: Mapping[str, Rule] = {
    "Reshape": reshape,
    "Flatten": view,
    "Squeeze": view,
    "Unsqueeze": view,
    "Transpose": transpose,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Expand": expand,
    "ConstantOfShape": constant_of_shape,
    "Tile": tile,
    "Pad": pad,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "Shape": describe,
    "Size": describe,
    "Trilu": trilu,
    "Range": numbers,
    "EyeLike": numbers,
}
