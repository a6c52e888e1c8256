"""Remove nodes that change nothing."""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from graphopt.ir import Node, Tensor, constant_value, is_constant
from graphopt.pipeline.cleaning import CleaningPass
from graphopt.transforms.clean.editing import Editor, Rewrite
from graphopt.transforms.clean.fact_slices import slice_bounds, slice_spec
from graphopt.transforms.clean.fact_spatial import pad_amounts
from graphopt.transforms.clean.facts import attribute

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})


def _drop(node: Node, editor: Editor, source: Tensor | None = None) -> bool:
    """Replace the node's first output by its input."""
    source = node.inputs[0] if source is None else source
    output = node.outputs[0]
    if not output.outputs and not editor.is_end(output):
        return False
    if editor.is_end(output) and not editor._can_take_over(output, source):
        return False
    return editor.allow(node) and editor.replace(output, source)


def _same_shape(node: Node, editor: Editor, source: int = 0) -> bool:
    before, after = editor.fact(node.inputs[source]), editor.fact(node.outputs[0])
    return before.shape is not None and before.shape == after.shape


def _identity(node: Node, editor: Editor) -> bool:
    return _drop(node, editor)


def _dropout(node: Node, editor: Editor) -> bool:
    if len(node.outputs) > 1 and (node.outputs[1].outputs or editor.is_end(node.outputs[1])):
        return False
    if editor.opset < 7 and not attribute(node, "is_test", 0):
        return False
    if editor.has_input(node, 2):
        training = editor.constant(node, 2)
        if training is None or bool(training):
            return False
    return _drop(node, editor)


def _cast(node: Node, editor: Editor) -> bool:
    return editor.fact(node.inputs[0]).dtype == int(node.attrs["to"]) and _drop(node, editor)


def _cast_like(node: Node, editor: Editor) -> bool:
    kinds = [editor.fact(t).dtype for t in node.inputs]
    return kinds[0] is not None and kinds[0] == kinds[1] and _drop(node, editor)


def _view(node: Node, editor: Editor) -> bool:
    """Reshape, Flatten, Squeeze, Unsqueeze, Expand and Tile to the same shape."""
    return _same_shape(node, editor) and _drop(node, editor)


def _transpose(node: Node, editor: Editor) -> bool:
    rank = editor.fact(node.inputs[0]).rank
    if rank is None:
        return False
    perm = attribute(node, "perm", list(range(rank))[::-1])
    return list(perm) == list(range(rank)) and _drop(node, editor)


def _pad(node: Node, editor: Editor) -> bool:
    amounts = pad_amounts(node, editor.facts)
    return amounts is not None and not any(a != 0 for a in amounts) and _drop(node, editor)


def _slice(node: Node, editor: Editor) -> bool:
    shape = editor.fact(node.inputs[0]).shape
    spec = None if shape is None else slice_spec(node, editor.facts, len(shape))
    if shape is None or spec is None:
        return False
    for axis, start, end, step in spec:
        if step != 1 or slice_bounds(shape[axis], start, end, step) != (0, shape[axis]):
            return False
    return _drop(node, editor)


def _one_input(node: Node, editor: Editor) -> bool:
    return len(node.inputs) == 1 and _drop(node, editor)


def _concat(node: Node, editor: Editor) -> bool:
    """Concat of one tensor, or of one tensor and empty ones."""
    axis = attribute(node, "axis", 1)
    filled = []
    for tensor in node.inputs:
        shape = editor.fact(tensor).shape
        if shape is None or shape[axis] != 0:
            filled.append(tensor)
    return len(filled) == 1 and _same_rank(node, editor, filled[0]) and _drop(node, editor, filled[0])


def _same_rank(node: Node, editor: Editor, tensor: Tensor) -> bool:
    return len(node.inputs) == 1 or editor.fact(tensor).shape == editor.fact(node.outputs[0]).shape


def _resize(node: Node, editor: Editor) -> bool:
    mode = attribute(node, "coordinate_transformation_mode", "half_pixel")
    plain = mode not in ("tf_crop_and_resize", b"tf_crop_and_resize")
    scales = editor.constant(node, 1 if node.op == "Upsample" or editor.opset < 11 else 2)
    if scales is not None and scales.size and not np.all(scales == 1):
        return False
    return plain and _same_shape(node, editor) and _drop(node, editor)


def _split(node: Node, editor: Editor) -> bool:
    return len(node.outputs) == 1 and _same_shape(node, editor) and _drop(node, editor)


def _reduce(node: Node, editor: Editor) -> bool:
    """Mean, sum, product, maximum or minimum over axes of extent 1, rank kept."""
    if not _same_shape(node, editor):
        return False
    data, axes = editor.fact(node.inputs[0]), node.attrs.get("axes")
    if editor.has_input(node, 1):
        axes = editor.ints(node, 1)
        if axes is None:
            return False
    if not axes and attribute(node, "noop_with_empty_axes", 0):
        return _drop(node, editor)
    assert data.shape is not None
    chosen = [data.shape[a] for a in axes] if axes else data.shape
    return all(d == 1 for d in chosen) and _drop(node, editor)


def _pool(node: Node, editor: Editor) -> bool:
    """Pooling with a window of one element and stride 1, or global pooling of one element."""
    if len(node.outputs) > 1 and (node.outputs[1].outputs or editor.is_end(node.outputs[1])):
        return False
    shape = editor.fact(node.inputs[0]).shape
    if node.op.startswith("Global"):
        return shape is not None and all(d == 1 for d in shape[2:]) and _drop(node, editor)
    ones = [*node.attrs["kernel_shape"], *attribute(node, "strides", [])]
    return all(k == 1 for k in ones) and not any(attribute(node, "pads", [0])) and _drop(node, editor)


def _uniform(node: Node, editor: Editor, index: int) -> float | None:
    """The one value that all elements of a constant input have; zeros only with a plus sign count."""
    value = editor.constant(node, index)
    if value is None or value.size == 0 or value.dtype == object or value.dtype.kind == "c":
        return None
    first = value.reshape(-1)[0]
    if not np.all(value == first):
        return None
    return float(first)


def _neutral(node: Node, editor: Editor, index: int, neutral: float) -> bool:
    other = 1 - index
    if _uniform(node, editor, index) != neutral or not _same_shape(node, editor, other):
        return False
    return _drop(node, editor, node.inputs[other])


def _times_one(node: Node, editor: Editor) -> bool:
    if editor.opset < 7 or len(node.inputs) != 2:
        return False
    return _neutral(node, editor, 1, 1.0) or (node.op == "Mul" and _neutral(node, editor, 0, 1.0))


def _plus_zero(node: Node, editor: Editor) -> bool:
    if editor.opset < 7 or editor.fact(node.outputs[0]).dtype not in FLOATS:
        return False
    return _neutral(node, editor, 1, 0.0) or (node.op == "Add" and _neutral(node, editor, 0, 0.0))


def _plus_integer_zero(node: Node, editor: Editor) -> bool:
    """x + 0 for integers; x - 0 and x + -0.0 for all."""
    if editor.opset < 7:
        return False
    if editor.fact(node.outputs[0]).dtype in FLOATS:
        return node.op == "Sub" and _signed(node, editor, 1, 1) and _neutral(node, editor, 1, 0.0)
    return _neutral(node, editor, 1, 0.0) or (node.op == "Add" and _neutral(node, editor, 0, 0.0))


def _signed(node: Node, editor: Editor, index: int, sign: int) -> bool:
    """Whether all elements of a constant have the sign; x - (+0) is x even for x = -0."""
    value = editor.constant(node, index)
    return value is not None and bool(np.all(np.copysign(1, value.astype(np.float64)) == sign))


def _power_one(node: Node, editor: Editor) -> bool:
    if editor.fact(node.inputs[0]).dtype != editor.fact(node.outputs[0]).dtype:
        return False
    return _neutral(node, editor, 1, 1.0)


def _logic(node: Node, editor: Editor) -> bool:
    neutral = 1.0 if node.op == "And" else 0.0
    return _neutral(node, editor, 1, neutral) or _neutral(node, editor, 0, neutral)


def _where(node: Node, editor: Editor) -> bool:
    """Where with a condition that is true, or false, everywhere; or with two times the same tensor."""
    condition = _uniform(node, editor, 0)
    if condition is None:
        value = editor.fact(node.inputs[0]).numbers()
        condition = None if value is None or len(set(value.flat)) != 1 else float(next(iter(value.flat)))
    if condition is None and node.inputs[1] is not node.inputs[2]:
        return False
    index = 1 if condition is None or condition else 2
    return _same_shape(node, editor, index) and _drop(node, editor, node.inputs[index])


def _clip(node: Node, editor: Editor) -> bool:
    """Clip to infinite bounds. NaN passes a Clip unchanged."""
    if editor.opset < 11:
        low, high = attribute(node, "min", -math.inf), attribute(node, "max", math.inf)
        return low == -math.inf and high == math.inf and _drop(node, editor)
    bounds = [editor.constant(node, i) if editor.has_input(node, i) else None for i in (1, 2)]
    if any(b is None and editor.has_input(node, i) for i, b in zip((1, 2), bounds, strict=True)):
        return False
    low, high = (float(b) if b is not None else None for b in bounds)
    return low in (None, -math.inf) and high in (None, math.inf) and _drop(node, editor)


def _softmax_of_one(node: Node, editor: Editor) -> bool:
    """MatMul(Softmax over one element, v) -> v: the softmax of a finite number alone is 1."""
    softmax = editor.producer(node.inputs[0], node, "Softmax")
    weights = editor.fact(node.inputs[0]).shape
    if softmax is None or editor.opset < 13 or not weights or weights[-1] != 1:
        return False
    if attribute(softmax, "axis", -1) not in (-1, len(weights) - 1):
        return False
    return _same_shape(node, editor, 1) and _drop(node, editor, node.inputs[1])


def _zero_state(node: Node, editor: Editor) -> bool:
    """LSTM, GRU or RNN with initial states of zeros -> without; zeros are what they start from anyway."""
    changed = False
    for index in (5, 6) if node.op == "LSTM" else (5,):
        if editor.has_input(node, index) and _is_zero(node.inputs[index], editor) and editor.allow(node):
            editor.set_input(node, index, None)
            changed = True
    return changed


def _is_zero(tensor: Tensor, editor: Editor) -> bool:
    """Whether all elements are +0: a constant, or moved about from a ConstantOfShape of zeros."""
    while tensor.inputs and tensor.inputs[0].op in (*MOVES, "ConstantOfShape") and not tensor.inputs[0].domain:
        maker = tensor.inputs[0]
        if maker.op == "ConstantOfShape":
            fill = maker.attrs.get("value")
            return fill is None or not np.any(np.asarray(getattr(fill, "values", fill)).view(np.uint8))
        tensor = maker.inputs[0]
    value = constant_value(tensor) if is_constant(tensor) else None
    return value is not None and value.dtype != object and not np.any(np.ascontiguousarray(value).view(np.uint8))


MOVES = (
    "Slice",
    "Expand",
    "Reshape",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Gather",
    "Split",
    "Identity",
    "Flatten",
    "Tile",
)

REWRITES = (
    Rewrite("identity", ("Identity",), _identity),
    Rewrite("dropout", ("Dropout",), _dropout),
    Rewrite("cast", ("Cast",), _cast),
    Rewrite("cast_like", ("CastLike",), _cast_like),
    Rewrite("view", ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile"), _view),
    Rewrite("transpose", ("Transpose",), _transpose),
    Rewrite("pad", ("Pad",), _pad),
    Rewrite("slice", ("Slice",), _slice),
    Rewrite("concat", ("Concat",), _concat),
    Rewrite("one_input", ("Sum", "Mean", "Max", "Min"), _one_input),
    Rewrite("resize", ("Resize", "Upsample"), _resize),
    Rewrite("split", ("Split",), _split),
    Rewrite("reduce", ("ReduceMax", "ReduceMin"), _reduce),
    Rewrite("reduce_sum", ("ReduceMean", "ReduceSum", "ReduceProd"), _reduce, "equivalent"),
    Rewrite("pool", ("MaxPool", "GlobalMaxPool"), _pool),
    Rewrite("pool_average", ("AveragePool", "GlobalAveragePool"), _pool, "equivalent"),
    Rewrite("times_one", ("Mul", "Div"), _times_one),
    Rewrite("plus_integer_zero", ("Add", "Sub"), _plus_integer_zero),
    Rewrite("plus_zero", ("Add", "Sub"), _plus_zero, "equivalent"),
    Rewrite("power_one", ("Pow",), _power_one),
    Rewrite("logic", ("And", "Or"), _logic),
    Rewrite("where", ("Where",), _where),
    Rewrite("softmax_of_one", ("MatMul",), _softmax_of_one, "equivalent"),
    Rewrite("zero_state", ("LSTM", "GRU", "RNN"), _zero_state),
    Rewrite("clip", ("Clip",), _clip),
)


class EliminateIdentity(CleaningPass):
    """Removes operators whose output is their input.

    Identity, Dropout at inference, Cast to the same type, and Reshape, Transpose, Pad, Slice, Expand, Tile, Resize,
    reductions, pooling and concatenations that leave every element where it is, multiplication by 1, and (not
    ``exact``, since -0 + 0 = 0) addition of 0.
    """

    rewrites = REWRITES
