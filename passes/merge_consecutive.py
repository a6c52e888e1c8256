"""Merge chains of data movement into one node."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from graphopt.ir import Node, Tensor
from graphopt.pipeline.cleaning import CleaningPass
from graphopt.transforms.clean.editing import Editor, Rewrite
from graphopt.transforms.clean.fact_slices import slice_spec
from graphopt.transforms.clean.fact_spatial import pad_amounts
from graphopt.transforms.clean.facts import INTEGER_RANGES, attribute
from graphopt.transforms.clean.symbols import Expr
from graphopt.transforms.clean.view_transpose import transposed_source
from graphopt.transforms.clean.views import VIEWS, can_reshape, constant_target, is_view, reshaped, view_producer

IDEMPOTENT = ("Abs", "Ceil", "Floor", "Relu", "Round", "Sign")
REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2")


def _views(node: Node, editor: Editor) -> bool:
    """A view of a view -> one Reshape of the source, or the source itself."""
    if not is_view(node, editor):
        return False
    first = view_producer(node.inputs[0], node, editor, private=False)
    shape = editor.fact(node.outputs[0]).shape
    if first is None or shape is None:
        return False
    source = first.inputs[0]
    if editor.fact(source).shape == shape:
        return _take(node, source, editor)
    alone = editor.private_producer(node.inputs[0], node) is first
    if not alone or not can_reshape(source, shape, editor) or not editor.allow(node):
        return False
    made = reshaped(source, shape, node, editor)
    return made is not None and editor.replace(node.outputs[0], made)


def _take(node: Node, source: Tensor, editor: Editor) -> bool:
    output = node.outputs[0]
    if editor.is_end(output) and not editor._can_take_over(output, source):
        return False
    return editor.allow(node) and editor.replace(output, source)


def _perm(node: Node, editor: Editor) -> list[int] | None:
    rank = editor.fact(node.inputs[0]).rank
    perm = attribute(node, "perm")
    if perm is None:
        return None if rank is None else list(range(rank))[::-1]
    return [int(p) for p in perm]


def _transposes(node: Node, editor: Editor) -> bool:
    """Transpose(Transpose(x)) -> Transpose(x), or x."""
    first = editor.producer(node.inputs[0], node, "Transpose")
    if first is None:
        return False
    inner, outer = _perm(first, editor), _perm(node, editor)
    if inner is None or outer is None:
        return False
    perm = [inner[p] for p in outer]
    if perm == list(range(len(perm))):
        return _take(node, first.inputs[0], editor)
    if editor.private_producer(node.inputs[0], node) is not first or not editor.allow(node):
        return False
    return editor.replace(node.outputs[0], editor.new("Transpose", [first.inputs[0]], node, {"perm": perm}))


def _transpose_between_views(node: Node, editor: Editor) -> bool:
    """View(Transpose(view that joins axes of x)) -> Transpose(x), or a view of it."""
    turn = editor.private_producer(node.inputs[0], node, "Transpose")
    first = None if turn is None else editor.producer(turn.inputs[0], turn, *VIEWS)
    if turn is None or first is None:
        return False
    source, joined = (editor.fact(t).shape for t in (first.inputs[0], first.outputs[0]))
    shape, perm = editor.fact(node.outputs[0]).shape, _perm(turn, editor)
    order = None if source is None or joined is None or perm is None else transposed_source(source, joined, perm)
    if source is None or shape is None or order is None:
        return False
    made = tuple(source[a] for a in order)
    alone = editor.only_user(turn.inputs[0]) is turn
    if made != shape and (not alone or constant_target(shape, made) is None):
        return False
    if not editor.allow(node):
        return False
    moved = editor.new("Transpose", [first.inputs[0]], turn, {"perm": order})
    result = reshaped(moved, shape, node, editor)
    return result is not None and editor.replace(node.outputs[0], result)


def _casts(node: Node, editor: Editor) -> bool:
    """Cast(Cast(x)) -> Cast(x) when the inner one loses nothing."""
    first = editor.producer(node.inputs[0], node, "Cast")
    if first is None:
        return False
    source, middle, last = editor.fact(first.inputs[0]).dtype, int(first.attrs["to"]), int(node.attrs["to"])
    if source is None or not _holds(source, middle):
        return False
    if source == last:
        return _take(node, first.inputs[0], editor)
    if not _holds(source, last) or not editor.allow(node):
        return False
    return editor.replace(node.outputs[0], editor.new("Cast", [first.inputs[0]], node, {"to": last}))


def _holds(narrow: int, wide: int) -> bool:
    """Whether every value of one type is a value of the other."""
    if narrow in INTEGER_RANGES and wide in INTEGER_RANGES:
        (a, b), (c, d) = INTEGER_RANGES[narrow], INTEGER_RANGES[wide]
        return c <= a and b <= d
    floats: list[int] = [TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE]
    if narrow in floats and wide in floats:
        return floats.index(narrow) <= floats.index(wide)
    exact: dict[int, int] = {TensorProto.FLOAT: 2**24, TensorProto.DOUBLE: 2**53, TensorProto.FLOAT16: 2**11}
    return narrow in INTEGER_RANGES and wide in exact and max(map(abs, INTEGER_RANGES[narrow])) <= exact[wide]


def _idempotent(node: Node, editor: Editor) -> bool:
    """f(f(x)) -> f(x)."""
    first = editor.producer(node.inputs[0], node, node.op)
    return first is not None and _take(node, node.inputs[0], editor)


def _involution(node: Node, editor: Editor) -> bool:
    """f(f(x)) -> x."""
    first = editor.producer(node.inputs[0], node, node.op)
    return first is not None and _take(node, first.inputs[0], editor)


def _slices(node: Node, editor: Editor) -> bool:
    """Slice(Slice(x)) on different axes -> one Slice, where nothing else than such Slices reads the inner one."""
    first = editor.producer(node.inputs[0], node, "Slice")
    if first is None or editor.opset < 10 or editor.is_end(first.outputs[0]) or not editor.is_live(first):
        return False
    readers = list(dict.fromkeys(first.outputs[0].outputs))
    merged = [_both(first, reader, editor) for reader in readers]
    if any(m is None or editor.owner(r) is not editor.owner(first) for m, r in zip(merged, readers, strict=True)):
        return False
    if not editor.allow(node):
        return False
    for reader, columns in zip(readers, merged, strict=True):
        inputs = [editor.const(reader, np.array(c, np.int64)) for c in columns or ()]
        editor.replace(reader.outputs[0], editor.new("Slice", [first.inputs[0], *inputs], reader))
    return True


def _both(first: Node, second: Node, editor: Editor) -> list[list[Any]] | None:
    """Starts, ends, axes and steps of one Slice that does what two do; None when they share an axis."""
    rank = editor.fact(first.outputs[0]).rank
    if rank is None or not second.is_op("Slice") or second.inputs[0] is not first.outputs[0]:
        return None
    specs = [slice_spec(n, editor.facts, rank) for n in (first, second)]
    if specs[0] is None or specs[1] is None:
        return None
    parts = [*specs[0], *specs[1]]
    axes = [p[0] for p in parts]
    if len(set(axes)) < len(axes) or any(isinstance(b, Expr) for p in parts for b in p[1:3]):
        return None
    return [[p[i] for p in parts] for i in (1, 2, 0, 3)]


def _concats(node: Node, editor: Editor) -> bool:
    """Concat(Concat(a, b), c) on one axis -> Concat(a, b, c)."""
    rank = editor.fact(node.outputs[0]).rank
    if rank is None:
        return False
    axis = attribute(node, "axis", 1) % rank
    for index, tensor in enumerate(node.inputs):
        inner = editor.private_producer(tensor, node, "Concat")
        if inner is None or attribute(inner, "axis", 1) % rank != axis or not editor.allow(node):
            continue
        inputs = [*node.inputs[:index], *inner.inputs, *node.inputs[index + 1 :]]
        return editor.replace(node.outputs[0], editor.new("Concat", inputs, node, {"axis": axis}))
    return False


def _split_concat(node: Node, editor: Editor) -> bool:
    """Concat of all outputs of a Split, in order, on its axis -> the split tensor."""
    split = editor.producer(node.inputs[0], node, "Split")
    rank = editor.fact(node.outputs[0]).rank
    if split is None or rank is None or len(node.inputs) != len(split.outputs):
        return False
    if any(a is not b for a, b in zip(node.inputs, split.outputs, strict=True)):
        return False
    if attribute(node, "axis", 1) % rank != attribute(split, "axis", 0) % rank:
        return False
    return _take(node, split.inputs[0], editor)


def _reduce_then_view(node: Node, editor: Editor) -> bool:
    """Squeeze or Unsqueeze the axes that a reduction just reduced -> the reduction with another ``keepdims``."""
    reduction = editor.private_producer(node.inputs[0], node, *REDUCTIONS, "ArgMax", "ArgMin")
    if reduction is None:
        return False
    data, shape = editor.fact(reduction.inputs[0]).shape, editor.fact(node.outputs[0]).shape
    axes = _reduced_axes(reduction, editor)
    if data is None or shape is None or axes is None:
        return False
    keep = 1 - attribute(reduction, "keepdims", 1)
    wanted = tuple(1 if i in axes else d for i, d in enumerate(data) if keep or i not in axes)
    if wanted != shape or not editor.allow(node):
        return False
    attrs: dict[str, Any] = {**reduction.attrs, "keepdims": keep}
    made = editor.add(reduction.op, list(reduction.inputs), reduction, attrs)
    made.attr_types = dict(reduction.attr_types)
    return editor.replace(node.outputs[0], made.outputs[0])


def _reduced_axes(node: Node, editor: Editor) -> set[int] | None:
    rank = editor.fact(node.inputs[0]).rank
    if rank is None:
        return None
    if node.op.startswith("Arg"):
        return {attribute(node, "axis", 0) % rank}
    axes = node.attrs.get("axes")
    if editor.has_input(node, 1):
        axes = editor.ints(node, 1)
        if axes is None:
            return None
    if not axes:
        return None if attribute(node, "noop_with_empty_axes", 0) else set(range(rank))
    return {a % rank for a in axes}


def _pads(node: Node, editor: Editor) -> bool:
    """Pad(Pad(x)) with the same constant -> one Pad."""
    first = editor.private_producer(node.inputs[0], node, "Pad")
    if first is None or editor.opset < 11 or any(_mode(n) != "constant" for n in (first, node)):
        return False
    values = [editor.constant(n, 2) if editor.has_input(n, 2) else np.zeros((), np.float32) for n in (first, node)]
    amounts = [pad_amounts(n, editor.facts) for n in (first, node)]
    if any(v is None for v in values) or amounts[0] is None or amounts[1] is None:
        return False
    whole = all(isinstance(a, int) and a >= 0 for part in amounts if part is not None for a in part)
    if not whole or values[0] != values[1] or not editor.allow(node):
        return False
    total = np.array([*amounts[0]], np.int64) + np.array([*amounts[1]], np.int64)
    inputs = [first.inputs[0], editor.const(node, total), *node.inputs[2:3]]
    return editor.replace(node.outputs[0], editor.new("Pad", inputs, node, dict(node.attrs)))


def _mode(node: Node) -> str:
    mode = attribute(node, "mode", "constant")
    return mode.decode() if isinstance(mode, bytes) else str(mode)


def _gather_view(node: Node, editor: Editor) -> bool:
    """Gather(x, i) with a scalar i, then Unsqueeze of that axis -> Gather(x, [i])."""
    gather = editor.private_producer(node.inputs[0], node, "Gather")
    if gather is None or editor.constant(gather, 1) is None:
        return False
    data, shape = editor.fact(gather.inputs[0]).shape, editor.fact(node.outputs[0]).shape
    index = editor.constant(gather, 1)
    if data is None or index is None or index.ndim != 0:
        return False
    axis = attribute(gather, "axis", 0) % len(data)
    if shape != (*data[:axis], 1, *data[axis + 1 :]) or not editor.allow(node):
        return False
    inputs = [gather.inputs[0], editor.const(node, index.reshape(1))]
    return editor.replace(node.outputs[0], editor.new("Gather", inputs, gather, dict(gather.attrs)))


def _shared_concat(node: Node, editor: Editor) -> bool:
    """A Concat that only other Concats on its axis read -> its inputs are theirs."""
    rank = editor.fact(node.outputs[0]).rank
    readers = list(dict.fromkeys(node.outputs[0].outputs))
    if rank is None or len(readers) < 2 or editor.is_end(node.outputs[0]):
        return False
    axis = attribute(node, "axis", 1) % rank
    for reader in readers:
        same = reader.is_op("Concat") and attribute(reader, "axis", 1) % rank == axis
        if not same or editor.owner(reader) is not editor.owner(node):
            return False
    if not editor.allow(node):
        return False
    for reader in readers:
        inputs = [s for t in reader.inputs for s in (node.inputs if t is node.outputs[0] else [t])]
        editor.replace(reader.outputs[0], editor.new("Concat", inputs, reader, {"axis": axis}))
    return True


REWRITES = (
    Rewrite("views", (*VIEWS, "Transpose"), _views),
    Rewrite("transposes", ("Transpose",), _transposes),
    Rewrite("transpose_between_views", VIEWS, _transpose_between_views),
    Rewrite("casts", ("Cast",), _casts),
    Rewrite("idempotent", IDEMPOTENT, _idempotent),
    Rewrite("involution", ("Neg", "Not"), _involution),
    Rewrite("slices", ("Slice",), _slices),
    Rewrite("concats", ("Concat",), _concats),
    Rewrite("shared_concat", ("Concat",), _shared_concat),
    Rewrite("split_concat", ("Concat",), _split_concat),
    Rewrite("reduce_then_view", VIEWS, _reduce_then_view),
    Rewrite("pads", ("Pad",), _pads),
    Rewrite("gather_view", VIEWS, _gather_view),
)


class MergeConsecutive(CleaningPass):
    """Merges two operators in a row into one, or none.

    Reshape, Squeeze, Unsqueeze, Flatten and Transpose, also a Transpose between two of them; Cast; Slice; Concat; Pad;
    a reduction and a Squeeze; a Gather and an Unsqueeze; Split and Concat; what is idempotent (Relu) or its own inverse
    (Neg).
    """

    rewrites = REWRITES
