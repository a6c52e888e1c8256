"""Symbolic rows for convolution, pooling and padding: extents that ONNX's own inference leaves unknown."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir import Node, constant_value
from graphopt.transforms.clean.facts import Fact, Interpreter, Row, attribute
from graphopt.transforms.clean.symbols import Expr, Extent, at_least, quotient


def _window(node: Node, ctx: Interpreter, extents: Sequence[Extent], kernel: Sequence[int]) -> list[Extent] | None:
    """Output extents of a sliding window."""
    count = len(extents)
    strides = attribute(node, "strides", [1] * count)
    dilations = attribute(node, "dilations", [1] * count)
    auto = attribute(node, "auto_pad", "NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else auto
    pads = attribute(node, "pads", [0] * (2 * count)) if auto == "NOTSET" else [0] * (2 * count)
    made: list[Extent] = []
    for i, extent in enumerate(extents):
        if auto.startswith("SAME"):
            made.append(quotient(extent, strides[i], round_up=True))
            continue
        span = extent + (pads[i] + pads[i + count] - dilations[i] * (kernel[i] - 1) - 1)
        if not at_least(span, 0):
            return None
        made.append(quotient(span, strides[i]) + 1)
    return made


def _conv(node: Node, ctx: Interpreter) -> Sequence[Fact]:
    data, weight = ctx.input(node, 0), ctx.input(node, 1)
    if data.shape is None or weight.static is None:
        return []
    kernel = attribute(node, "kernel_shape", list(weight.static[2:]))
    spatial = _window(node, ctx, data.shape[2:], kernel)
    return [] if spatial is None else [Fact(data.dtype, (data.shape[0], weight.static[0], *spatial))]


def _pool(node: Node, ctx: Interpreter) -> Sequence[Fact]:
    data = ctx.input(node, 0)
    static = data.shape is None or not any(isinstance(d, Expr) for d in data.shape[2:])
    if static or data.shape is None or len(node.outputs) > 1 or attribute(node, "ceil_mode", 0):
        return []
    spatial = _window(node, ctx, data.shape[2:], node.attrs["kernel_shape"])
    return [] if spatial is None else [Fact(data.dtype, (*data.shape[:2], *spatial))]


def _global_pool(node: Node, ctx: Interpreter) -> Sequence[Fact]:
    data = ctx.input(node, 0)
    return [] if data.shape is None else [Fact(data.dtype, (*data.shape[:2], *[1] * (len(data.shape) - 2)))]


def _pad(node: Node, ctx: Interpreter) -> Sequence[Fact]:
    data = ctx.input(node, 0)
    if data.shape is None:
        return []
    pads = pad_amounts(node, ctx)
    if pads is None:
        return [Fact(data.dtype, tuple(ctx.fresh_extent() for _ in data.shape))]
    rank = len(data.shape)
    shape = [d + pads[i] + pads[i + rank] for i, d in enumerate(data.shape)]
    return [Fact(data.dtype, tuple(shape))]


def pad_amounts(node: Node, ctx: Interpreter) -> list[Extent] | None:
    """Padding of every axis, all begins before all ends; None when not known."""
    if ctx.opset < 11:
        given = node.attrs.get("pads", node.attrs.get("paddings"))
        return None if given is None else list(given)
    value, rank = ctx.input(node, 1).value, ctx.input(node, 0).rank
    if value is None or rank is None:
        return None
    amounts = value.reshape(-1).tolist()
    if len(node.inputs) < 4 or node.inputs[3].is_empty():
        return amounts
    axes = ctx.array(node, 3)
    if axes is None:
        return None
    full: list[Extent] = [0] * (2 * rank)
    for position, axis in enumerate(axes.tolist()):
        full[axis % rank] = amounts[position]
        full[axis % rank + rank] = amounts[position + len(axes)]
    return full


def _resize(node: Node, ctx: Interpreter) -> Sequence[Fact]:
    data = ctx.input(node, 0)
    if data.shape is None or "axes" in node.attrs or ctx.opset < 11 or data.static is not None:
        return []
    sizes = ctx.input(node, 3).value
    if sizes is not None:
        not_plain = attribute(node, "keep_aspect_ratio_policy", "stretch") not in ("stretch", b"stretch")
        return [] if not_plain else [Fact(data.dtype, tuple(sizes.tolist()))]
    scales = constant_value(node.inputs[2]) if len(node.inputs) > 2 and not node.inputs[2].is_empty() else None
    if scales is None or len(scales) != len(data.shape):
        return []
    whole = [float(s).is_integer() for s in scales]
    shape = (d * int(s) if w else ctx.fresh_extent() for d, s, w in zip(data.shape, scales, whole, strict=True))
    return [Fact(data.dtype, tuple(shape))]


SPATIAL_ROWS: dict[str, Row] = {
    "Conv": _conv,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "Pad": _pad,
    "Resize": _resize,
}
