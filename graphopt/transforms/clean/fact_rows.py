"""Symbolic rows, one function an operator: what a node's outputs are, given what is known of its inputs.

A row returns the facts of the outputs, or nothing to fall back to ONNX's own inference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto

from graphopt.ir import Array, Node, constant_value
from graphopt.transforms.clean.fact_slices import SLICE_ROWS
from graphopt.transforms.clean.fact_spatial import SPATIAL_ROWS
from graphopt.transforms.clean.fact_values import VALUE_ROWS, broadcast, elementwise
from graphopt.transforms.clean.facts import (
    INTEGER_TYPES,
    MAX_VALUES,
    NOTHING,
    Fact,
    Interpreter,
    Row,
    SymShape,
    as_extents,
    attribute,
    object_array,
)
from graphopt.transforms.clean.symbols import Expr, Extent, at_least, combine, exact_quotient, product

UNARY = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Elu"),
    *("Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Hardmax", "Identity", "LeakyRelu", "Log"),
    *("LogSoftmax", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin"),
    *("Sinh", "Softmax", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu"),
    *("LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization"),
    *("LpNormalization", "LRN", "CumSum", "Trilu"),
)


def _same(node: Node, ctx: Interpreter) -> Sequence[Fact]:
    first = ctx.input(node, 0)
    if first.dtype is None or first.shape is None or len(node.outputs) > 1:
        return []
    return [first if node.op == "Identity" else Fact(first.dtype, first.shape)]


def _shape(node: Node, ctx: Interpreter) -> Sequence[Fact]:
    shape = ctx.input(node, 0).shape
    if shape is None:
        return []
    start, end = attribute(node, "start", 0), attribute(node, "end", len(shape))
    chosen = shape[slice(start, end)]
    return [Fact(TensorProto.INT64, (len(chosen),), _vector(chosen))]


def _size(node: Node, ctx: Interpreter) -> Sequence[Fact]:
    shape = ctx.input(node, 0).shape
    return [] if shape is None else [Fact(TensorProto.INT64, (), _vector([product(shape)]).reshape(()))]


def _constant(node: Node, ctx: Interpreter) -> Sequence[Fact]:
    values = constant_value(node.outputs[0])
    if values is None:
        return []
    kind = TensorProto.STRING if values.dtype == object else onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
    small = kind in INTEGER_TYPES and values.size <= MAX_VALUES
    return [Fact(int(kind), values.shape, as_extents(values) if small else None)]


def _constant_of_shape(node: Node, ctx: Interpreter) -> Sequence[Fact]:
    fill = node.attrs.get("value")
    fill = np.zeros(1, np.float32) if fill is None else np.asarray(getattr(fill, "values", fill))
    kind = int(onnx.helper.np_dtype_to_tensor_dtype(fill.dtype))
    shape = _target(node, ctx, 0)
    if shape is None:
        return []
    return [Fact(kind, shape, _filled(shape, fill.reshape(-1)[0].item() if kind in INTEGER_TYPES else None))]


def _target(node: Node, ctx: Interpreter, index: int) -> SymShape | None:
    """A shape given as an input: its extents, or as many unknown ones."""
    fact = ctx.input(node, index)
    if fact.value is not None:
        return tuple(fact.value.reshape(-1).tolist())
    if fact.shape is not None and len(fact.shape) == 1 and isinstance(fact.shape[0], int):
        return tuple(ctx.fresh_extent() for _ in range(fact.shape[0]))
    return None


def _filled(shape: SymShape, value: int | None) -> Array | None:
    if value is None or any(isinstance(d, Expr) for d in shape) or product(shape) > MAX_VALUES:  # type: ignore[operator]
        return None
    extents = [d for d in shape if isinstance(d, int)]
    return object_array([int(value)] * math.prod(extents), extents)


def _vector(extents: Sequence[Extent]) -> Array:
    return object_array(extents, (len(extents),))


def _cast(node: Node, ctx: Interpreter) -> Sequence[Fact]:
    source, kind = ctx.input(node, 0), int(node.attrs["to"])
    if source.shape is None:
        return []
    value = source.value if kind in (TensorProto.INT64, TensorProto.INT32) else None
    return [Fact(kind, source.shape, value)]


def _reshape(node: Node, ctx: Interpreter) -> Sequence[Fact]:
    data, target = ctx.input(node, 0), ctx.input(node, 1)
    if ctx.opset < 5 or data.dtype is None:
        return []
    wanted = target.value
    if wanted is None:
        length = None if target.shape is None or len(target.shape) != 1 else target.shape[0]
        if not isinstance(length, int):
            return [Fact(data.dtype)]
        return [Fact(data.dtype, tuple(ctx.fresh_extent() for _ in range(length)))]
    shape = resolve_reshape(data.shape, wanted.tolist(), bool(attribute(node, "allowzero", 0)), ctx)
    value = data.value
    if value is not None:
        value = object_array(value.flat, shape) if all(isinstance(d, int) for d in shape) else None
    return [Fact(data.dtype, shape, value)]


def resolve_reshape(data: SymShape | None, wanted: Sequence[Extent], allow_zero: bool, ctx: Interpreter) -> SymShape:
    """The extents that a Reshape gives."""
    shape: list[Extent] = []
    missing = None
    for index, extent in enumerate(wanted):
        if extent == 0 and not allow_zero:
            known = data is not None and index < len(data)
            shape.append(data[index] if known and data is not None else ctx.fresh_extent())
        elif extent == -1:
            missing = index
            shape.append(1)
        elif isinstance(extent, Expr) and not at_least(extent, 0):
            shape.append(ctx.fresh_extent())
        else:
            shape.append(extent)
    if missing is not None:
        shape[missing] = _inferred(data, shape, ctx)
    return tuple(shape)


def _inferred(data: SymShape | None, others: Sequence[Extent], ctx: Interpreter) -> Extent:
    rest = product(others)
    if data is None or rest == 0:
        return ctx.fresh_extent()
    exact = exact_quotient(product(data), rest)
    return combine("floor", product(data), rest) if exact is None else exact


def _expand(node: Node, ctx: Interpreter) -> Sequence[Fact]:
    data, target = ctx.input(node, 0), _target(node, ctx, 1)
    if data.shape is None or target is None:
        return []
    shape = broadcast([data.shape, target], ctx)
    value = data.value
    if value is not None:
        fits = all(isinstance(d, int) for d in shape) and at_least(MAX_VALUES, product(shape))
        value = np.broadcast_to(value, shape).copy() if fits else None  # type: ignore[arg-type]
    return [Fact(data.dtype, shape, value)]


def _transpose(node: Node, ctx: Interpreter) -> Sequence[Fact]:
    data = ctx.input(node, 0)
    if data.shape is None or data.dtype is None:
        return []
    order = attribute(node, "perm", list(range(len(data.shape)))[::-1])
    value = None if data.value is None else data.value.transpose(order)
    return [Fact(data.dtype, tuple(data.shape[i] for i in order), value)]


def _axes(node: Node, ctx: Interpreter, since: int, rank: int) -> list[int] | None:
    """The axes of a node, an attribute before opset ``since`` and input 1 from then on; None when unknown."""
    if ctx.opset < since:
        axes = node.attrs.get("axes")
    elif len(node.inputs) < 2 or node.inputs[1].is_empty():
        axes = None
    else:
        known = ctx.array(node, 1)
        if known is None:
            raise LookupError
        axes = known.reshape(-1).tolist()
    return None if axes is None else sorted(int(a) % rank for a in axes)


def _unsqueeze(node: Node, ctx: Interpreter) -> Sequence[Fact]:
    data = ctx.input(node, 0)
    count = ctx.array(node, 1) if ctx.opset >= 13 else node.attrs.get("axes")
    if data.shape is None or count is None:
        return []
    rank = len(data.shape) + len(np.asarray(count).reshape(-1))
    axes = _axes(node, ctx, 13, rank) or []
    rest = iter(data.shape)
    shape = tuple(1 if i in axes else next(rest) for i in range(rank))
    value = None if data.value is None else object_array(data.value.flat, shape)
    return [Fact(data.dtype, shape, value)]


def _squeeze(node: Node, ctx: Interpreter) -> Sequence[Fact]:
    data = ctx.input(node, 0)
    if data.shape is None:
        return []
    try:
        axes = _axes(node, ctx, 13, len(data.shape))
    except LookupError:
        return []
    if axes is not None and not axes:
        return [Fact(data.dtype)]
    if axes is None:
        if data.static is None:
            return []
        axes = [i for i, d in enumerate(data.shape) if d == 1]
    shape = tuple(d for i, d in enumerate(data.shape) if i not in axes)
    value = None if data.value is None else object_array(data.value.flat, shape)
    return [Fact(data.dtype, shape, value)]


def _concat(node: Node, ctx: Interpreter) -> Sequence[Fact]:
    facts = [ctx.fact(t) for t in node.inputs]
    shapes = [f.shape for f in facts if f.shape is not None]
    if len(shapes) < len(facts) or facts[0].dtype is None:
        return []
    axis = attribute(node, "axis", 1) % len(shapes[0])
    total: Extent = 0
    for shape in shapes:
        total = total + shape[axis]
    merged = [_agreed([s[i] for s in shapes]) for i in range(len(shapes[0]))]
    values = [f.value for f in facts if f.value is not None]
    value = np.concatenate(values, axis) if len(values) == len(facts) else None
    if value is not None and value.size > MAX_VALUES:
        value = None
    return [Fact(facts[0].dtype, (*merged[:axis], total, *merged[axis + 1 :]), value)]


def _agreed(extents: Sequence[Extent]) -> Extent:
    """One of several extents that must be equal: a number if there is one."""
    return next((e for e in extents if isinstance(e, int)), extents[0])


def _split(node: Node, ctx: Interpreter) -> Sequence[Fact]:
    data = ctx.input(node, 0)
    if data.shape is None:
        return []
    axis = attribute(node, "axis", 0) % len(data.shape)
    sizes = _split_sizes(node, ctx, data.shape[axis])
    if sizes is None or len(sizes) != len(node.outputs):
        return []
    made, start = [], 0
    for size in sizes:
        shape = (*data.shape[:axis], size, *data.shape[axis + 1 :])
        value = None
        if data.value is not None and isinstance(size, int):
            value = data.value.take(range(start, start + size), axis)
            start += size
        made.append(Fact(data.dtype, shape, value))
    return made


def _split_sizes(node: Node, ctx: Interpreter, extent: Extent) -> list[Extent] | None:
    given = node.attrs.get("split") if ctx.opset < 13 else ctx.array(node, 1)
    if given is not None:
        return [int(s) for s in given]
    if ctx.opset >= 13 and len(node.inputs) > 1 and not node.inputs[1].is_empty():
        return None
    count = len(node.outputs)
    if not isinstance(extent, int):
        each = exact_quotient(extent, count)
        return None if each is None else [each] * count
    size = -(-extent // count)
    return [*[size] * (count - 1), extent - size * (count - 1)]


def _gather(node: Node, ctx: Interpreter) -> Sequence[Fact]:
    data, index = ctx.input(node, 0), ctx.input(node, 1)
    if data.shape is None or index.shape is None or not data.shape:
        return []
    axis = attribute(node, "axis", 0) % len(data.shape)
    shape = (*data.shape[:axis], *index.shape, *data.shape[axis + 1 :])
    chosen = ctx.array(node, 1)
    value = None
    if data.value is not None and chosen is not None and chosen.size <= MAX_VALUES:
        value = np.asarray(_taken(data.value, chosen, axis))
    return [Fact(data.dtype, shape, value)]


def _taken(values: Array, index: Array, axis: int) -> Array | None:
    extent = values.shape[axis]
    if index.size and (index.max() >= extent or index.min() < -extent):
        return None
    made = np.empty((*values.shape[:axis], *index.shape, *values.shape[axis + 1 :]), object)
    made[...] = values.take(index, axis)
    return made if made.size <= MAX_VALUES else None


def _tile(node: Node, ctx: Interpreter) -> Sequence[Fact]:
    data, repeats = ctx.input(node, 0), ctx.input(node, 1).value
    if data.shape is None or repeats is None:
        return []
    return [Fact(data.dtype, tuple(d * r for d, r in zip(data.shape, repeats.tolist(), strict=True)))]


def _where(node: Node, ctx: Interpreter) -> Sequence[Fact]:
    made = elementwise(node, ctx, skip=1)
    if made is None:
        return []
    condition, yes, no = (ctx.input(node, i).value for i in range(3))
    if condition is None or yes is None or no is None:
        return [made]
    parts = np.broadcast_arrays(condition, yes, no)
    triples = zip(*(p.flat for p in parts), strict=True)
    value = object_array([_chosen(c, a, b) for c, a, b in triples], parts[0].shape)
    return [Fact(made.dtype, made.shape, value)]


def _chosen(condition: Extent, yes: Extent, no: Extent) -> Extent:
    if isinstance(condition, Expr):
        return yes if yes == no else combine("where", condition, yes, no)
    return yes if condition else no


def _matmul(node: Node, ctx: Interpreter) -> Sequence[Fact]:
    a, b = ctx.input(node, 0), ctx.input(node, 1)
    if a.shape is None or b.shape is None or len(a.shape) < 2 or len(b.shape) < 2:
        return []
    return [Fact(a.dtype, (*broadcast([a.shape[:-2], b.shape[:-2]], ctx), a.shape[-2], b.shape[-1]))]


def _flatten(node: Node, ctx: Interpreter) -> Sequence[Fact]:
    data = ctx.input(node, 0)
    if data.shape is None:
        return []
    axis = attribute(node, "axis", 1)
    axis = axis + len(data.shape) if axis < 0 else axis
    return [Fact(data.dtype, (product(data.shape[:axis]), product(data.shape[axis:])))]


def _branches(node: Node, ctx: Interpreter) -> Sequence[Fact]:
    facts = [[ctx.fact(t) for t in node.attrs[k].outputs] for k in ("then_branch", "else_branch")]
    return [_met(a, b, ctx) for a, b in zip(*facts, strict=True)]


def _met(a: Fact, b: Fact, ctx: Interpreter) -> Fact:
    if a.dtype is None or a.dtype != b.dtype or a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return NOTHING if a.dtype != b.dtype else Fact(a.dtype)
    shape = (x if x == y else ctx.fresh_extent() for x, y in zip(a.shape, b.shape, strict=True))
    return Fact(a.dtype, tuple(shape))


def _rows() -> dict[str, Row]:
    rows: dict[str, Row] = dict.fromkeys(UNARY, _same)
    named: dict[str, Callable[[Node, Interpreter], Sequence[Fact]]] = {
        "Shape": _shape,
        "Size": _size,
        "Constant": _constant,
        "ConstantOfShape": _constant_of_shape,
        "Cast": _cast,
        "Reshape": _reshape,
        "Expand": _expand,
        "Transpose": _transpose,
        "Unsqueeze": _unsqueeze,
        "Squeeze": _squeeze,
        "Concat": _concat,
        "Split": _split,
        "Gather": _gather,
        "Tile": _tile,
        "Where": _where,
        "MatMul": _matmul,
        "Flatten": _flatten,
        "If": _branches,
    }
    rows.update(named)
    rows.update(VALUE_ROWS)
    rows.update(SPATIAL_ROWS)
    rows.update(SLICE_ROWS)
    return rows


ROWS = _rows()
