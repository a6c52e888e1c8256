"""Resolve shape arithmetic, with static and with dynamic extents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from graphopt.ir import Array, Node, Tensor, is_constant
from graphopt.model import Model
from graphopt.pipeline.cleaning import KEEPS_FACTS, open_editor
from graphopt.pipeline.context import Context
from graphopt.pipeline.passes import Pass
from graphopt.transforms.clean.editing import Editor, Rewrite
from graphopt.transforms.clean.facts import Fact, attribute
from graphopt.transforms.clean.symbols import Expr, Extent, is_positive
from graphopt.transforms.clean.views import constant_target


class FoldShapes(Pass):
    """Replaces computed shapes by constants, and joins computations of the same symbolic value.

    The value of every small integer tensor is followed element by element: a number, an input extent, or a
    polynomial of extents. A tensor of numbers becomes a constant. The shape of a Reshape becomes a constant with 0
    and -1 wherever ONNX allows. Two tensors with the same symbolic value become one.
    """

    guarantee = "exact"
    preserves = KEEPS_FACTS
    reports = True

    def run(self, model: Model, ctx: Context) -> None:
        """Fold in one sweep from the end, so that what only leads to a known value goes without becoming constant."""
        editor = open_editor(model, ctx)
        for node in reversed(list(model.graph.walk())):
            for tensor in node.outputs:
                if editor.is_live(node) and not tensor.is_empty() and not node.is_op("Constant"):
                    _to_constant(tensor, node, editor)
        editor.run(REWRITES)
        _join(editor)
        editor.finish()


def _to_constant(tensor: Tensor, node: Node, editor: Editor) -> None:
    """Replace a tensor whose elements are all known numbers."""
    fact = editor.fact(tensor)
    numbers = fact.numbers()
    if numbers is None or fact.dtype is None or not (tensor.outputs or editor.is_end(tensor)):
        return
    editor.rewrite = "known_value"
    if editor.is_end(tensor) or not editor.allow(node):
        return
    values = numbers.astype(onnx.helper.tensor_dtype_to_np_dtype(fact.dtype))
    constant = editor.const(node, values, hint=f"{tensor.name}_known")
    if editor.replace(tensor, constant):
        editor.changed += 1


def _reshape_target(node: Node, editor: Editor) -> bool:
    """Reshape(x, computed) -> Reshape(x, constant)."""
    if editor.opset < 5 or attribute(node, "allowzero", 0) or is_constant(node.inputs[1]):
        return False
    wanted, data = editor.fact(node.inputs[1]).value, editor.fact(node.inputs[0]).shape
    if wanted is None or editor.fact(node.inputs[1]).numbers() is not None:
        return False
    shape = editor.fact(node.outputs[0]).shape
    if shape is None or any(w == 0 or (isinstance(w, Expr) and not is_positive(w)) for w in wanted.tolist()):
        return False
    target = constant_target(shape, data)
    if target is None or not editor.allow(node):
        return False
    editor.set_input(node, 1, editor.const(node, target, hint=f"{node.name}_shape"))
    return True


def _expand_target(node: Node, editor: Editor) -> bool:
    """Expand(x, computed) -> Expand(x, constant) where 1 keeps an extent of x."""
    if is_constant(node.inputs[1]):
        return False
    data, shape = editor.fact(node.inputs[0]).shape, editor.fact(node.outputs[0]).shape
    if data is None or shape is None:
        return False
    padded = (1,) * (len(shape) - len(data)) + data
    target = [_expand_extent(a, b) for a, b in zip(padded, shape, strict=True)]
    if None in target or not editor.allow(node):
        return False
    editor.set_input(node, 1, editor.const(node, [t for t in target if t is not None], hint=f"{node.name}_shape"))
    return True


def _expand_extent(before: Extent, after: Extent) -> int | None:
    if before == after:
        return 1
    return after if isinstance(after, int) else None


def _slice_bound(node: Node, editor: Editor) -> bool:
    """Slice(x, 0, extent of the axis) -> Slice(x, 0, largest)."""
    if editor.opset < 10 or is_constant(node.inputs[2]):
        return False
    data, ends = editor.fact(node.inputs[0]).shape, editor.fact(node.inputs[2]).value
    axes = editor.ints(node, 3)
    if data is None or ends is None or (axes is None and editor.has_input(node, 3)):
        return False
    bounds = ends.reshape(-1).tolist()
    axes = list(range(len(bounds))) if axes is None else axes
    known = [2**63 - 1 if e == data[a] else e for a, e in zip(axes, bounds, strict=True)]
    steps = editor.ints(node, 4) if editor.has_input(node, 4) else [1] * len(bounds)
    if any(isinstance(k, Expr) for k in known) or steps is None or any(s < 0 for s in steps) or not editor.allow(node):
        return False
    dtype = np.int32 if editor.fact(node.inputs[2]).dtype == onnx.TensorProto.INT32 else np.int64
    limit = np.iinfo(dtype).max
    values = np.array([min(int(k), limit) for k in known], dtype)
    editor.set_input(node, 2, editor.const(node, values, hint=f"{node.name}_ends"))
    return True


def _key(fact: Fact) -> tuple[object, ...] | None:
    value: Array | None = fact.value
    if value is None or fact.dtype is None or fact.numbers() is not None:
        return None
    return (fact.dtype, value.shape, *value.reshape(-1).tolist())


def _join(editor: Editor) -> None:
    """Make tensors of one graph that have the same symbolic value one tensor: the first."""
    editor.rewrite = "same_value"
    for graph in list(editor.root.graphs()):
        first: dict[tuple[object, ...], Tensor] = {}
        graph_nodes: Sequence[Node] = [n for n in graph.nodes if editor.is_live(n)]
        for node in graph_nodes:
            for tensor in node.outputs if editor.is_live(node) else ():
                key = None if tensor.is_empty() else _key(editor.fact(tensor))
                if key is None or not tensor.outputs or not tensor.inputs:
                    continue
                other = first.get(key)
                if other is None or not other.inputs:
                    first[key] = other = tensor
                if other is not tensor and not editor.is_end(tensor) and editor.allow(node):
                    editor.changed += editor.replace(tensor, other)


REWRITES = (
    Rewrite("reshape_target", ("Reshape",), _reshape_target),
    Rewrite("expand_target", ("Expand",), _expand_target),
    Rewrite("slice_bound", ("Slice",), _slice_bound),
)
