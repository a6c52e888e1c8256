"""Fold per-channel scales and shifts into the weights before them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from graphopt.ir import Array, Node, Tensor, is_constant
from graphopt.pipeline.cleaning import CleaningPass
from graphopt.pipeline.options import option
from graphopt.pipeline.rewrite import RewriteOptions
from graphopt.transforms.clean.editing import Editor, Rewrite
from graphopt.transforms.clean.facts import attribute
from graphopt.transforms.clean.scaling import (
    FLOAT_TYPES,
    LAYERS,
    per_channel,
    scale_behind,
    scale_channels,
    scaled_weight,
    would_copy,
)


@dataclass(frozen=True)
class Affine:
    """``y = scale * x + shift``, one number a channel (or one for all); None leaves that part out."""

    scale: Array | None
    shift: Array | None


def _affine_of_batchnorm(node: Node, editor: Editor) -> Affine | None:
    """The affine map of a BatchNormalization in inference: computed in float64."""
    if any(t.outputs or editor.is_end(t) for t in node.outputs[1:]) or attribute(node, "training_mode", 0):
        return None
    if editor.opset < 9 and not attribute(node, "spatial", 1):
        return None
    if editor.opset < 7 and not attribute(node, "is_test", 0):
        return None
    values = [editor.constant(node, i) for i in range(1, 5)]
    if any(v is None or v.dtype not in FLOAT_TYPES for v in values):
        return None
    scale, bias, mean, variance = (np.asarray(v, np.float64) for v in values)
    epsilon = attribute(node, "epsilon", 1e-5)
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + np.float64(np.float32(epsilon)))
        return Affine(factor, bias - mean * factor)


def _affine_of_arithmetic(node: Node, editor: Editor, index: int, channels: int, axis: int, rank: int) -> Affine | None:
    """The affine map of Mul, Div, Add or Sub with a constant that varies along the channel axis only."""
    value = editor.constant(node, index)
    if value is None or value.dtype not in FLOAT_TYPES or (node.op in ("Div", "Sub") and index == 0):
        return None
    factors = per_channel(value, channels, axis, rank)
    if factors is None:
        return None
    wide = factors.astype(np.float64)
    match node.op:
        case "Mul":
            return Affine(wide, None)
        case "Div":
            return None if np.any(wide == 0) else Affine(1 / wide, None)
        case "Add":
            return Affine(None, wide)
        case _:
            return Affine(None, -wide)


def _weighted(node: Node, editor: Editor) -> tuple[Node, int] | None:
    """The Conv, ConvTranspose, Gemm or MatMul with constant weights whose only reader is ``node``; and the input."""
    for index, tensor in enumerate(node.inputs[: 1 if node.op == "BatchNormalization" else 2]):
        made = editor.private_producer(tensor, node, "Conv", "ConvTranspose", "Gemm", "MatMul")
        if made is not None and editor.constant(made, 1) is not None:
            return made, index
    return None


def _channels(layer: Node, editor: Editor) -> tuple[int, int, int] | None:
    """Number of output channels, their axis in the output, and the output's rank."""
    weight = editor.constant(layer, 1)
    rank = editor.fact(layer.outputs[0]).rank
    if weight is None or weight.dtype not in FLOAT_TYPES or rank is None:
        return None
    match layer.op:
        case "Conv":
            return weight.shape[0], 1, rank
        case "ConvTranspose":
            return weight.shape[1] * attribute(layer, "group", 1), 1, rank
        case "Gemm":
            return weight.shape[0 if attribute(layer, "transB", 0) else 1], 1, rank
        case _:
            return (weight.shape[1], rank - 1, rank) if weight.ndim == 2 else None


def _fold(node: Node, editor: Editor) -> bool:
    """layer(x) * scale + shift -> layer with other weights."""
    found = _weighted(node, editor)
    if found is None:
        return False
    layer, index = found
    place = _channels(layer, editor)
    if place is None:
        return False
    channels, axis, rank = place
    if node.op == "BatchNormalization":
        affine = _affine_of_batchnorm(node, editor) if axis == 1 else None
    else:
        affine = _affine_of_arithmetic(node, editor, 1 - index, channels, axis, rank)
        same = editor.fact(node.outputs[0]).shape == editor.fact(layer.outputs[0]).shape
        affine = affine if same and editor.opset >= 7 else None
    return affine is not None and _apply(layer, affine, channels, node, editor)


def _apply(layer: Node, affine: Affine, channels: int, node: Node, editor: Editor) -> bool:
    weight = editor.constant(layer, 1)
    bias = editor.constant(layer, 2)
    if weight is None or (bias is None and editor.has_input(layer, 2)):
        return False
    if layer.op == "MatMul" and affine.shift is not None:
        return False
    if affine.scale is not None and would_copy(layer.inputs[1]):
        editor.gate.skipped(node, "not folded: the weights are shared, the file would grow by a copy")
        return False
    if layer.op == "Gemm" and not _gemm_bias_fits(layer, bias, channels):
        return False
    changed = weight if affine.scale is None else _narrowed(scaled_weight(layer, weight, affine.scale), weight)
    wide_bias = _changed_bias(layer, bias, affine, channels)
    made_bias = None if wide_bias is None else _narrowed(wide_bias, weight)
    parts = [p for p in (changed, made_bias) if p is not None]
    if not all(np.isfinite(p).all() for p in parts):
        editor.gate.skipped(node, "not folded: a folded weight would not be finite")
        return False
    if not editor.allow(node):
        return False
    inputs: list[Tensor | None] = [layer.inputs[0], layer.inputs[1]]
    if affine.scale is not None:
        inputs[1] = editor.const(layer, changed, hint=f"{layer.inputs[1].name}_folded")
    if made_bias is not None:
        hint = layer.inputs[2].name if editor.has_input(layer, 2) else f"{layer.inputs[1].name}_bias"
        inputs.append(editor.const(layer, made_bias, hint=f"{hint}_folded"))
    attrs = dict(layer.attrs)
    if layer.op == "Gemm":
        attrs["beta"] = 1.0
    made = editor.add(layer.op, inputs, layer, attrs)
    return editor.replace(node.outputs[0], made.outputs[0])


def _gemm_bias_fits(layer: Node, bias: Array | None, channels: int) -> bool:
    """Whether Gemm's C is one number a column, and both factors allow the fold."""
    if bias is None:
        return True
    return bias.size in (1, channels) and (bias.ndim < 2 or bias.shape[-1] == bias.size)


def _narrowed(values: Array, like: Array) -> Array:
    """The values in another array's type; infinite where they are too large for it."""
    with np.errstate(over="ignore"):
        return values.astype(like.dtype)


def _changed_bias(layer: Node, bias: Array | None, affine: Affine, channels: int) -> Array | None:
    if bias is None and affine.shift is None:
        return None
    wide = np.zeros(channels) if bias is None else np.broadcast_to(bias.astype(np.float64).reshape(-1), (channels,))
    if layer.op == "Gemm" and bias is not None:
        wide = wide * attribute(layer, "beta", 1.0)
    scale = 1.0 if affine.scale is None else affine.scale
    shift = 0.0 if affine.shift is None else affine.shift
    return np.broadcast_to(wide * scale + shift, (channels,)).copy()


def _fold_before(node: Node, editor: Editor, keep_gelu: bool = True) -> bool:
    """layer(x * c) -> layer with weights times c, for one number c."""
    weight = editor.constant(node, 1)
    scaled = editor.private_producer(node.inputs[0], node, "Mul", "Div")
    if scaled is None or weight is None or weight.dtype not in FLOAT_TYPES or editor.opset < 7:
        return False
    if would_copy(node.inputs[1]):
        return False
    for index in (1, 0):
        factor = editor.constant(scaled, index)
        rest = scaled.inputs[1 - index]
        if factor is None or factor.size != 1 or (scaled.op == "Div" and index == 0):
            continue
        if keep_gelu and _ends_gelu(rest, scaled, editor):
            editor.gate.skipped(scaled, "the factor stays: runtimes know GELU by it and run it as one operator")
            return False
        if editor.fact(rest).shape is None or editor.fact(rest).shape != editor.fact(node.inputs[0]).shape:
            continue
        wide = factor.astype(np.float64).reshape(())
        if wide == 0 or not np.isfinite(wide):
            continue
        made = _narrowed(weight.astype(np.float64) * (wide if scaled.op == "Mul" else 1 / wide), weight)
        if not np.isfinite(made).all() or not editor.allow(node):
            return False
        changed = editor.const(node, made, hint=f"{node.inputs[1].name}_folded")
        result = editor.new(node.op, [rest, changed, *node.inputs[2:]], node, dict(node.attrs))
        return editor.replace(node.outputs[0], result)
    return False


def _ends_gelu(tensor: Tensor, user: Node, editor: Editor) -> bool:
    """Whether the tensor is ``x * (1 + erf(..))`` or ``x * (1 + tanh(..))``: a GELU but for its factor of a half."""
    product = editor.producer(tensor, user, "Mul")
    for side in () if product is None else product.inputs:
        added = editor.producer(side, user, "Add")
        for term in () if added is None else added.inputs:
            if editor.producer(term, user, "Erf", "Tanh") is not None:
                return True
    return False


def _gelu_order(node: Node, editor: Editor) -> bool:
    """x * (0.5 * (1 + erf(x / r))) -> (x * (1 + erf(x / r))) * 0.5: the order in which runtimes know GELU."""
    for index in (0, 1):
        inner = editor.private_producer(node.inputs[index], node, "Mul")
        if inner is None:
            continue
        x = node.inputs[1 - index]
        for at in (0, 1):
            half, rest = editor.constant(inner, at), inner.inputs[1 - at]
            if half is None or half.size != 1 or half.dtype not in FLOAT_TYPES or not _is_erf_of(rest, x, node, editor):
                continue
            shapes = [editor.fact(t).shape for t in (x, rest, node.outputs[0])]
            if shapes[0] is None or shapes.count(shapes[0]) < 3 or not editor.allow(node):
                return False
            product = editor.new("Mul", [x, rest], inner)
            return editor.replace(node.outputs[0], editor.new("Mul", [product, inner.inputs[at]], node))
    return False


def _is_erf_of(tensor: Tensor, x: Tensor, user: Node, editor: Editor) -> bool:
    """Whether the tensor is ``erf(x * a) + b`` or ``erf(x / a) + b`` with constants."""
    added = editor.producer(tensor, user, "Add")
    for index in (0, 1):
        if added is None:
            return False
        erf = editor.producer(added.inputs[index], user, "Erf")
        scaled = None if erf is None else editor.producer(erf.inputs[0], user, "Div", "Mul")
        if scaled is not None and editor.constant(added, 1 - index) is not None:
            return any(t is x for t in scaled.inputs) and any(is_constant(t) for t in scaled.inputs)
    return False


def _merge_constants(node: Node, editor: Editor) -> bool:
    """(x * a) * b -> x * (a * b), and (x + a) + b -> x + (a + b), for constants."""
    if editor.opset < 7:
        return False
    for index in (0, 1):
        inner = editor.private_producer(node.inputs[index], node, node.op)
        outer_value = editor.constant(node, 1 - index)
        if inner is None or outer_value is None or outer_value.dtype not in FLOAT_TYPES:
            continue
        for at in (0, 1):
            value = editor.constant(inner, at)
            rest = inner.inputs[1 - at]
            if value is None or is_constant(rest):
                continue
            joined = _joined(node.op, value, outer_value)
            if joined is None or joined.nbytes > max(value.nbytes, outer_value.nbytes) or not editor.allow(node):
                return False
            return editor.replace(node.outputs[0], editor.new(node.op, [rest, editor.const(node, joined)], node))
    return False


def _rounds(a: Array, b: Array) -> bool:
    """Whether adding both, one after the other, is meant to round: large numbers that cancel each other."""
    large = 1 / np.sqrt(np.finfo(a.dtype).eps)
    return bool(np.any((np.sign(a) == -np.sign(b)) & (np.minimum(np.abs(a), np.abs(b)) >= large)))


def _joined(op: str, a: Array, b: Array) -> Array | None:
    with np.errstate(all="ignore"):
        wide = a.astype(np.float64) * b if op == "Mul" else a.astype(np.float64) + b
        made = wide.astype(a.dtype)
    if op == "Add" and _rounds(a, b):
        return None
    usable = np.isfinite(made).all() and not (op == "Mul" and np.any((made == 0) & (a != 0) & (b != 0)))
    return made if usable else None


def _lone_batchnorm(node: Node, editor: Editor) -> bool:
    """BatchNormalization(x * a) or (x + a), a constant -> one BatchNormalization with other parameters."""
    inner = editor.private_producer(node.inputs[0], node, "Mul", "Add")
    shape = editor.fact(node.inputs[0]).shape
    affine = _affine_of_batchnorm(node, editor)
    scale = editor.constant(node, 1)
    if inner is None or shape is None or affine is None or scale is None or not isinstance(shape[1], int):
        return False
    for at in (0, 1):
        if editor.fact(inner.inputs[1 - at]).shape != shape:
            continue
        before = _affine_of_arithmetic(inner, editor, at, shape[1], 1, len(shape))
        if before is None or affine.scale is None or affine.shift is None:
            continue
        total_scale = affine.scale * (1.0 if before.scale is None else before.scale)
        total_shift = affine.shift + affine.scale * (0.0 if before.shift is None else before.shift)
        return _write_batchnorm(node, inner.inputs[1 - at], total_scale, total_shift, editor)
    return False


def _write_batchnorm(node: Node, source: Tensor, scale: Array, shift: Array, editor: Editor) -> bool:
    """One BatchNormalization that computes ``scale * x + shift``, with its mean and variance kept."""
    mean, variance = editor.constant(node, 3), editor.constant(node, 4)
    old = editor.constant(node, 1)
    if mean is None or variance is None or old is None:
        return False
    spread = np.sqrt(variance.astype(np.float64) + attribute(node, "epsilon", 1e-5))
    gamma = _narrowed(scale * spread, old)
    beta = _narrowed(shift + mean * scale, old)
    if not (np.isfinite(gamma).all() and np.isfinite(beta).all()) or not editor.allow(node):
        return False
    inputs = [source, editor.const(node, gamma), editor.const(node, beta), node.inputs[3], node.inputs[4]]
    return editor.replace(node.outputs[0], editor.new("BatchNormalization", inputs, node, dict(node.attrs)))


KEEPING = Rewrite("scale_before", LAYERS, _fold_before, "equivalent")
SPLITTING = Rewrite("scale_before", LAYERS, partial(_fold_before, keep_gelu=False), "equivalent")

REWRITES = (
    Rewrite("into_weights", ("BatchNormalization", "Mul", "Div", "Add", "Sub"), _fold, "equivalent"),
    KEEPING,
    Rewrite("scale_behind", ("Mul", "Div"), scale_behind, "equivalent"),
    Rewrite("scale_channels", ("Mul", "Div"), scale_channels, "equivalent"),
    Rewrite("gelu_order", ("Mul",), _gelu_order, "equivalent"),
    Rewrite("constants", ("Mul", "Add"), _merge_constants, "equivalent"),
    Rewrite("into_batchnorm", ("BatchNormalization",), _lone_batchnorm, "equivalent"),
)


class FoldBatchnormOptions(RewriteOptions):
    """Options of ``fold_batchnorm``."""

    keep_gelu: bool = option(
        True, "Leave the factor 0.5 of a GELU where it is: folded, runtimes no longer see a GELU, and get slower."
    )


class FoldBatchnorm(CleaningPass[FoldBatchnormOptions]):
    """Folds BatchNormalization, and Mul, Div, Add, Sub by constants, into Conv, ConvTranspose, Gemm or MatMul.

    Legal when the weights are constant and nothing else reads the result. Computed in float64. Two multiplications,
    or additions, by constants in a row become one.
    """

    rewrites = REWRITES

    def selected(self) -> tuple[Rewrite, ...]:
        """The rewrites that the options let run."""
        chosen = super().selected()
        return chosen if self.options.keep_gelu else tuple(SPLITTING if r is KEEPING else r for r in chosen)
