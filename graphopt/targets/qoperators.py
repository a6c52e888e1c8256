"""Operators that compute on quantized tensors, and the float operator each stands for between Q and DQ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from graphopt.ir import Node, constant_value

MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class QOperator:
    """One row.

    Attributes:
        op: float operator of ``ai.onnx``.
        operands: positions of data, scale and zero point of each quantized operand.
        output: positions of the output's scale and zero point.
        bias: position of an int32 bias whose scale is the product of the operands' scales (times ``alpha``).
        weight: which operand may have a scale for each channel, or None.
        drops: attributes that the float operator does not have; they must be 0.
    """

    op: str
    operands: tuple[tuple[int, int, int], ...]
    output: tuple[int, int]
    bias: int | None = None
    weight: int | None = None
    drops: tuple[str, ...] = ()


_UNARY = ((0, 1, 2),)
_BINARY = ((0, 1, 2), (3, 4, 5))
_CHANNELS = ("channels_last",)

CONVERTIBLE: Mapping[str, QOperator] = MappingProxyType(
    {
        "QLinearConv": QOperator("Conv", _BINARY, (6, 7), bias=8, weight=1, drops=_CHANNELS),
        "QLinearMatMul": QOperator("MatMul", _BINARY, (6, 7), weight=1),
        "QGemm": QOperator("Gemm", _BINARY, (7, 8), bias=6, weight=1),
        "QLinearAdd": QOperator("Add", _BINARY, (6, 7)),
        "QLinearMul": QOperator("Mul", _BINARY, (6, 7)),
        "QLinearAveragePool": QOperator("AveragePool", _UNARY, (3, 4), drops=_CHANNELS),
        "QLinearGlobalAveragePool": QOperator("GlobalAveragePool", _UNARY, (3, 4), drops=_CHANNELS),
        "QLinearLeakyRelu": QOperator("LeakyRelu", _UNARY, (3, 4)),
        "QLinearSigmoid": QOperator("Sigmoid", _UNARY, (3, 4)),
    }
)
_OTHERS = (
    "QLinearConcat",
    "QLinearReduceMean",
    "QLinearSoftmax",
    "QLinearWhere",
    "QAttention",
    "QEmbedLayerNormalization",
)
QOPERATORS = frozenset((*CONVERTIBLE, *_OTHERS))


def convertible(node: Node) -> bool:
    """Whether a node has a row, with constant scales and attributes that the float operator can have."""
    row = CONVERTIBLE.get(node.op)
    if row is None or any(node.attrs.get(name, 0) for name in row.drops):
        return False
    scales = [node.inputs[scale] for _, scale, _ in row.operands]
    if has_output_scale(node, row):
        scales.append(node.inputs[row.output[0]])
    return all(constant_value(s) is not None for s in scales)


def has_output_scale(node: Node, row: QOperator) -> bool:
    """Whether the output is quantized; without a scale it is float."""
    return len(node.inputs) > row.output[0] and not node.inputs[row.output[0]].is_empty()
