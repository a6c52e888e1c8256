"""Symbolic rows of Slice: which part of an axis a slice takes when extents and bounds are symbols."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.analysis.kernels import picked
from graphopt.ir import Node
from graphopt.transforms.clean.facts import Fact, Interpreter, Row, SymShape
from graphopt.transforms.clean.symbols import Extent, at_least, quotient

BIG = 2**31 - 1


def slice_spec(node: Node, ctx: Interpreter, rank: int) -> list[tuple[int, Extent, Extent, int]] | None:
    """(axis, start, end, step) of each axis that a Slice names; None when not known."""
    if ctx.opset < 10:
        starts, ends, axes = (node.attrs.get(k) for k in ("starts", "ends", "axes"))
        if starts is None or ends is None:
            return None
        steps = [1] * len(starts)
    else:
        bounds = [ctx.input(node, i).value for i in (1, 2)]
        if bounds[0] is None or bounds[1] is None:
            return None
        starts, ends = bounds[0].reshape(-1).tolist(), bounds[1].reshape(-1).tolist()
        optional = []
        for i in (3, 4):
            known = ctx.array(node, i)
            given = len(node.inputs) > i and not node.inputs[i].is_empty()
            if given and known is None:
                return None
            optional.append(None if known is None else known.reshape(-1).tolist())
        axes, steps = optional[0], optional[1] or [1] * len(starts)
    axes = range(len(starts)) if axes is None else axes
    return [(int(a) % rank, s, e, int(p)) for a, s, e, p in zip(axes, starts, ends, steps, strict=True)]


def slice_length(extent: Extent, start: Extent, end: Extent, step: int) -> Extent | None:
    """How many elements a Slice keeps of an axis; None when it is not known."""
    bounds = slice_bounds(extent, start, end, step)
    if bounds is None:
        return None
    first, last = bounds
    if isinstance(first, int) and isinstance(last, int):
        return max(0, -(-(last - first) // step))
    if step > 0 and at_least(last, first):
        return quotient(last - first, step, round_up=True)
    if step < 0 and at_least(first, last):
        return quotient(first - last, -step, round_up=True)
    return None


def slice_bounds(extent: Extent, start: Extent, end: Extent, step: int) -> tuple[Extent, Extent] | None:
    """The first position, and the one after the last, with negative and large ones resolved."""
    if step == 0:
        return None
    low, high = (0, extent) if step > 0 else (-1, extent - 1)
    first = _clamped(start, extent, 0, extent if step > 0 else extent - 1)
    last = _clamped(end, extent, low, high)
    return None if first is None or last is None else (first, last)


def _clamped(position: Extent, extent: Extent, low: Extent, high: Extent) -> Extent | None:
    if isinstance(position, int):
        if position >= BIG:
            return high
        if position <= -BIG:
            return low
        if position < 0:
            position = position + extent
    elif not at_least(position, 0):
        if not at_least(-position - 1, 0):
            return None
        position = position + extent
    if at_least(position, high):
        return high
    if at_least(low, position):
        return low
    return position if at_least(high, position) and at_least(position, low) else None


def _slice(node: Node, ctx: Interpreter) -> Sequence[Fact]:
    data = ctx.input(node, 0)
    if data.shape is None:
        return []
    spec = slice_spec(node, ctx, len(data.shape))
    if spec is None:
        return [Fact(data.dtype, _sliced_unknown(node, ctx, data.shape))]
    shape = list(data.shape)
    value = data.value
    for axis, start, end, step in spec:
        length = slice_length(shape[axis], start, end, step)
        if value is not None and isinstance(start, int) and isinstance(end, int):
            index: list[slice] = [slice(None)] * len(shape)
            index[axis] = picked(value.shape[axis], start, end, step)
            value = value[tuple(index)]
        else:
            value = None
        shape[axis] = ctx.fresh_extent() if length is None else length
    return [Fact(data.dtype, tuple(shape), value)]


def _sliced_unknown(node: Node, ctx: Interpreter, shape: SymShape) -> SymShape:
    axes = ctx.array(node, 3)
    touched = set(range(len(shape))) if axes is None else {int(a) % len(shape) for a in axes.reshape(-1)}
    return tuple(ctx.fresh_extent() if i in touched else d for i, d in enumerate(shape))


SLICE_ROWS: dict[str, Row] = {"Slice": _slice}
