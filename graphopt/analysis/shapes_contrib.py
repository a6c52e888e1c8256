"""Output types of com.microsoft operators, which ONNX's own inference does not know. One row per operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from graphopt.analysis.opnames import ops
from graphopt.analysis.shapes_fast import Shape, Typed, ValueOf, broadcast
from graphopt.ir import Node

Row: TypeAlias = "Callable[[Node, Sequence[Typed], ValueOf], list[Typed] | None]"
_FLOAT = np.dtype(np.float32)
_CONV_ATTRS = ("group", "pads", "strides", "dilations", "kernel_shape", "auto_pad", "ceil_mode", "count_include_pad")


def infer_contrib(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    """Types of the outputs of a com.microsoft node, or None when it has no row or its inputs are not known."""
    row = _ROWS.get(node.op) if node.domain == "com.microsoft" else None
    if row is None or not given or given[0][1] is None:
        return None
    found = row(node, given, value)
    if found is None:
        return None
    return [*found, *[(None, None)] * (len(node.outputs) - len(found))]


def _first(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    return [given[0]]


def _skip_norm(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    shape = given[0][1]
    assert shape is not None
    one: Typed = (_FLOAT, (*shape[:-1], 1))
    return [given[0], one, one, given[0]][: len(node.outputs)]


def _embed(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    (_, ids), (dtype, table) = given[0], given[2]
    if ids is None or table is None:
        return None
    whole: Typed = (dtype, (*ids, table[1]))
    return [whole, (np.dtype(np.int32), ids[:1]), whole][: len(node.outputs)]


def _swapped(shape: Shape, swap: object) -> Shape:
    return (*shape[:-2], shape[-1], shape[-2]) if shape is not None and swap else shape


def _product(a: int, b: int, dtype: np.dtype[Any] | None = None) -> Row:
    def row(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
        if node.attrs.get("transBatchA") or node.attrs.get("transBatchB"):
            return None
        left, right = _swapped(given[a][1], node.attrs.get("transA")), _swapped(given[b][1], node.attrs.get("transB"))
        if left is None or right is None or len(left) < 2 or len(right) < 2:
            return None
        batch = broadcast([left[:-2], right[:-2]], set())
        return None if batch is None else [(dtype or given[a][0], (*batch, left[-2], right[-1]))]

    return row


def _qgemm(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    quantized = len(given) > 8 and given[8][0] is not None
    return _product(0, 3, given[8][0] if quantized else _FLOAT)(node, given, value)


def _broadcast(*places: int) -> Row:
    def row(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
        shape = broadcast([given[p][1] for p in places if p < len(given)], set())
        return None if shape is None else [(given[places[-1]][0], shape)]

    return row


def _concat(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    shapes = [given[i][1] for i in range(2, len(given), 3)]
    first = shapes[0]
    if first is None or any(s is None for s in shapes):
        return None
    place = int(node.attrs["axis"]) % len(first)
    total = sum(s[place] for s in shapes if s is not None)
    return [(given[2][0], (*first[:place], total, *first[place + 1 :]))]


def _reduce(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    dtype, shape = given[0]
    assert shape is not None
    over = {int(a) % len(shape) for a in node.attrs.get("axes", range(len(shape)))}
    keep = node.attrs.get("keepdims", 1)
    return [(dtype, tuple(1 if i in over else e for i, e in enumerate(shape) if keep or i not in over))]


def _window(op: str, weight: int | None) -> Row:
    """As the ai.onnx operator ``op`` on a tensor with channels second."""

    def row(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
        shape = given[0][1]
        last = node.attrs.get("channels_last", 0) or node.op.startswith("Nhwc")
        assert shape is not None
        inner = (shape[0], shape[-1], *shape[1:-1]) if last else shape
        found = _onnx(op, node, inner, None if weight is None else given[weight][1])
        if found is None:
            return None
        return [(given[0][0], (found[0], *found[2:], found[1]) if last else found)]

    return row


def _onnx(op: str, node: Node, shape: tuple[int, ...], weight: Shape) -> tuple[int, ...] | None:
    import onnx

    inputs = ["x"] if weight is None else ["x", "w"]
    attrs = {k: v for k, v in node.attrs.items() if k in _CONV_ATTRS}
    proto = onnx.helper.make_node(op, inputs, ["y"], **attrs)
    types = {n: onnx.helper.make_tensor_type_proto(1, s) for n, s in zip(inputs, (shape, weight), strict=False)}
    try:
        found = onnx.shape_inference.infer_node_outputs(onnx.defs.get_schema(op, 13), proto, types)
    except onnx.shape_inference.InferenceError:
        return None
    extents = tuple(d.dim_value for d in found["y"].tensor_type.shape.dim) if "y" in found else ()
    return extents if extents and min(extents) > 0 else None


def _fused_gemm(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    return _product(0, 1)(node, given, value)


def _multi_head(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    q = given[0][1]
    if q is None or len(q) != 3 or len(given) < 3 or given[2][1] is None or len(node.outputs) > 1:
        return None
    v = given[2][1]
    return [(given[0][0], (*q[:2], v[-1] if len(v) == 3 else v[1] * v[3]))]


def _grouped_query(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    q = given[0][1]
    if len(node.outputs) > 1 or q is None or len(given) < 3 or given[2][1] is None:
        return None
    heads, kv = int(node.attrs["num_heads"]), int(node.attrs["kv_num_heads"])
    return [(given[0][0], (*q[:2], heads * (given[2][1][-1] // kv)))]


def _attention(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    x, w = given[0][1], given[1][1]
    if len(node.outputs) > 1 or x is None or w is None:
        return None
    sizes = node.attrs.get("qkv_hidden_sizes")
    dtype = given[0][0] if node.op == "Attention" else given[3][0]
    return [(dtype, (*x[:2], sizes[2] if sizes else w[1] // 3))]


def _dynamic_lstm(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    (dtype, x), (_, w) = given[0], given[1]
    if x is None or w is None:
        return None
    state: Typed = (dtype, (w[0], x[1], w[2] // 4))
    return [(dtype, (x[0], w[0], x[1], w[2] // 4)), state, state][: len(node.outputs)]


def _nbits(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    shape = given[0][1]
    return None if shape is None else [(given[0][0], (*shape[:-1], int(node.attrs["N"])))]


def _swiglu(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    dtype, shape = given[0]
    assert shape is not None
    return [(dtype, shape if len(given) > 1 and given[1][1] is not None else (*shape[:-1], shape[-1] // 2))]


def _quantize(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    dequantize = node.op == "DequantizeLinear"
    kind = given[1][0] if dequantize else given[2][0] if len(given) > 2 else np.dtype(np.uint8)
    return [(kind, given[0][1])]


def _relative_bias(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    (dtype, table), queries, keys = given[0], value(1), value(2)
    if table is None or queries is None or keys is None:
        return None
    return [(dtype, (1, table[1], int(queries.reshape(-1)[0]), int(keys.reshape(-1)[0])))]


def _expand_dims(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    (dtype, shape), place = given[0], value(1)
    if shape is None or place is None:
        return None
    made = list(shape)
    made.insert(int(place.reshape(-1)[0]) % (len(shape) + 1), 1)
    return [(dtype, tuple(made))]


_ROWS: Mapping[str, Row] = {
    **dict.fromkeys(
        ops(
            "Gelu FastGelu QuickGelu BiasGelu SimplifiedLayerNormalization RotaryEmbedding BiasAdd GroupNorm "
            "QLinearSigmoid QLinearLeakyRelu QLinearSoftmax BiasSoftmax BiasDropout MoE ScaledSiLU Inverse Trilu"
        ),
        _first,
    ),
    **dict.fromkeys(ops("SkipLayerNormalization SkipSimplifiedLayerNormalization"), _skip_norm),
    **dict.fromkeys(ops("FusedMatMul TransposeMatMul FusedMatMulActivation GemmFastGelu"), _product(0, 1)),
    **dict.fromkeys(ops("MatMulIntegerToFloat DynamicQuantizeMatMul"), _product(0, 1, _FLOAT)),
    **dict.fromkeys(ops("QLinearAdd QLinearMul"), _broadcast(0, 3)),
    **dict.fromkeys(ops("NhwcConv NhwcFusedConv FusedConv"), _window("Conv", 1)),
    **dict.fromkeys(ops("QuantizeLinear DequantizeLinear"), _quantize),
    **dict.fromkeys(ops("Attention QAttention"), _attention),
    "QLinearConv": _window("Conv", 3),
    "NhwcMaxPool": _window("MaxPool", None),
    "QLinearAveragePool": _window("AveragePool", None),
    "QLinearGlobalAveragePool": _window("GlobalAveragePool", None),
    "QLinearWhere": _broadcast(0, 1, 4),
    "QLinearConcat": _concat,
    "QLinearReduceMean": _reduce,
    "QGemm": _qgemm,
    "EmbedLayerNormalization": _embed,
    "FusedGemm": _fused_gemm,
    "MultiHeadAttention": _multi_head,
    "GroupQueryAttention": _grouped_query,
    "MatMulNBits": _nbits,
    "DynamicQuantizeLSTM": _dynamic_lstm,
    "SwiGLU": _swiglu,
    "RelativePositionBias": _relative_bias,
    "ExpandDims": _expand_dims,
}
