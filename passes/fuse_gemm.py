"""Turn Einsum into MatMul, MatMul and Add into Gemm, and let Gemm work on two dimensions where that saves a Reshape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from graphopt.ir import Node, Tensor
from graphopt.pipeline.cleaning import CleaningPass
from graphopt.transforms.clean.contraction import parse, permutation
from graphopt.transforms.clean.contraction import product as product_of
from graphopt.transforms.clean.editing import Editor, Rewrite
from graphopt.transforms.clean.facts import Fact, SymShape
from graphopt.transforms.clean.symbols import Extent, product
from graphopt.transforms.clean.views import can_reshape, constant_target, reshaped, view_producer, view_user

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)


@dataclass(frozen=True)
class Linear:
    """A MatMul of a tensor with constant weights and an Add of a constant bias; ``end`` is their result.

    ``view`` is the one Reshape that reads the result, or None. ``shape`` is what the rest of the graph reads.
    """

    matmul: Node
    bias: Tensor
    end: Tensor
    view: Node | None
    shape: SymShape
    flat: SymShape

    @property
    def saves(self) -> int:
        """Nodes saved, the flattening of the input not counted."""
        return 1 + (self.view is not None) - (self.shape != self.flat)


def _plain(node: Node, editor: Editor) -> bool:
    """MatMul(a, b) + c of rank 2 -> Gemm(a, b, c)."""
    if editor.opset < 7:
        return False
    for index in (0, 1):
        matmul = editor.private_producer(node.inputs[index], node, "MatMul")
        if matmul is None:
            continue
        a, b = (editor.fact(t) for t in matmul.inputs)
        out, bias = editor.fact(matmul.outputs[0]), editor.fact(node.inputs[1 - index])
        if a.rank != 2 or b.rank != 2 or out.dtype not in FLOATS or bias.shape is None:
            continue
        if (
            editor.fact(node.outputs[0]).shape != out.shape
            or not _fits(bias.shape, out.shape)
            or not editor.allow(node)
        ):
            continue
        made = editor.add("Gemm", [*matmul.inputs, node.inputs[1 - index]], matmul)
        return editor.replace(node.outputs[0], made.outputs[0])
    return False


def _fits(bias: SymShape, out: SymShape | None) -> bool:
    """Whether Gemm broadcasts a bias of this shape: at most rank 2, each extent 1 or that of the result."""
    if out is None or len(bias) > 2:
        return False
    return all(b in (1, o) for b, o in zip(bias[::-1], out[::-1], strict=False))


def _batched(node: Node, editor: Editor) -> bool:
    """All x @ W + b of one x of rank 3 or more -> Gemm on x flattened, if fewer nodes remain."""
    source = node.inputs[0]
    shape = editor.fact(source).shape
    if shape is None or len(shape) < 3 or editor.opset < 13:
        return False
    layers = [found for n in dict.fromkeys(source.outputs) if (found := _linear(n, source, shape, editor)) is not None]
    layers = [layer for layer in layers if layer.saves > 0]
    if not layers or not any(layer.matmul is node for layer in layers):
        return False
    view = view_producer(source, node, editor, private=False)
    origin = source if view is None else view.inputs[0]
    flat: SymShape = (product(shape[:-1]), shape[-1])
    freed = view is not None and not editor.is_end(source) and len(source.outputs) == len(layers)
    needed = editor.fact(origin).shape != flat
    if sum(layer.saves for layer in layers) + freed - needed <= 0 or not can_reshape(origin, flat, editor):
        return False
    if not editor.allow(node):
        return False
    data = reshaped(origin, flat, node, editor)
    if data is None:
        return False
    for layer in layers:
        gemm = editor.new("Gemm", [data, layer.matmul.inputs[1], layer.bias], layer.matmul)
        result = reshaped(gemm, layer.shape, layer.matmul, editor)
        assert result is not None
        editor.replace(layer.end if layer.view is None else layer.view.outputs[0], result)
    return True


def _linear(matmul: Node, source: Tensor, shape: SymShape, editor: Editor) -> Linear | None:
    if not matmul.is_op("MatMul") or matmul.inputs[0] is not source or not editor.is_live(matmul):
        return None
    if editor.producer(matmul.outputs[0], matmul) is None:
        return None
    weight = editor.fact(matmul.inputs[1])
    if weight.rank != 2 or weight.static is None or weight.dtype not in FLOATS:
        return None
    add = editor.only_user(matmul.outputs[0])
    if add is None or not add.is_op("Add"):
        return None
    bias = add.inputs[1] if add.inputs[0] is matmul.outputs[0] else add.inputs[0]
    if editor.fact(bias).shape != (weight.static[1],):
        return None
    end = add.outputs[0]
    view = view_user(end, editor)
    read = editor.fact(end if view is None else view.outputs[0]).shape
    flat: SymShape = (product(shape[:-1]), weight.static[1])
    if read is None or not _reachable(flat, read):
        return None
    return Linear(matmul, bias, end, view, read, flat)


def _reachable(flat: SymShape, shape: SymShape) -> bool:
    """Whether one Reshape with a constant target leads from one shape to the other."""
    return flat == shape or constant_target(shape, flat) is not None


def _einsum(node: Node, editor: Editor) -> bool:
    """Einsum of one product -> MatMul, of one operand that is only permuted -> Transpose."""
    facts = [editor.fact(t) for t in node.inputs]
    parsed = None
    if all(f.shape is not None for f in facts):
        parsed = parse(_equation(node), [f.rank or 0 for f in facts])
    if parsed is None or any(f.dtype not in FLOATS for f in facts):
        return False
    terms, result = parsed
    if len(terms) == 1:
        perm = permutation(terms[0], result)
        if perm is None or not editor.allow(node):
            return False
        return editor.replace(node.outputs[0], editor.new("Transpose", [node.inputs[0]], node, {"perm": perm}))
    found = product_of(terms, result) if len(terms) == 2 else None
    if found is None or not _same_extents(terms, facts):
        return False
    right = node.inputs[found.right]
    value = editor.constant(node, found.right)
    alone = value is not None and len(right.outputs) == 1
    if (found.turned and not alone) or not editor.allow(node):
        return False
    if found.turned and value is not None:
        right = editor.const(node, np.ascontiguousarray(value.swapaxes(-1, -2)), hint=f"{right.name}_turned")
    return editor.replace(node.outputs[0], editor.new("MatMul", [node.inputs[found.left], right], node))


def _equation(node: Node) -> str:
    text = node.attrs["equation"]
    return text.decode() if isinstance(text, bytes) else str(text)


def _same_extents(terms: Sequence[str], facts: Sequence[Fact]) -> bool:
    """Whether each letter stands for one extent: Einsum broadcasts extents of 1 where MatMul does not."""
    extents: dict[str, Extent] = {}
    for term, fact in zip(terms, facts, strict=True):
        for letter, extent in zip(term, fact.shape or (), strict=True):
            if extents.setdefault(letter, extent) != extent:
                return False
    return True


REWRITES = (
    Rewrite("einsum", ("Einsum",), _einsum, "equivalent"),
    Rewrite("plain", ("Add",), _plain, "equivalent"),
    Rewrite("batched", ("MatMul",), _batched, "equivalent"),
)


class FuseGemm(CleaningPass):
    """MatMul followed by Add becomes Gemm. An Einsum that is one product becomes MatMul before.

    With an input of rank 3 or more, Gemm works on the flattened input, when Reshapes around it make up for that.
    """

    rewrites = REWRITES
