"""Q/DQ rules of TensorRT: what its parser refuses, what it takes but understands otherwise, what stays in float.

Each row restates a fact measured with NVIDIA's TensorRT for RTX parser and builder 1.7.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from graphopt.ir import Node, is_constant
from graphopt.targets.checks.base import (
    DEQUANTIZE,
    QUANTIZE,
    Finding,
    Quantizer,
    Rule,
    View,
    dequantized,
    fixed_source,
    producer,
    quantized_layers,
    quantizers,
    read_quantizer,
    weight_dequantizer,
)

_REFUSED_TYPES = frozenset(
    {"int16", "uint16", "uint4", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "uint2", "int2"}
)
_HALF_UINT8 = 128


def _zero_points(view: View) -> Iterator[Finding]:
    """A zero point that is not 0, on an activation or a weight."""
    for q in quantizers(view):
        if q.zero is None or q.zero.dtype not in (np.uint8, np.int8) or not np.any(q.zero):
            continue
        if q.type == np.uint8 and np.all(q.zero == _HALF_UINT8):
            yield Finding(q.node, "uint8 with zero point 128 is refused; int8 with 0 has the same values", _SHIFT, True)
        else:
            text = f"{q.type} with a zero point that is not 0 is refused: quantization must be symmetric"
            yield Finding(q.node, text, _SYMMETRIC, q.scale is not None)


def _uint8_activation(view: View) -> Iterator[Finding]:
    """uint8 with zero point 0: taken, but as int8."""
    for q in quantizers(view):
        zero = q.zero is not None and not np.any(q.zero) and q.type == np.uint8
        if zero and not fixed_source(q.node.inputs[0]):
            yield Finding(q.node, "uint8 with zero point 0 is taken as int8: values above 127 steps would be cut off")


def _missing_zero_point(view: View) -> Iterator[Finding]:
    for q in quantizers(view, QUANTIZE):
        if not q.has_zero and not q.node.attrs.get("output_dtype"):
            yield Finding(q.node, "no zero point means uint8 in ONNX, but int8 here: the values would be cut off")


def _uint8_weight(view: View) -> Iterator[Finding]:
    for q in quantizers(view):
        if q.type == np.uint8 and fixed_source(q.node.inputs[0]) and not (q.zero is not None and np.any(q.zero)):
            yield Finding(q.node, "uint8 weights are refused")


def _int32_bias(view: View) -> Iterator[Finding]:
    for q in quantizers(view, DEQUANTIZE):
        if q.type == np.int32 or (not q.has_zero and _stored(view, q.node) == np.int32):
            constant = is_constant(q.node.inputs[0])
            yield Finding(q.node, "a DequantizeLinear of int32 (a quantized bias) is refused", fixable=constant)


def _stored(view: View, node: Node) -> np.dtype[Any] | None:
    return view.dtype(node.inputs[0])


def _types(view: View) -> Iterator[Finding]:
    for q in quantizers(view):
        if q.type is not None and q.type.name in _REFUSED_TYPES:
            yield Finding(q.node, f"{q.type.name} is refused")


def _scale_values(view: View) -> Iterator[Finding]:
    for q in quantizers(view):
        if q.scale is not None and not np.all(np.asarray(q.scale, np.float32) > 0):
            yield Finding(q.node, "a scale is not above 0")


def _scale_rank(view: View) -> Iterator[Finding]:
    for q in quantizers(view):
        if q.type == np.int32 or q.block_size or q.scale is None:
            continue
        if q.scale.shape == (1,) and not _single_channel(view, q):
            yield Finding(q.node, "a single scale of shape [1]: the layers beside it run in float")


def _single_channel(view: View, q: Quantizer) -> bool:
    """Whether the axis of the scale has one entry, so that [1] is a scale for each channel."""
    shape = view.shape(q.node.inputs[0])
    return shape is not None and len(shape) > 1 and -len(shape) <= q.axis < len(shape) and shape[q.axis] == 1


def _weight_axis(view: View) -> Iterator[Finding]:
    for node in view.ops("Conv"):
        found = weight_dequantizer(node)
        if found is None:
            continue
        q = read_quantizer(found)
        rank = len(view.shape(found.inputs[0]) or ())
        if q.scale is not None and q.scale.size > 1 and not q.block_size and rank and q.axis % rank != 0:
            yield Finding(node, f"its weight has a scale for each index of axis {q.axis}: it runs in float")


def _channel_activation(view: View) -> Iterator[Finding]:
    for q in quantizers(view):
        if q.scale is not None and q.scale.size > 1 and not q.block_size and not fixed_source(q.node.inputs[0]):
            source = producer(q.node.inputs[0])
            if (
                q.node.op == DEQUANTIZE
                and source is not None
                and fixed_source(source.inputs[0] if source.inputs else q.node.inputs[0])
            ):
                continue
            yield Finding(q.node, "an activation with a scale for each channel: the layers beside it run in float")


def _transposed(view: View) -> Iterator[Finding]:
    for node in quantized_layers(view):
        if node.op == "ConvTranspose":
            yield Finding(node, "a transposed convolution runs in float, Q/DQ around it or not")


def _half_quantized(view: View) -> Iterator[Finding]:
    for node in view.ops("Conv"):
        has_input = dequantized(node.inputs[0]) is not None
        has_weight = weight_dequantizer(node) is not None
        if has_input != has_weight:
            side = "input" if has_input else "weight"
            other = "weight" if has_input else "input"
            yield Finding(node, f"its {side} is quantized and its {other} is not: it runs in float")


def _four_bit_conv(view: View) -> Iterator[Finding]:
    for node in view.ops("Conv"):
        found = weight_dequantizer(node)
        kind = None if found is None else read_quantizer(found).type
        if kind is not None and kind.name == "int4":
            yield Finding(node, "a convolution with int4 weights parses but does not build")


def _padded_channels(view: View) -> Iterator[Finding]:
    for node in quantized_layers(view):
        shape = view.shape(node.inputs[1]) if node.op == "Conv" else None
        if shape is None or int(node.attrs.get("group", 1)) > 1:
            continue
        odd = [n for n in shape[:2] if n is not None and n > 8 and n % 4]
        if odd:
            yield Finding(node, f"{odd[0]} channels are padded to a multiple of 4 at run time")


_SHIFT = "make it int8 with zero point 0 (exact)"
_SYMMETRIC = "quantize again for --target tensorrt; --fix widens the range to a symmetric one, with a coarser step"

QDQ_RULES = (
    Rule("zero-point", "error", _SYMMETRIC, _zero_points, fixable=True),
    Rule("uint8-activation", "error", _SYMMETRIC, _uint8_activation, fixable=True),
    Rule("missing-zero-point", "error", _SYMMETRIC, _missing_zero_point, fixable=True),
    Rule("uint8-weight", "error", "store the weight as int8, symmetric", _uint8_weight, fixable=True),
    Rule("int32-bias", "error", "keep the bias in float32 (QuantizeBias=False)", _int32_bias, fixable=True),
    Rule("qdq-type", "error", "use int8, int4 (weights) or float8_e4m3fn", _types),
    Rule("scale-value", "error", "quantize again; a range is empty or reversed", _scale_values),
    Rule("int4-conv", "error", "use int8 weights for convolutions", _four_bit_conv),
    Rule("scale-rank", "warning", "store the scale and zero point with rank 0", _scale_rank, fixable=True),
    Rule("weight-axis", "warning", "use axis 0, or one scale for the weight", _weight_axis),
    Rule("channel-activation", "warning", "use one scale for the activation", _channel_activation),
    Rule("transposed-conv", "warning", "leave it out of the quantization", _transposed),
    Rule("half-quantized", "warning", "quantize both or neither", _half_quantized),
    Rule("padded-channels", "note", "prune to multiples of 4 (better 16)", _padded_channels),
)
