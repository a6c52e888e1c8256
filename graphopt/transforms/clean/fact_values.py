"""Symbolic rows for arithmetic, comparisons, ranges and reductions, which carry integer values along."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
from onnx import TensorProto

from graphopt.ir import Array, Node
from graphopt.transforms.clean.facts import (
    INTEGER_TYPES,
    MAX_VALUES,
    Fact,
    Interpreter,
    Row,
    SymShape,
    attribute,
    object_array,
)
from graphopt.transforms.clean.symbols import (
    Expr,
    Extent,
    at_least,
    combine,
    exact_quotient,
    is_extent,
    is_positive,
    quotient,
)

LARGEST = 2**62
OTHER_REDUCTIONS = ("ReduceMean", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare")


def broadcast(shapes: Sequence[SymShape], ctx: Interpreter) -> SymShape:
    """The shape that several tensors have together."""
    rank = max((len(s) for s in shapes), default=0)
    padded = [(1,) * (rank - len(s)) + s for s in shapes]
    return tuple(_together(extents, ctx) for extents in zip(*padded, strict=True))


def _together(extents: Sequence[Extent], ctx: Interpreter) -> Extent:
    wide = list(dict.fromkeys(e for e in extents if e != 1))
    if len(wide) <= 1:
        return wide[0] if wide else 1
    return next((e for e in wide if isinstance(e, int)), None) or ctx.fresh_extent()


def elementwise(node: Node, ctx: Interpreter, result: int | None = None, skip: int = 0) -> Fact | None:
    """Shape and type of a broadcasting operator; None when an input is unknown."""
    facts = [ctx.fact(t) for t in node.inputs]
    shapes = [f.shape for f in facts if f.shape is not None]
    kind = facts[skip].dtype if result is None and len(facts) > skip else result
    if kind is None or len(shapes) < len(facts):
        return None
    return Fact(kind, broadcast(shapes, ctx))


def _arithmetic(compute: Callable[[Extent, Extent], Extent] | None) -> Row:
    def row(node: Node, ctx: Interpreter) -> Sequence[Fact]:
        if ctx.opset < 7:
            return []
        made = elementwise(node, ctx)
        if made is None or compute is None or made.dtype not in INTEGER_TYPES:
            return [] if made is None else [made]
        return [Fact(made.dtype, made.shape, _applied(compute, [ctx.fact(t).value for t in node.inputs]))]

    return row


def _comparison(compute: Callable[[Extent, Extent], Extent] | None) -> Row:
    def row(node: Node, ctx: Interpreter) -> Sequence[Fact]:
        if ctx.opset < 7:
            return []
        made = elementwise(node, ctx, TensorProto.BOOL)
        if made is None:
            return []
        values = None if compute is None else _applied(compute, [ctx.fact(t).value for t in node.inputs])
        return [Fact(made.dtype, made.shape, values)]

    return row


def _applied(compute: Callable[[Extent, Extent], Extent], values: Sequence[Array | None]) -> Array | None:
    """The function over broadcast values, from left to right; None when one is unknown or a result too large."""
    known = [v for v in values if v is not None]
    if len(known) < len(values) or not known:
        return None

    def pair(a: Array, b: Array) -> Array:
        parts = np.broadcast_arrays(a, b)
        pairs = zip(parts[0].flat, parts[1].flat, strict=True)
        return object_array([compute(x, y) for x, y in pairs], parts[0].shape)

    try:
        made = reduce(pair, known)
    except ZeroDivisionError:
        return None
    fits = made.size <= MAX_VALUES and not any(isinstance(v, int) and abs(v) > LARGEST for v in made.flat)
    return made if fits else None


def _divide(a: Extent, b: Extent) -> Extent:
    """Division of integers rounds towards 0."""
    if isinstance(a, int) and isinstance(b, int):
        return -(abs(a) // abs(b)) if (a < 0) != (b < 0) else abs(a) // abs(b)
    if b == 0:
        raise ZeroDivisionError
    exact = exact_quotient(a, b)
    if exact is not None:
        return exact
    return quotient(a, b) if is_extent(a) and is_positive(b) else combine("div", a, b)


def _modulo(a: Extent, b: Extent) -> Extent:
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    return 0 if exact_quotient(a, b) is not None else combine("mod", a, b)


def _smaller(a: Extent, b: Extent) -> Extent:
    if at_least(a, b):
        return b
    return a if at_least(b, a) else combine("min", a, b)


def _larger(a: Extent, b: Extent) -> Extent:
    if at_least(a, b):
        return a
    return b if at_least(b, a) else combine("max", a, b)


def _equal(a: Extent, b: Extent) -> Extent:
    difference = a - b
    if isinstance(difference, int):
        return int(difference == 0)
    return 0 if is_positive(difference) or is_positive(-difference) else combine("equal", a, b)


def _greater(a: Extent, b: Extent) -> Extent:
    if is_positive(a - b):
        return 1
    return 0 if at_least(b, a) else combine("greater", a, b)


def _at_least(a: Extent, b: Extent) -> Extent:
    if at_least(a, b):
        return 1
    return 0 if is_positive(b - a) else combine("at_least", a, b)


def _and(a: Extent, b: Extent) -> Extent:
    if a == 0 or b == 0:
        return 0
    return 1 if a == 1 and b == 1 else combine("and", a, b)


def _or(a: Extent, b: Extent) -> Extent:
    if a == 1 or b == 1:
        return 1
    return 0 if a == 0 and b == 0 else combine("or", a, b)


def _unary(compute: Callable[[Extent], Extent]) -> Row:
    def row(node: Node, ctx: Interpreter) -> Sequence[Fact]:
        data = ctx.input(node, 0)
        if data.shape is None or data.dtype is None:
            return []
        value = None
        if data.value is not None:
            value = object_array([compute(v) for v in data.value.flat], data.value.shape)
        return [Fact(data.dtype, data.shape, value)]

    return row


def _not(value: Extent) -> Extent:
    return combine("not", value) if isinstance(value, Expr) else int(not value)


def _absolute(value: Extent) -> Extent:
    if isinstance(value, int):
        return abs(value)
    return value if is_extent(value) else combine("abs", value)


def _range(node: Node, ctx: Interpreter) -> Sequence[Fact]:
    start, limit, step = (ctx.input(node, i) for i in range(3))
    kind = start.dtype
    if kind is None:
        return []
    if start.value is None or limit.value is None or step.value is None:
        return []
    first, last, by = (f.value.reshape(-1)[0] for f in (start, limit, step) if f.value is not None)
    if not isinstance(by, int) or by == 0:
        return [Fact(kind, (ctx.fresh_extent(),))]
    if isinstance(first, int) and isinstance(last, int):
        numbers = range(first, last, by)
        value = None
        if len(numbers) <= MAX_VALUES:
            value = object_array(numbers, (len(numbers),))
        return [Fact(kind, (len(numbers),), value)]
    span = last - first if by > 0 else first - last
    return [Fact(kind, (quotient(span, abs(by), round_up=True) if is_extent(span) else ctx.fresh_extent(),))]


def _reduction(compute: Callable[[Extent, Extent], Extent] | None, axes_input_since: int) -> Row:
    def row(node: Node, ctx: Interpreter) -> Sequence[Fact]:
        data = ctx.input(node, 0)
        if data.shape is None or data.dtype is None:
            return []
        axes = node.attrs.get("axes")
        if ctx.opset >= axes_input_since and len(node.inputs) > 1 and not node.inputs[1].is_empty():
            known = ctx.array(node, 1)
            if known is None:
                return []
            axes = known.reshape(-1).tolist()
        if not axes and attribute(node, "noop_with_empty_axes", 0):
            return [data]
        rank = len(data.shape)
        gone = {int(a) % rank for a in axes} if axes else set(range(rank))
        keep = attribute(node, "keepdims", 1)
        shape = tuple(1 if i in gone else d for i, d in enumerate(data.shape) if keep or i not in gone)
        value = None
        if compute is not None and data.value is not None and data.value.size and len(gone) == rank:
            value = object_array([reduce(compute, data.value.flat)], shape)
        return [Fact(data.dtype, shape, value)]

    return row


def _arg(node: Node, ctx: Interpreter) -> Sequence[Fact]:
    data = ctx.input(node, 0)
    if data.shape is None:
        return []
    axis, keep = attribute(node, "axis", 0) % max(1, len(data.shape)), attribute(node, "keepdims", 1)
    shape = tuple(1 if i == axis else d for i, d in enumerate(data.shape) if keep or i != axis)
    return [Fact(TensorProto.INT64, shape)]


def _rows() -> dict[str, Row]:
    arithmetic: dict[str, Callable[[Extent, Extent], Extent] | None] = {
        "Add": operator.add,
        "Sub": operator.sub,
        "Mul": operator.mul,
        "Div": _divide,
        "Min": _smaller,
        "Max": _larger,
        "Pow": None,
        "PRelu": None,
        "BitShift": None,
        "Sum": None,
        "Mean": None,
    }
    comparisons: dict[str, Callable[[Extent, Extent], Extent] | None] = {
        "Equal": _equal,
        "Greater": _greater,
        "Less": lambda a, b: _greater(b, a),
        "GreaterOrEqual": _at_least,
        "LessOrEqual": lambda a, b: _at_least(b, a),
        "And": _and,
        "Or": _or,
        "Xor": None,
    }
    reductions: dict[str, tuple[Callable[[Extent, Extent], Extent] | None, int]] = {
        "ReduceSum": (operator.add, 13),
        "ReduceProd": (operator.mul, 18),
        "ReduceMax": (_larger, 18),
        "ReduceMin": (_smaller, 18),
        **dict.fromkeys(OTHER_REDUCTIONS, (None, 18)),
    }
    rows: dict[str, Row] = {op: _arithmetic(f) for op, f in arithmetic.items()}
    rows.update({op: _comparison(f) for op, f in comparisons.items()})
    rows.update({op: _reduction(f, since) for op, (f, since) in reductions.items()})
    rows.update({"Neg": _unary(operator.neg), "Not": _unary(_not), "Abs": _unary(_absolute)})
    rows.update({"Range": _range, "ArgMax": _arg, "ArgMin": _arg, "Mod": _mod})
    return rows


def _mod(node: Node, ctx: Interpreter) -> Sequence[Fact]:
    return _arithmetic(None if attribute(node, "fmod", 0) else _modulo)(node, ctx)


VALUE_ROWS = _rows()
