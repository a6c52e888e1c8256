"""Dynamic quantization: weights are stored as integers, activations are quantized as the model runs.

A matrix product becomes DynamicQuantizeLinear, MatMulInteger, Cast and two Mul, the form that ONNX Runtime fuses to one
kernel (DynamicQuantizeMatMul, or MatMulIntegerToFloat where several products share an input). An LSTM becomes
``com.microsoft`` DynamicQuantizeLSTM: both weight matrices in int8 with a scale for each gate's channel, the input and
the hidden state quantized at each step. A GRU becomes a Scan with such products (``gru``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from graphopt.analysis.shapes import Facts
from graphopt.graph import Graph
from graphopt.ir import Array, Node, Tensor, Variable, constant_value, is_constant
from graphopt.model import Model
from graphopt.targets.base import INT_TYPES, Target
from graphopt.targets.profile import Profile
from graphopt.targets.qoperators import MICROSOFT
from graphopt.transforms.quantize import gru
from graphopt.transforms.quantize.weight_grids import QuantizedWeight, quantize_weight, weight_scale

RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_PRODUCTS = frozenset({"MatMul", "Gemm"})
_ROWS = (1, 16, 128, 512)
_UNKNOWN_ROWS = 16
_PASSES = 2
_INT8 = INT_TYPES["int8"]


@dataclass(frozen=True)
class DynamicLayer:
    """A layer that could run on integers, in the graph that holds it; ``why_float`` says why it cannot ("" if it can).

    ``rows``: rows of the matrix product of a run (0 when unknown), for a recurrent node its steps times the batch;
    ``steps``: those steps.
    """

    graph: Graph
    node: Node
    rows: int = 0
    why_float: str = ""
    steps: int = 0

    @property
    def recurrent(self) -> bool:
        """Whether it is an LSTM, GRU or RNN."""
        return self.node.op in RECURRENT


def find_layers(model: Model, target: Target, facts: Facts) -> list[DynamicLayer]:
    """Matrix products with a constant matrix, and recurrent nodes, of all graphs."""
    found = []
    for graph in model.graph.graphs():
        for node in graph.nodes:
            if node.domain or node.op not in _PRODUCTS | RECURRENT:
                continue
            weight = constant_value(node.inputs[1])
            if node.op in _PRODUCTS and (weight is None or is_constant(node.inputs[0])):
                continue
            steps = _steps(node, facts) if node.op in RECURRENT else 0
            found.append(DynamicLayer(graph, node, _rows(node, facts), _problem(node, weight, target), steps))
    return found


def _problem(node: Node, weight: Array | None, target: Target) -> str:
    if node.op not in target.dynamic:
        return f"{target.name} has no {node.op} kernel that quantizes its input as it runs"
    if weight is None or weight.dtype != np.float32:
        kind = "computed" if weight is None else str(weight.dtype)
        return f"weight {node.inputs[1].name!r} is {kind}, not constant float32"
    if not weight.size:
        return f"weight {node.inputs[1].name!r} is empty"
    if not np.isfinite(weight).all():
        return f"weight {node.inputs[1].name!r} holds NaN or infinite values"
    if node.op in RECURRENT:
        return _lstm_problem(node) if node.op == "LSTM" else gru.problem(node)
    if weight.ndim != 2:
        return f"weight {node.inputs[1].name!r} has {weight.ndim} axes; the kernel takes a matrix"
    if node.op == "Gemm" and node.attrs.get("transA", 0):
        return "the kernel does not take a transposed input"
    return ""


def _lstm_problem(node: Node) -> str:
    other = constant_value(node.inputs[2])
    if other is None or other.dtype != np.float32 or not np.isfinite(other).all():
        return f"weight {node.inputs[2].name!r} is not constant, finite float32"
    return "the integer LSTM has no layout=1" if node.attrs.get("layout", 0) else ""


def _rows(node: Node, facts: Facts) -> int:
    shape = facts.shape(node.inputs[0])
    if shape is None or len(shape) < 2 or any(d in facts.guessed for d in shape):
        return 0
    return int(np.prod(shape[:-1], dtype=np.int64))


def _steps(node: Node, facts: Facts) -> int:
    shape = facts.shape(node.inputs[0])
    return 0 if not shape or shape[0] in facts.guessed else shape[0]


def gain_us(layer: DynamicLayer, profile: Profile, readers: int = 1) -> float | None:
    """Microseconds that integers save in a run, quantizing the input included; None when the profile does not say.

    ``readers``: how many products share the quantized input. Finding the extremes and rounding are two passes over the
    input; the profile's time of a product includes one.
    """
    node, rows = layer.node, layer.rows or _UNKNOWN_ROWS
    shape = node.inputs[1].shape
    weight = constant_value(node.inputs[1]) if shape is None else None
    extents = [int(d) for d in (weight.shape if weight is not None else shape or ()) if d is not None]
    if layer.recurrent:
        if not profile.knows("lstm"):
            return None
        hidden = int(node.attrs.get("hidden_size", extents[1] // 4))
        macs = float(rows * extents[0] * extents[1] * (extents[2] + hidden))
        if node.op == "GRU":
            floating = profile.macs_us("lstm", "float32", hidden, macs)
            return floating - _gru_us(profile, (extents[0], extents[2], hidden), rows, layer.steps or rows)
        times = [profile.macs_us("lstm", p, hidden, macs) for p in ("float32", "int8")]
        return times[0] - times[1]
    depth, width = extents if not node.attrs.get("transB", 0) else extents[::-1]
    near = f"matmul{max(r for r in _ROWS if r <= rows)}"
    macs, channels = float(rows * depth * width), (depth * width) ** 0.5
    times = [profile.macs_us(near, p, channels, macs) for p in ("float32", "int8")]
    border = profile.border_us(rows * depth, layout=False)
    return times[0] - times[1] - border * (_PASSES / readers - 1)


def _gru_us(profile: Profile, extents: tuple[int, int, int], rows: int, steps: int) -> float:
    """Microseconds of a GRU on integers. ``extents``: directions, inputs, hidden units."""

    def product(count: int, depth: int) -> float:
        near = f"matmul{max(r for r in _ROWS if r <= count)}"
        width = 3 * hidden
        time = profile.macs_us(near, "int8", (depth * width) ** 0.5, float(count * depth * width))
        return time + profile.border_us(count * depth, layout=False)

    directions, inputs, hidden = extents
    step = product(max(rows // steps, 1), hidden) + gru.BODY_NODES * profile.node_us["float32"]
    return directions * (product(rows, inputs) + steps * step)


class DynamicQuantizer:
    """Rewrites layers of one model. Inputs read by several products are quantized once, shared weights stored once."""

    def __init__(self, model: Model, per_channel: bool = True, reduced: bool = False) -> None:
        self.model, self.per_channel, self.reduced = model, per_channel, reduced
        self._inputs: dict[tuple[int, int], list[Tensor]] = {}
        self._stored: dict[tuple[int, int, bool], tuple[Tensor, Tensor, Tensor]] = {}

    def quantize(self, layer: DynamicLayer) -> None:
        """Put the integer form in the place of a layer that can have it."""
        if layer.node.op == "GRU":
            for graph, node in gru.scan_gru(layer.graph, layer.node):
                self._product(graph, node)
        elif layer.recurrent:
            self._lstm(layer.graph, layer.node)
        else:
            self._product(layer.graph, layer.node)

    def finish(self) -> None:
        """Drop what is not read any more, and sort."""
        self.model.graph.sort()
        self.model.graph.remove_dead()

    def _product(self, graph: Graph, node: Node) -> None:
        source, weight, result = node.inputs[0], node.inputs[1], node.outputs[0]
        bias = node.inputs[2] if len(node.inputs) > 2 and not node.inputs[2].is_empty() else None
        label, attrs = node.name or node.op, dict(node.attrs)
        data, scale, zero = self._input(graph, source, node)
        stored, weight_scale_, weight_zero = self._weight(graph, weight, bool(attrs.get("transB", 0)))
        alpha = np.float32(attrs.get("alpha", 1.0))
        if alpha != 1:
            value = constant_value(weight_scale_)
            assert value is not None
            weight_scale_ = graph.new_constant(f"{label}_scale", value * alpha)
        node.outputs.clear()
        product = self._add(graph, node, "MatMulInteger", [data, stored, zero, weight_zero])
        real = self._add(graph, node, "Cast", [product], to=int(onnx.TensorProto.FLOAT))
        both = self._add(graph, node, "Mul", [scale, weight_scale_], suffix="scales")
        last: list[Tensor] = [result]
        if bias is None:
            made = graph.add_node("Mul", [real, both], last, name=label, before=node)
        else:
            scaled = self._add(graph, node, "Mul", [real, both], suffix="scaled")
            made = graph.add_node("Add", [scaled, self._beta(graph, bias, attrs)], last, name=label, before=node)
        made.name = node.name
        graph.remove_nodes([node])

    def _add(self, graph: Graph, node: Node, op: str, inputs: list[Tensor], suffix: str = "", **attrs: int) -> Tensor:
        name = f"{node.name or node.op}_{suffix or op}"
        return graph.add_node(op, inputs, attrs=attrs, name=name, before=node).outputs[0]

    def _beta(self, graph: Graph, bias: Tensor, attrs: Mapping[str, Any]) -> Tensor:
        beta = np.float32(attrs.get("beta", 1.0))
        if beta == 1:
            return bias
        value = constant_value(bias)
        if value is not None:
            return graph.new_constant(f"{bias.name}_beta", (value * beta).astype(np.float32))
        factor = graph.new_constant(f"{bias.name}_factor", beta)
        return graph.add_node("Mul", [bias, factor], name=f"{bias.name}_beta").outputs[0]

    def _input(self, graph: Graph, source: Tensor, node: Node) -> list[Tensor]:
        key = (id(graph), id(source))
        if key not in self._inputs:
            made = graph.add_node(
                "DynamicQuantizeLinear", [source], 3, name=f"{source.name}_DynamicQuantizeLinear", before=node
            )
            self._inputs[key] = list(made.outputs)
        return self._inputs[key]

    def _weight(self, graph: Graph, weight: Tensor, transposed: bool) -> tuple[Tensor, Tensor, Tensor]:
        key = (id(graph), id(weight), transposed)
        if key not in self._stored:
            value = constant_value(weight)
            assert value is not None
            found = self._grid(value.T if transposed else value)
            self._stored[key] = (
                graph.new_constant(f"{weight.name}_quantized", np.ascontiguousarray(found.stored)),
                graph.new_constant(f"{weight.name}_scale", found.scale),
                graph.new_constant(f"{weight.name}_zero_point", np.zeros(found.scale.shape, np.int8)),
            )
        return self._stored[key]

    def _grid(self, value: Array) -> QuantizedWeight:
        axis = value.ndim - 1 if self.per_channel else None
        return quantize_weight(value, weight_scale(value, axis, _INT8, self.reduced), axis, _INT8, self.reduced)

    def _lstm(self, graph: Graph, node: Node) -> None:
        kept = [None if t.is_empty() else t for t in node.inputs] + [None] * (8 - len(node.inputs))
        matrices = [self._recurrent(graph, node.inputs[1]), self._recurrent(graph, node.inputs[2])]
        outputs = list(node.outputs)
        attrs = {k: v for k, v in node.attrs.items() if k != "layout"}
        node.outputs.clear()
        made = graph.add_node(
            "DynamicQuantizeLSTM",
            [kept[0], matrices[0][0], matrices[1][0], *kept[3:8], *matrices[0][1:], *matrices[1][1:]],
            outputs,
            attrs=attrs,
            name=node.name or "LSTM",
            domain=MICROSOFT,
            before=node,
        )
        made.name = node.name
        graph.remove_nodes([node])

    def _recurrent(self, graph: Graph, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gates [directions, 4 hidden, inputs] as [directions, inputs, 4 hidden], int8."""
        key = (id(graph), id(weight), True)
        if key not in self._stored:
            value = constant_value(weight)
            assert value is not None
            parts = [self._grid(direction.T) for direction in value]
            shape = (len(parts), parts[0].stored.shape[1]) if self.per_channel else (len(parts),)
            scale = np.stack([p.scale for p in parts]).reshape(shape)
            self._stored[key] = (
                graph.new_constant(f"{weight.name}_quantized", np.stack([p.stored for p in parts])),
                graph.new_constant(f"{weight.name}_scale", scale),
                graph.new_constant(f"{weight.name}_zero_point", np.zeros(shape, np.int8)),
            )
        return self._stored[key]


def shares_input(layers: list[DynamicLayer]) -> dict[int, int]:
    """Id of each input tensor to the number of matrix products that read it."""
    found: dict[int, int] = {}
    for layer in layers:
        source = layer.node.inputs[0]
        if not layer.recurrent and isinstance(source, Variable):
            found[id(source)] = found.get(id(source), 0) + 1
    return found
