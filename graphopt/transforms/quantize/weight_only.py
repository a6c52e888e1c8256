"""Weight-only quantization: matrices in few bits, activations as they are.

Two forms: ``com.microsoft`` MatMulNBits, which ONNX Runtime's CPU provider runs on integers, and a DequantizeLinear
with ``block_size`` (opset 21) before the product, which is plain ONNX.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from graphopt.graph import Graph
from graphopt.ir import Array, Node, Tensor, constant_value, is_constant
from graphopt.model import Model
from graphopt.targets.qoperators import MICROSOFT
from graphopt.transforms.quantize.weight_blocks import BlockWeight, matmulnbits, onnx_blocks

Form: TypeAlias = Literal["matmulnbits", "dequantize"]
BLOCKED_OPSET = 21


@dataclass(frozen=True)
class WeightLayer:
    """A product with a constant matrix, in the graph that holds it; ``why_float``: why it stays ("" if it need not);
    ``small``: its size is the only reason."""

    graph: Graph
    node: Node
    why_float: str = ""
    small: bool = False

    @property
    def weight(self) -> Tensor:
        """The matrix as the graph holds it."""
        return self.node.inputs[1]

    @property
    def transposed(self) -> bool:
        """Whether it lies as [outputs, inputs]."""
        return bool(self.node.attrs.get("transB", 0)) and self.node.op == "Gemm"

    def matrix(self) -> Array:
        """The matrix as [outputs, inputs], float32."""
        value = constant_value(self.weight)
        assert value is not None
        return (value if self.transposed else value.T).astype(np.float32, copy=False)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the matrix, and so of the product."""
        value = constant_value(self.weight)
        assert value is not None
        return value.dtype


def find_matrices(model: Model, least: int) -> list[WeightLayer]:
    """Products with a constant matrix, of all graphs. ``least``: elements under which a weight is not worth it."""
    found = []
    for graph in model.graph.graphs():
        for node in graph.nodes:
            if node.is_op("MatMul", "Gemm") and is_constant(node.inputs[1]) and not is_constant(node.inputs[0]):
                why = _problem(node, least)
                found.append(WeightLayer(graph, node, why, bool(why) and not _problem(node, 0)))
    return found


def _problem(node: Node, least: int) -> str:
    value = constant_value(node.inputs[1])
    name = node.inputs[1].name
    if value is None or value.dtype not in (np.float32, np.float16):
        return f"weight {name!r} is {'not a tensor' if value is None else value.dtype}, not float32 or float16"
    if value.ndim != 2:
        return f"weight {name!r} has {value.ndim} axes, not two"
    if not value.size:
        return f"weight {name!r} is empty"
    if value.size < least:
        return f"weight {name!r} has {value.size} elements; smaller than least= is not worth it"
    if not np.isfinite(value).all():
        return f"weight {name!r} holds NaN or infinite values"
    return "its input is transposed" if node.op == "Gemm" and node.attrs.get("transA", 0) else ""


class WeightWriter:
    """Puts quantized matrices into a model. A matrix that several products read is stored once."""

    def __init__(self, model: Model, form: Form, level: int) -> None:
        self.model, self.form, self.level = model, form, level
        self._made: dict[tuple[int, int, bool], list[Tensor]] = {}

    def write(self, layer: WeightLayer, weight: BlockWeight) -> None:
        """Make ``layer`` read ``weight``."""
        if self.form == "matmulnbits":
            self._matmulnbits(layer, weight)
        else:
            layer.node.inputs[1] = self._dequantized(layer, weight)

    def finish(self) -> None:
        """Drop the float weights and sort."""
        self.model.graph.sort()
        self.model.graph.remove_dead()

    def _dequantized(self, layer: WeightLayer, weight: BlockWeight) -> Tensor:
        key = (id(layer.graph), id(layer.weight), layer.transposed)
        if key not in self._made:
            parts = onnx_blocks(weight)
            arrays = [a if a is None or not layer.transposed else np.ascontiguousarray(a.T) for a in parts]
            inputs = self._constants(layer, arrays)
            attrs = {"axis": 1 if layer.transposed else 0, "block_size": weight.grid.block}
            name = f"{layer.weight.name}_DequantizeLinear"
            self._made[key] = list(layer.graph.add_node("DequantizeLinear", inputs, attrs=attrs, name=name).outputs)
        return self._made[key][0]

    def _constants(self, layer: WeightLayer, arrays: list[Array | None]) -> list[Tensor]:
        names = ("quantized", "scale", "zero_point")
        return [
            layer.graph.new_constant(
                f"{layer.weight.name}_{suffix}",
                np.ascontiguousarray(array.astype(layer.dtype) if suffix == "scale" else array),
            )
            for suffix, array in zip(names, arrays, strict=True)
            if array is not None
        ]

    def _matmulnbits(self, layer: WeightLayer, weight: BlockWeight) -> None:
        graph, node = layer.graph, layer.node
        key = (id(graph), id(layer.weight), layer.transposed)
        if key not in self._made:
            self._made[key] = self._constants(layer, list(matmulnbits(weight)))
        outputs, attrs = len(weight.stored), node.attrs
        bias = node.inputs[2] if len(node.inputs) > 2 and not node.inputs[2].is_empty() else None
        factors = {name: np.asarray(attrs.get(name, 1.0), layer.dtype) for name in ("alpha", "beta")}
        source, result, label = node.inputs[0], node.outputs[0], node.name or node.op
        node.outputs.clear()
        made = graph.add_node(
            "MatMulNBits",
            [source, *self._made[key]],
            attrs={"K": weight.inputs, "N": outputs, "bits": weight.grid.bits, "block_size": weight.grid.block}
            | ({"accuracy_level": self.level} if self.level else {}),
            name=label,
            domain=MICROSOFT,
            before=node,
        )
        last = made
        if factors["alpha"] != 1:
            factor = graph.new_constant(f"{label}_alpha", factors["alpha"])
            last = graph.add_node("Mul", [last.outputs[0], factor], name=f"{label}_scaled", before=node)
        if bias is not None:
            if factors["beta"] != 1:
                factor = graph.new_constant(f"{label}_beta", factors["beta"])
                bias = graph.add_node("Mul", [bias, factor], name=f"{label}_bias_scaled", before=node).outputs[0]
            last = graph.add_node("Add", [last.outputs[0], bias], name=f"{label}_bias", before=node)
        last.outputs[0] = result
        graph.remove_nodes([node])
        made.name = node.name
