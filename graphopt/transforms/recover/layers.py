"""Weighted layers as linear maps: the features they read, a weight matrix, a bias, and the tensor they give."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graphopt.analysis.statistics import Channels, Directions, Patches, Window
from graphopt.graph import Graph
from graphopt.ir import Array, Node, Tensor, constant_value


@dataclass(frozen=True)
class Layer:
    """One weighted node seen as ``output = features(data) @ matrix + bias``.

    ``patches`` cuts ``data`` into features, ``target`` cuts ``output`` into the same rows. ``weight_axis`` is the axis
    of the weight that counts input features (channels) of ``data``. ``bias`` is a constant, or None; ``can_add_bias``
    says that the node could take one. ``weight_scale`` and ``bias_scale`` are what the node multiplies them by.
    ``inner`` marks a product that no tensor holds (those of a recurrent node): its ``output`` is the data tensor, to be
    multiplied by the reference's own matrix. ``half`` says which half of the bias belongs to it.
    """

    node: Node
    data: Tensor
    weight: Tensor
    output: Tensor
    patches: Patches
    target: Channels | Directions
    bias: Tensor | None
    can_add_bias: bool
    weight_axis: int
    to_matrix: Callable[[Array], Array]
    from_matrix: Callable[[Array, tuple[int, ...]], Array]
    weight_scale: float = 1.0
    bias_scale: float = 1.0
    inner: bool = False
    half: int = 0

    @property
    def has_bias(self) -> bool:
        """Whether a fit may move the bias."""
        return self.bias is not None or self.can_add_bias

    def matrix(self) -> Array:
        """Weights and bias (last row), float64 [groups, n + 1, m]."""
        values = constant_value(self.weight)
        assert values is not None
        inner = self.to_matrix(values.astype(np.float64)) * self.weight_scale
        bias = np.zeros(inner.shape[0] * inner.shape[2])
        if self.bias is not None:
            held = constant_value(self.bias)
            assert held is not None
            bias = np.broadcast_to(self._bias_part(held).reshape(-1), bias.shape) * self.bias_scale
        return np.concatenate([inner, bias.reshape(inner.shape[0], 1, inner.shape[2])], axis=1)

    def assign(self, graph: Graph, matrix: Array) -> None:
        """Write weights and bias back, in the types they had."""
        values = constant_value(self.weight)
        assert values is not None
        weights = self.from_matrix(matrix[:, :-1] / self.weight_scale, values.shape).astype(values.dtype)
        graph.set_weight(_own(graph, self.node, self.weight), weights)
        bias = matrix[:, -1].reshape(-1) / self.bias_scale
        if self.bias is not None:
            self._assign_bias(graph, self.bias, bias)
        elif self.can_add_bias and np.any(bias):
            constant = graph.new_constant(f"{self.output.name}_bias", bias.astype(values.dtype))
            if len(self.node.inputs) > 2:
                self.node.inputs[2] = constant
            else:
                self.node.inputs.append(constant)

    def _assign_bias(self, graph: Graph, tensor: Tensor, bias: Array) -> None:
        held = constant_value(tensor)
        assert held is not None
        if self.inner:
            part = self._bias_part(held)
            new = held.astype(np.float64)
            new[:, self.half * part.shape[1] : (self.half + 1) * part.shape[1]] = bias.reshape(part.shape)
        else:
            shape = held.shape if held.size == bias.size else (*(1,) * (held.ndim - 1), bias.size)
            new = bias.reshape(shape)
        owner = self.node if self.inner else next(n for n in tensor.outputs if self.output in n.outputs)
        graph.set_weight(_own(graph, owner, tensor), new.astype(held.dtype))

    def _bias_part(self, held: Array) -> Array:
        """The bias of this product; a recurrent node holds those of input and hidden state side by side."""
        size = held.shape[1] // 2 if self.inner else 0
        return held[:, self.half * size : (self.half + 1) * size] if self.inner else held


def layer_of(node: Node, limit: int | None = None) -> Layer | None:
    """The node as a layer, or None when it is none or not of a kind that can be fitted.

    Conv, ConvTranspose, Gemm, MatMul with a constant of rank 2 (with the bias a following Add holds), and the input
    weights of LSTM, GRU and RNN. ``limit`` caps the positions looked at in each sample.
    """
    maker = _MAKERS.get(node.op) if not node.domain else None
    return None if maker is None else maker(node, limit)


def layers_of(node: Node, limit: int | None = None) -> list[Layer]:
    """All products of the node that can be fitted: two of a recurrent node that gives its hidden states, else one.

    A product of two constants is none: no data passes through it.
    """
    first = layer_of(node, limit)
    second = _hidden(node, limit) if not node.domain and node.op in ("LSTM", "GRU", "RNN") else None
    return [layer for layer in (first, second) if layer is not None and constant_value(layer.data) is None]


def with_limit(layer: Layer, limit: int | None) -> Layer:
    """The same layer, looking at no more than ``limit`` positions a sample."""
    patches: Any = layer.patches
    return replace(layer, patches=replace(patches, limit=limit), target=replace(layer.target, limit=limit))


def _own(graph: Graph, node: Node, tensor: Tensor) -> Tensor:
    """The tensor, or a copy that only ``node`` reads when others read it too."""
    if len(tensor.outputs) == 1 and not any(t is tensor for t in graph.outputs):
        return tensor
    values = constant_value(tensor)
    assert values is not None
    copy = graph.new_constant(tensor.name, values)
    for index, candidate in enumerate(node.inputs):
        if candidate is tensor:
            node.inputs[index] = copy
    return copy


def _float_weight(node: Node, index: int, rank: int | None = None) -> Tensor | None:
    if len(node.inputs) <= index or node.inputs[index].is_empty():
        return None
    tensor = node.inputs[index]
    values = constant_value(tensor)
    if values is None or values.dtype.kind != "f" or (rank is not None and values.ndim != rank):
        return None
    return tensor


def _bias_input(node: Node) -> tuple[Tensor | None, bool]:
    """The constant third input, and whether the layer is usable (an input that is not constant makes it not)."""
    if len(node.inputs) < 3 or node.inputs[2].is_empty():
        return None, True
    return (node.inputs[2], True) if constant_value(node.inputs[2]) is not None else (None, False)


def _conv(node: Node, limit: int | None) -> Layer | None:
    weight = _float_weight(node, 1)
    bias, usable = _bias_input(node)
    if weight is None or weight.shape is None or not usable or len(weight.shape) < 3:
        return None
    kernel = tuple(int(d) for d in weight.shape[2:])  # type: ignore[arg-type]
    spatial, groups = len(kernel), int(node.attrs.get("group", 1))
    auto_pad = node.attrs.get("auto_pad", "NOTSET")
    window = Window(
        kernel,
        tuple(node.attrs.get("strides", (1,) * spatial)),
        tuple(node.attrs.get("dilations", (1,) * spatial)),
        tuple(node.attrs.get("pads", (0,) * (2 * spatial))),
        groups,
        auto_pad if isinstance(auto_pad, str) else auto_pad.decode(),
        limit=limit,
    )

    def to_matrix(values: Array) -> Array:
        return values.reshape(groups, values.shape[0] // groups, -1).transpose(0, 2, 1)

    def from_matrix(matrix: Array, shape: tuple[int, ...]) -> Array:
        return matrix.transpose(0, 2, 1).reshape(shape)

    return Layer(
        node, node.inputs[0], weight, node.outputs[0], window, Channels(-1 - spatial, 1, limit), bias, True, 1,
        to_matrix, from_matrix,
    )  # fmt: skip


def _conv_transpose(node: Node, limit: int | None) -> Layer | None:
    weight = _float_weight(node, 1)
    bias, usable = _bias_input(node)
    plain = node.attrs.get("auto_pad", "NOTSET") in ("NOTSET", b"NOTSET") and "output_shape" not in node.attrs
    if weight is None or weight.shape is None or not usable or not plain or len(weight.shape) < 3:
        return None
    kernel = tuple(int(d) for d in weight.shape[2:])  # type: ignore[arg-type]
    spatial, groups = len(kernel), int(node.attrs.get("group", 1))
    dilations = tuple(node.attrs.get("dilations", (1,) * spatial))
    pads = node.attrs.get("pads", (0,) * (2 * spatial))
    extra = node.attrs.get("output_padding", (0,) * spatial)
    reach = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
    begins = [r - p for r, p in zip(reach, pads[:spatial], strict=True)]
    ends = [r - p + e for r, p, e in zip(reach, pads[spatial:], extra, strict=True)]
    if min(begins + ends) < 0:
        return None
    window = Window(
        kernel, (1,) * spatial, dilations, (*begins, *ends), groups,
        stuffing=tuple(node.attrs.get("strides", (1,) * spatial)), limit=limit,
    )  # fmt: skip
    positions = math.prod(kernel)

    def to_matrix(values: Array) -> Array:
        inputs, outputs = values.shape[0] // groups, values.shape[1]
        cut = values.reshape(groups, inputs, outputs, positions)[..., ::-1]
        return cut.transpose(0, 1, 3, 2).reshape(groups, inputs * positions, outputs)

    def from_matrix(matrix: Array, shape: tuple[int, ...]) -> Array:
        cut = matrix.reshape(groups, shape[0] // groups, positions, shape[1])[:, :, ::-1]
        return np.ascontiguousarray(cut.transpose(0, 1, 3, 2)).reshape(shape)

    return Layer(
        node, node.inputs[0], weight, node.outputs[0], window, Channels(-1 - spatial, 1, limit), bias, True, 0,
        to_matrix, from_matrix,
    )  # fmt: skip


def _gemm(node: Node, limit: int | None) -> Layer | None:
    weight = _float_weight(node, 1, 2)
    bias, usable = _bias_input(node)
    alpha, beta = float(node.attrs.get("alpha", 1.0)), float(node.attrs.get("beta", 1.0))
    if weight is None or weight.shape is None or not usable or node.attrs.get("transA", 0):
        return None
    transposed = bool(node.attrs.get("transB", 0))
    outputs = weight.shape[0 if transposed else 1]
    if bias is not None and not _is_row(bias, int(outputs)):  # type: ignore[arg-type]
        return None
    if alpha == 0 or beta == 0:
        return None
    return Layer(
        node, node.inputs[0], weight, node.outputs[0], Channels(-1, 1, limit), Channels(-1, 1, limit), bias, True,
        1 if transposed else 0, *_dense(transposed), weight_scale=alpha, bias_scale=beta,
    )  # fmt: skip


def _matmul(node: Node, limit: int | None) -> Layer | None:
    weight = _float_weight(node, 1, 2)
    if weight is None or weight.shape is None:
        return None
    output, bias = node.outputs[0], None
    if len(output.outputs) == 1 and output.outputs[0].is_op("Add"):
        add = output.outputs[0]
        others = [t for t in add.inputs if t is not output]
        if len(others) == 1 and _is_row(others[0], int(weight.shape[1])):  # type: ignore[arg-type]
            output, bias = add.outputs[0], others[0]
    return Layer(
        node, node.inputs[0], weight, output, Channels(-1, 1, limit), Channels(-1, 1, limit), bias, False, 0,
        *_dense(False),
    )  # fmt: skip


def _recurrent(node: Node, limit: int | None) -> Layer | None:
    weight = _float_weight(node, 1, 3)
    if weight is None:
        return None
    bias = node.inputs[3] if len(node.inputs) > 3 and not node.inputs[3].is_empty() else None
    if bias is not None and constant_value(bias) is None:
        return None
    rows = Channels(-1, 1, limit, batch_axis=0 if node.attrs.get("layout", 0) else 1)

    def to_matrix(values: Array) -> Array:
        return values.reshape(1, -1, values.shape[2]).transpose(0, 2, 1)

    def from_matrix(matrix: Array, shape: tuple[int, ...]) -> Array:
        return np.ascontiguousarray(matrix[0].T).reshape(shape)

    data = node.inputs[0]
    return Layer(node, data, weight, data, rows, rows, bias, False, 2, to_matrix, from_matrix, inner=True)


def _hidden(node: Node, limit: int | None) -> Layer | None:
    """The product of the hidden state, when all hidden states are an output."""
    weight = _float_weight(node, 2, 3)
    if weight is None or weight.shape is None or not node.outputs or node.outputs[0].is_empty():
        return None
    bias = node.inputs[3] if len(node.inputs) > 3 and not node.inputs[3].is_empty() else None
    if bias is not None and constant_value(bias) is None:
        return None
    rows = Directions(int(weight.shape[0]), limit, 0 if node.attrs.get("layout", 0) else 2)  # type: ignore[arg-type]

    def to_matrix(values: Array) -> Array:
        return values.transpose(0, 2, 1)

    def from_matrix(matrix: Array, _: tuple[int, ...]) -> Array:
        return np.ascontiguousarray(matrix.transpose(0, 2, 1))

    data = node.outputs[0]
    return Layer(node, data, weight, data, rows, rows, bias, False, 2, to_matrix, from_matrix, inner=True, half=1)


def _dense(transposed: bool) -> tuple[Callable[[Array], Array], Callable[[Array, tuple[int, ...]], Array]]:
    if transposed:
        return (lambda values: values.T[None]), (lambda matrix, _: np.ascontiguousarray(matrix[0].T))
    return (lambda values: values[None]), (lambda matrix, _: np.ascontiguousarray(matrix[0]))


def _is_row(tensor: Tensor, size: int) -> bool:
    """Whether a constant broadcasts as one value a column (or one for all), and nothing else."""
    values = constant_value(tensor)
    return (
        values is not None
        and values.dtype.kind == "f"
        and values.size in (1, size)
        and (values.ndim == 0 or values.shape[-1] == values.size)
    )


_MAKERS: dict[str, Callable[[Node, int | None], Layer | None]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}
