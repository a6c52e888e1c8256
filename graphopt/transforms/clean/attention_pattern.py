"""Recognises scaled dot-product attention that an exporter took apart into MatMul, Softmax, MatMul.

Softmax(Q K^T * scale + mask) V, as ``Attention`` of ONNX opset 23 defines it: the scale may be on Q, on K, on both or
behind the product, the mask is added or is a Where with minus infinity, key-value heads may be repeated for several
query heads, and rows that nothing attends to may be set to zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from graphopt.ir import Node, Tensor
from graphopt.transforms.clean.editing import Editor
from graphopt.transforms.clean.facts import SymShape, attribute
from graphopt.transforms.clean.views import VIEWS, can_reshape, constant_target, reshaped

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


@dataclass(frozen=True)
class Attention:
    """What was recognised: Q[B, H, S, D]; ``key`` and V with the heads that are really there; the key as the graph
    has it (``key_perm`` leads from there to [B, H, T, D]); the mask or None; the factor of the products."""

    query: Tensor
    key: Tensor
    key_perm: tuple[int, ...]
    value: Tensor
    mask: Tensor | None
    inverted: bool
    scale: float


def recognise(product: Node, editor: Editor) -> Attention | str | None:
    """The attention whose last product is this MatMul; a reason why it cannot be one operator; None when there is none.

    Every inner result must be read by the next step only.
    """
    softmax = _softmax(product, editor)
    if softmax is None or softmax.inputs[0].is_empty():
        return None
    rank = editor.fact(softmax.inputs[0]).rank
    if rank != 4 or int(attribute(softmax, "axis", -1)) % 4 != 3:
        return None
    mask, inverted, scores = _mask(softmax, editor)
    scale, scores_of = _scaled(scores, editor)
    inner = editor.producer(scores_of, softmax, "MatMul")
    if inner is None or editor.only_user(scores_of) is None:
        return None
    q_scale, query = _scaled(inner.inputs[0], editor, private=False)
    k_scale, turned = _scaled(inner.inputs[1], editor, private=False)
    found = _key(turned, inner, editor)
    if found is None:
        return None
    key, perm, more = found
    value = product.inputs[1]
    key, value = _shared_heads(key, perm, value, editor)
    made = Attention(query, key, perm, value, mask, inverted, scale * q_scale * k_scale * more)
    return made if (reason := _problem(made, softmax, editor)) is None else reason


def _softmax(product: Node, editor: Editor) -> Node | None:
    """The Softmax behind the first input, through a Where that puts zero for NaN."""
    node = editor.producer(product.inputs[0], product, "Softmax", "Where")
    if node is None or editor.only_user(product.inputs[0]) is not product:
        return None
    if node.op == "Softmax":
        return node
    test = editor.producer(node.inputs[0], node, "IsNaN")
    zero = editor.constant(node, 1)
    probabilities = node.inputs[2]
    if test is None or test.inputs[0] is not probabilities or zero is None or np.any(zero != 0):
        return None
    if set(probabilities.outputs) != {test, node}:
        return None
    return editor.producer(probabilities, node, "Softmax")


def _mask(softmax: Node, editor: Editor) -> tuple[Tensor | None, bool, Tensor]:
    """The mask, whether True hides, and the scores without it."""
    scores = softmax.inputs[0]
    node = editor.producer(scores, softmax, "Add", "Where")
    if node is None or editor.only_user(scores) is not softmax:
        return None, False, scores
    if node.op == "Add":
        for index in (0, 1):
            if _leads_to_product(node.inputs[index], node, editor):
                return node.inputs[1 - index], False, node.inputs[index]
        return None, False, scores
    for index, inverted in ((1, False), (2, True)):
        other = editor.constant(node, 3 - index)
        if other is not None and np.all(np.isneginf(other)) and _leads_to_product(node.inputs[index], node, editor):
            return node.inputs[0], inverted, node.inputs[index]
    return None, False, scores


def _leads_to_product(tensor: Tensor, user: Node, editor: Editor) -> bool:
    _, inner = _scaled(tensor, editor)
    node = editor.producer(inner, user, "MatMul")
    return node is not None and editor.only_user(tensor) is user


def _scaled(tensor: Tensor, editor: Editor, private: bool = True) -> tuple[float, Tensor]:
    """Factors by single numbers, and what they multiply."""
    factor = 1.0
    while tensor.inputs and not tensor.inputs[0].domain and tensor.inputs[0].op in ("Mul", "Div"):
        node = tensor.inputs[0]
        if private and editor.only_user(tensor) is None:
            break
        found = _number(node, editor)
        if found is None:
            break
        value, tensor = found
        factor = factor * value if node.op == "Mul" else factor / value
    return factor, tensor


def _number(node: Node, editor: Editor) -> tuple[float, Tensor] | None:
    for index in (1,) if node.op == "Div" else (1, 0):
        value = editor.constant(node, index)
        if value is not None and value.size == 1 and value.ndim <= 1 and np.isfinite(value).all() and value.any():
            return float(value.reshape(-1)[0]), node.inputs[1 - index]
    return None


def _key(turned: Tensor, user: Node, editor: Editor) -> tuple[Tensor, tuple[int, ...], float] | None:
    """The tensor behind the transposed key, how it must be permuted to [B, H, T, D], and factors in between."""
    node = editor.producer(turned, user, "Transpose")
    perm = None if node is None else attribute(node, "perm")
    if node is None or perm is None or len(perm) != 4:
        return None
    order = (*perm[:2], perm[3], perm[2])
    if order != (0, 1, 2, 3):
        return node.inputs[0], order, 1.0
    factor, inner = _scaled(node.inputs[0], editor, private=False)
    return inner, order, factor


def _shared_heads(key: Tensor, perm: tuple[int, ...], value: Tensor, editor: Editor) -> tuple[Tensor, Tensor]:
    """Key and value before their heads were repeated, when both were repeated the same way."""
    if perm != (0, 1, 2, 3):
        return key, value
    first, second = _unrepeated(key, editor), _unrepeated(value, editor)
    if first is None or second is None:
        return key, value
    shapes = [editor.fact(t).shape for t in (first, second)]
    if shapes[0] is None or shapes[1] is None or shapes[0][1] != shapes[1][1]:
        return key, value
    return first, second


def _unrepeated(tensor: Tensor, editor: Editor) -> Tensor | None:
    """[B, h, T, D] of which every head was repeated: Reshape(Expand(a view [B, h, 1, T, D]))."""
    merge = tensor.inputs[0] if tensor.inputs else None
    grow = editor.producer(merge.inputs[0], merge, "Expand") if merge is not None and merge.op in VIEWS else None
    view = editor.producer(grow.inputs[0], grow, *VIEWS) if grow is not None else None
    if view is None or grow is None:
        return None
    before, thin, wide, after = (
        editor.fact(t).shape for t in (view.inputs[0], view.outputs[0], grow.outputs[0], tensor)
    )
    if before is None or thin is None or wide is None or after is None or len(before) != 4 or len(wide) != 5:
        return None
    fits = thin == (before[0], before[1], 1, *before[2:]) and wide == (*before[:2], wide[2], *before[2:])
    heads, repeats = before[1], wide[2]
    if not fits or not isinstance(heads, int) or not isinstance(repeats, int):
        return None
    return view.inputs[0] if after == (before[0], heads * repeats, *before[2:]) else None


def _problem(found: Attention, softmax: Node, editor: Editor) -> str | None:
    """Why the operator would not compute the same."""
    facts = [editor.fact(t) for t in (found.query, found.key, found.value)]
    q, k, v = (f.shape for f in facts)
    if any(f.dtype not in FLOATS or f.dtype != facts[0].dtype for f in facts):
        return "its type is not float or float16"
    if q is None or k is None or v is None or not len(q) == len(k) == len(v) == 4:
        return "query, key and value must have four axes"
    k = tuple(k[p] for p in found.key_perm)
    if q[0] != k[0] or k[:3] != v[:3] or q[3] != k[3]:
        return "batch, heads, positions or widths of query, key and value differ"
    if q[1] != k[1] and not (isinstance(q[1], int) and isinstance(k[1], int) and q[1] % k[1] == 0):
        return "the heads of query and key differ"
    if found.mask is None:
        return None
    mask, scores = editor.fact(found.mask), (*q[:3], k[2])
    if mask.shape is None or not 2 <= len(mask.shape) <= 4 or not _broadcasts(mask.shape, scores):
        return "the mask does not have the shape of the scores"
    if mask.shape[-2:] != scores[-2:] and not all(isinstance(e, int) for e in scores[-2:]):
        return "the mask is one row for all queries, and their number is not known"
    return None


def _broadcasts(shape: SymShape, target: Sequence[object]) -> bool:
    return all(a in (1, b) for a, b in zip(shape[::-1], target[::-1], strict=False))


def build(found: Attention, product: Node, editor: Editor) -> Tensor:
    """Add the Attention node; its output [B, H, S, Dv]."""
    key = found.key
    if found.key_perm != (0, 1, 2, 3):
        key = editor.new("Transpose", [key], product, {"perm": list(found.key_perm)})
    inputs: list[Tensor | None] = [found.query, key, found.value]
    if found.mask is not None:
        inputs.append(_full_mask(found, product, editor))
    return editor.new("Attention", inputs, product, {"scale": found.scale})


def _full_mask(found: Attention, product: Node, editor: Editor) -> Tensor:
    """The mask with a row for each query: ONNX Runtime does not broadcast its last two axes."""
    mask = found.mask
    assert mask is not None
    if found.inverted:
        mask = editor.new("Not", [mask], product)
    shape = editor.fact(mask).shape
    q, k = editor.fact(found.query).shape, editor.fact(found.key).shape
    assert shape is not None
    assert q is not None
    assert k is not None
    rows = (q[2], k[found.key_perm[2]])
    if shape[-2:] == rows:
        return mask
    target = [*(1 for _ in shape[:-2]), *(int(e) for e in rows if isinstance(e, int))]
    return editor.new("Expand", [mask, editor.const(product, target)], product)


def without_head_axes(node: Node, editor: Editor) -> tuple[Tensor, Tensor] | None:
    """An Attention on [B, S, heads * width] in place of one of rank 4 whose inputs are Transpose(Reshape(x)) and whose
    result only goes through the reverse. The old result and the new one, or None when it is not like that."""
    if len(node.outputs) > 1 or any(editor.has_input(node, i) for i in (4, 5)):
        return None
    turn = editor.only_user(node.outputs[0])
    view = None if turn is None or not _swaps(turn) else editor.only_user(turn.outputs[0])
    out = editor.fact(node.outputs[0]).shape
    if view is None or view.op not in VIEWS or out is None:
        return None
    if not isinstance(out[1], int) or not isinstance(out[3], int):
        return None
    end = editor.fact(view.outputs[0]).shape
    flat = (out[0], out[2], out[1] * out[3])
    found = [split for t in node.inputs[:3] if (split := _unsplit(t, editor)) is not None]
    if end is None or (end != flat and constant_target(end, flat) is None) or len(found) < 3:
        return None
    if found[1].heads != found[2].heads or not editor.allow(node):
        return None
    inputs = [reshaped(f.source, f.shape, node, editor) for f in found]
    attrs = {**node.attrs, "q_num_heads": found[0].heads, "kv_num_heads": found[1].heads}
    made = reshaped(editor.new("Attention", [*inputs, *node.inputs[3:4]], node, attrs), end, node, editor)
    assert made is not None
    return view.outputs[0], made


def _swaps(node: Node) -> bool:
    return node.is_op("Transpose") and list(attribute(node, "perm", [])) == [0, 2, 1, 3]


@dataclass(frozen=True)
class _Split:
    """``source`` seen as ``shape`` [B, S, heads * width]."""

    source: Tensor
    shape: SymShape
    heads: int


def _unsplit(tensor: Tensor, editor: Editor) -> _Split | None:
    """What Transpose(Reshape(x)) is made of."""
    turn = tensor.inputs[0] if tensor.inputs else None
    if turn is None or not _swaps(turn) or editor.only_user(tensor) is None:
        return None
    view = editor.producer(turn.inputs[0], turn, *VIEWS)
    split = editor.fact(turn.inputs[0]).shape
    if view is None or split is None or not isinstance(split[2], int) or not isinstance(split[3], int):
        return None
    shape = (split[0], split[1], split[2] * split[3])
    return _Split(view.inputs[0], shape, split[2]) if can_reshape(view.inputs[0], shape, editor) else None
