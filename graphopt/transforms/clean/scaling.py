"""Factors behind a layer: whether and how they go into its weights."""

from __future__ import annotations

import numpy as np

from graphopt.ir import Array, Node, Tensor, constant_value
from graphopt.transforms.clean.editing import Editor
from graphopt.transforms.clean.facts import SymShape, attribute
from graphopt.transforms.clean.views import VIEWS

MAX_COPY = 1 << 16
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
FLOAT_TYPES = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16))


def per_channel(value: Array, channels: int, axis: int, rank: int) -> Array | None:
    """A constant as one number a channel, when it broadcasts along every other axis."""
    if value.size == 1:
        return None if value.ndim > rank else value.reshape(1)
    if value.ndim > rank:
        return None
    shape = (1,) * (rank - value.ndim) + value.shape
    if shape[axis] != channels or value.size != channels:
        return None
    return value.reshape(channels)


def scaled_weight(layer: Node, weight: Array, scale: Array) -> Array:
    """A layer's weights, in float64, with each output channel times its factor; one factor is for all."""
    wide = weight.astype(np.float64)
    if scale.size == 1:
        return wide * scale.reshape(())
    match layer.op:
        case "Conv":
            return wide * scale.reshape(-1, *[1] * (weight.ndim - 1))
        case "ConvTranspose":
            groups = attribute(layer, "group", 1)
            split = wide.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
            factor = scale.reshape(groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
            return (split * factor).reshape(weight.shape)
        case "Gemm" if attribute(layer, "transB", 0):
            return wide * scale.reshape(-1, 1)
        case _:
            return wide * scale


def would_copy(tensor: Tensor) -> bool:
    """Whether changed weights would stand beside the old ones, which others read, and are not small."""
    values = constant_value(tensor)
    return values is not None and values.nbytes > MAX_COPY and len(set(tensor.outputs)) > 1


def scale_behind(node: Node, editor: Editor) -> bool:
    """view(layer(x)) * c, or view(x @ W + b) * c -> the layer with weights and bias times c, for one number c."""
    if editor.opset < 7:
        return False
    for index in (1, 0):
        factor, data = editor.constant(node, index), node.inputs[1 - index]
        if factor is None or factor.size != 1 or factor.dtype not in FLOAT_TYPES or (node.op == "Div" and index == 0):
            continue
        wide = float(np.asarray(factor, np.float64).reshape(()))
        wide = wide if node.op == "Mul" else 1 / wide if wide != 0 else 0.0
        same = editor.fact(data).shape is not None and editor.fact(data).shape == editor.fact(node.outputs[0]).shape
        parts = _scalable(data, node, editor) if same and wide != 0 and np.isfinite(wide) else None
        if parts is None or editor.is_end(node.outputs[0]) or any(would_copy(n.inputs[i]) for n, i in parts):
            continue
        made = [np.asarray(v * wide, v.dtype) for v in (np.asarray(editor.constant(*p)) for p in parts)]
        if not all(np.isfinite(m).all() for m in made) or not editor.allow(node):
            return False
        for (layer, position), values in zip(parts, made, strict=True):
            hint = f"{layer.inputs[position].name}_scaled"
            editor.set_input(layer, position, editor.const(layer, values, hint=hint))
        return editor.replace(node.outputs[0], data)
    return False


def _scalable(tensor: Tensor, user: Node, editor: Editor) -> list[tuple[Node, int]] | None:
    """The constant inputs that scale the tensor when they are scaled themselves, looking back through views."""
    while True:
        made = editor.private_producer(tensor, user, *VIEWS, "Transpose", *LAYERS, "Add")
        if made is None or made.op in LAYERS:
            break
        if made.op == "Add":
            return _scalable_add(made, editor)
        tensor, user = made.inputs[0], made
    if made is None or any(editor.constant(made, i) is None for i in range(1, len(made.inputs))):
        return None
    kinds = [v.dtype for i in range(1, len(made.inputs)) if (v := editor.constant(made, i)) is not None]
    return [(made, i) for i in range(1, len(made.inputs))] if all(k in FLOAT_TYPES for k in kinds) else None


def _scalable_add(add: Node, editor: Editor) -> list[tuple[Node, int]] | None:
    for index in (0, 1):
        matmul = editor.private_producer(add.inputs[1 - index], add, "MatMul")
        bias = editor.constant(add, index)
        weight = None if matmul is None else editor.constant(matmul, 1)
        if matmul is not None and bias is not None and weight is not None and weight.dtype in FLOAT_TYPES:
            return [(matmul, 1), (add, index)]
    return None


def scale_channels(node: Node, editor: Editor) -> bool:
    """x * c -> the layer that makes x with scaled weights and bias, for one number a channel.

    A bias that is added to a MatMul, and Transposes, may stand between the layer and the factor.
    """
    if editor.opset < 7:
        return False
    for index in (1, 0):
        factor, data = editor.constant(node, index), node.inputs[1 - index]
        shape = editor.fact(data).shape
        if factor is None or factor.size < 2 or factor.dtype not in FLOAT_TYPES or (node.op == "Div" and index == 0):
            continue
        axis = _only_axis(factor, shape)
        if axis is None or shape != editor.fact(node.outputs[0]).shape or editor.is_end(node.outputs[0]):
            continue
        wide = factor.reshape(-1).astype(np.float64)
        if not np.all(wide) or not np.isfinite(wide).all():
            return False
        scale = wide if node.op == "Mul" else 1 / wide
        return _scale_layer(node, data, axis, scale, editor)
    return False


def _only_axis(factor: Array, shape: SymShape | None) -> int | None:
    """The axis of the tensor along which the factor varies, when there is but one, of the tensor's own extent."""
    if shape is None or factor.ndim > len(shape):
        return None
    wide = [i for i, d in enumerate(factor.shape) if d > 1]
    axis = len(shape) - factor.ndim + wide[0]
    return axis if len(wide) == 1 and shape[axis] == factor.size else None


def _scale_layer(node: Node, data: Tensor, axis: int, scale: Array, editor: Editor) -> bool:
    """Scale what makes ``data`` along an axis, and let readers of the node read ``data``."""
    parts: list[tuple[Node, int, Array]] = []
    tensor, user = data, node
    while (made := editor.private_producer(tensor, user, "Transpose", "Add", *LAYERS)) is not None:
        rank = editor.fact(made.outputs[0]).rank
        if made.op in LAYERS or rank is None:
            break
        if made.op == "Transpose":
            axis = attribute(made, "perm", list(range(rank))[::-1])[axis]
            tensor, user = made.inputs[0], made
            continue
        at = next((i for i in (0, 1) if editor.constant(made, i) is not None), None)
        bias = None if at is None else editor.constant(made, at)
        if at is None or bias is None or parts or per_channel(bias, scale.size, axis, rank) is None:
            return False
        if editor.fact(made.inputs[1 - at]).shape != editor.fact(made.outputs[0]).shape:
            return False
        parts.append((made, at, _along(bias, scale, axis, rank)))
        tensor, user = made.inputs[1 - at], made
    weight = None if made is None else editor.constant(made, 1)
    if made is None or made.op not in LAYERS or weight is None or weight.dtype not in FLOAT_TYPES:
        return False
    rank = editor.fact(made.outputs[0]).rank
    channel = 1 if made.op in ("Conv", "ConvTranspose", "Gemm") else (None if rank is None else rank - 1)
    if axis != channel or (made.op == "MatMul" and weight.ndim != 2):
        return False
    if editor.has_input(made, 2):
        bias = editor.constant(made, 2)
        if bias is None:
            return False
        parts.append((made, 2, bias * scale))
    parts.append((made, 1, scaled_weight(made, weight, scale)))
    if any(would_copy(layer.inputs[i]) for layer, i, _ in parts) or not editor.allow(node):
        return False
    narrow = [np.asarray(values, weight.dtype) for _, _, values in parts]
    if not all(np.isfinite(values).all() for values in narrow):
        return False
    for (layer, i, _), values in zip(parts, narrow, strict=True):
        editor.set_input(layer, i, editor.const(layer, values, hint=f"{layer.inputs[i].name}_scaled"))
    return editor.replace(node.outputs[0], data)


def _along(bias: Array, scale: Array, axis: int, rank: int) -> Array:
    """The bias times the factors, which lie along an axis of a tensor of this rank."""
    shaped = scale.reshape([-1 if i == axis else 1 for i in range(rank)])
    product: Array = bias.astype(np.float64) * shaped
    return product.reshape(-1) if axis == rank - 1 else product
