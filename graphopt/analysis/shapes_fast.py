"""Output types of the frequent operators, without a round trip through protobuf.

Each function gets (dtype, shape) pairs and answers the same for the outputs, or None when ONNX's own inference shall
decide. Nothing here is needed for correctness; it makes graphs of thousands of nodes quick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from graphopt.analysis.opnames import ops
from graphopt.ir import Array, Node

Shape: TypeAlias = "tuple[int, ...] | None"
Typed: TypeAlias = "tuple[np.dtype[Any] | None, Shape]"
ValueOf: TypeAlias = "Callable[[int], Array | None]"

UNARY = frozenset(
    ops(
        "Relu LeakyRelu Elu Selu Celu Gelu Sigmoid Tanh HardSwish HardSigmoid Clip Erf Sqrt Neg Identity Abs "
        "Exp Log Softplus Softsign Sin Cos Tan Floor Ceil Round Reciprocal Sign Mish ThresholdedRelu Not "
        "Softmax LogSoftmax Hardmax LpNormalization LRN MeanVarianceNormalization InstanceNormalization "
        "GroupNormalization RMSNormalization CumSum Trilu Shrink Swish BitwiseNot Asin Acos Atan Sinh Cosh "
        "Asinh Acosh Atanh ScatterND ScatterElements RotaryEmbedding"
    )
)
ARITHMETIC = frozenset(ops("Add Sub Mul Div Pow Min Max Sum Mean And Or Xor PRelu Mod BitwiseAnd BitwiseOr BitShift"))
COMPARISON = frozenset(ops("Equal Greater Less GreaterOrEqual LessOrEqual"))


def shape_value(node: Node, shape: tuple[int, ...]) -> Array:
    """The value of a ``Shape`` or ``Size`` node."""
    if node.op == "Size":
        return np.array(np.prod(shape, dtype=np.int64), np.int64)
    return np.array(shape[slice(node.attrs.get("start", 0), node.attrs.get("end"))], np.int64)


def infer(node: Node, given: Sequence[Typed], value: ValueOf, guessed: set[int]) -> list[Typed] | None:
    """Types of the outputs of ``node``, or None when there is no fast path for it."""
    if node.domain == "ai.onnx.ml":
        from graphopt.analysis.shapes_ml import infer_ml

        return infer_ml(node, given, value)
    if node.domain:
        from graphopt.analysis.shapes_contrib import infer_contrib

        return infer_contrib(node, given, value)
    if node.op in UNARY:
        return [given[0]] if given[0][1] is not None and len(node.outputs) == 1 else None
    if node.op in ARITHMETIC or node.op in COMPARISON or node.op == "Where":
        return _elementwise(node, given, guessed)
    row = _ROWS.get(node.op)
    return None if row is None or given[0][1] is None else row(node, given, value)


def _elementwise(node: Node, given: Sequence[Typed], guessed: set[int]) -> list[Typed] | None:
    shape = broadcast([s for _, s in given], guessed)
    if shape is None:
        return None
    if node.op in COMPARISON:
        return [(np.dtype(bool), shape)]
    return [(given[1 if node.op == "Where" else 0][0], shape)]


def broadcast(shapes: Sequence[Shape], guessed: set[int]) -> Shape:
    """The broadcast shape; an extent that only the data decides gives way to a known one. None if it cannot be."""
    known = [s for s in shapes if s is not None]
    if len(known) < len(shapes):
        return None
    rank = max((len(s) for s in known), default=0)
    out: list[int] = []
    for axis in range(-rank, 0):
        extents = {s[axis] for s in known if len(s) >= -axis} - {1}
        if len(extents) > 1:
            extents -= guessed
        if len(extents) > 1:
            return None
        out.append(extents.pop() if extents else 1)
    return tuple(out)


def _reshape(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    dtype, shape = given[0]
    wanted = value(1)
    if wanted is None or shape is None:
        return None
    out = [int(e) for e in wanted]
    if not node.attrs.get("allowzero", 0):
        out = [shape[i] if e == 0 and i < len(shape) else e for i, e in enumerate(out)]
    total = int(np.prod(shape, dtype=np.int64))
    if -1 in out:
        rest = int(np.prod([e for e in out if e != -1], dtype=np.int64))
        if rest == 0 or total % rest:
            return None
        out[out.index(-1)] = total // rest
    return [(dtype, tuple(out))] if int(np.prod(out, dtype=np.int64)) == total else None


def _transpose(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    dtype, shape = given[0]
    assert shape is not None
    perm = node.attrs.get("perm") or list(reversed(range(len(shape))))
    return [(dtype, tuple(shape[p] for p in perm))]


def _matmul(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    (dtype, a), (_, b) = given[0], given[1]
    if a is None or b is None or len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
        return None
    batch = broadcast([a[:-2], b[:-2]], set())
    return None if batch is None else [(dtype, (*batch, a[-2], b[-1]))]


def _gemm(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    (dtype, a), (_, b) = given[0], given[1]
    if a is None or b is None or len(a) != 2 or len(b) != 2:
        return None
    return [(dtype, (a[1] if node.attrs.get("transA") else a[0], b[0] if node.attrs.get("transB") else b[1]))]


def _concat(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    shapes = [s for _, s in given]
    if any(s is None for s in shapes):
        return None
    first = shapes[0]
    assert first is not None
    axis = node.attrs["axis"] % len(first)
    out = list(first)
    out[axis] = sum(s[axis] for s in shapes if s is not None)
    return [(given[0][0], tuple(out))]


def _unsqueeze(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    dtype, shape = given[0]
    axes = node.attrs.get("axes") if len(given) < 2 else value(1)
    if axes is None or shape is None:
        return None
    axes = np.atleast_1d(np.asarray(axes, np.int64))
    rank = len(shape) + len(axes)
    places = {int(a) % rank for a in axes}
    rest = iter(shape)
    return [(dtype, tuple(1 if i in places else next(rest) for i in range(rank)))]


def _squeeze(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    dtype, shape = given[0]
    assert shape is not None
    axes = node.attrs.get("axes") if len(given) < 2 else value(1)
    if axes is None:
        return [(dtype, tuple(e for e in shape if e != 1))] if len(given) < 2 else None
    places = {int(a) % len(shape) for a in np.atleast_1d(np.asarray(axes, np.int64))}
    return [(dtype, tuple(e for i, e in enumerate(shape) if i not in places))]


def _gather(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    (dtype, shape), (_, indices) = given[0], given[1]
    if shape is None or indices is None:
        return None
    axis = node.attrs.get("axis", 0) % len(shape)
    return [(dtype, (*shape[:axis], *indices, *shape[axis + 1 :]))]


def _layer_norm(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    return [given[0]] if sum(not t.is_empty() for t in node.outputs) == 1 else None


def _cast(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    from onnx.helper import tensor_dtype_to_np_dtype

    return [(np.dtype(tensor_dtype_to_np_dtype(node.attrs["to"])), given[0][1])]


def _cast_like(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    return [(given[1][0], given[0][1])]


def _dropout(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    return [given[0], (np.dtype(bool), given[0][1])][: len(node.outputs)]


_ROWS: Mapping[str, Callable[[Node, Sequence[Typed], ValueOf], list[Typed] | None]] = {
    "Reshape": _reshape,
    "Transpose": _transpose,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Gather": _gather,
    "LayerNormalization": _layer_norm,
    "SimplifiedLayerNormalization": _layer_norm,
    "BatchNormalization": _layer_norm,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Dropout": _dropout,
}
