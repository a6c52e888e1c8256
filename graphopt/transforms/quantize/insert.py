"""Puts Q/DQ into a graph: around activations, in front of weights and biases, as a target demands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphopt.graph import Graph
from graphopt.ir import Array, Constant, Tensor, Variable, constant_value, is_constant, static_shape
from graphopt.targets.base import Grid, Target
from graphopt.transforms.quantize.bias_correction import expected_shift
from graphopt.transforms.quantize.grids import Grids, QuantizedTensor, constant_params
from graphopt.transforms.quantize.plan import Plan
from graphopt.transforms.quantize.ranges import QuantParams
from graphopt.transforms.quantize.rounding import Rounded
from graphopt.transforms.quantize.units import Unit
from graphopt.transforms.quantize.weight_grids import (
    QuantizedWeight,
    quantize_weight,
    raise_for_bias,
    weight_scale,
)


@dataclass(frozen=True)
class Settings:
    """How weights and activations are stored. ``search``: find weight ranges by error instead of the maximum.

    ``trained``, ``scales``: grids of tensors and scales of weights, by name, that training found and that are kept.
    """

    activation: Grid
    weight: Grid
    reduced: bool = False
    search: bool = False
    trained: Mapping[str, QuantParams] = field(default_factory=dict)
    scales: Mapping[str, Array] = field(default_factory=dict)


@dataclass
class Inserted:
    """What was put in: the initializer of each quantized weight by its node's id, biases with their
    scale (None: float), by node id."""

    weights: dict[int, Constant] = field(default_factory=dict)
    scales: dict[int, Constant] = field(default_factory=dict)
    biases: dict[int, tuple[Constant, Array | None]] = field(default_factory=dict)


class Inserter:
    """One quantization of one graph."""

    def __init__(
        self,
        graph: Graph,
        target: Target,
        settings: Settings,
        grids: Grids,
        means: Mapping[str, Array] | None = None,
    ) -> None:
        self.graph, self.target, self.settings, self.grids = graph, target, settings, grids
        self.means = means or {}
        self._names: dict[int, str] = {}
        self.done = Inserted()
        self._params: dict[tuple[float, int, str], tuple[Constant, Constant]] = {}
        self._weights: dict[
            tuple[int, int | None], list[tuple[Array, Tensor, QuantizedWeight, Constant, Constant]]
        ] = {}
        self._constants: dict[int, Tensor] = {}
        self._static = all(static_shape(t) is not None for t in graph.inputs)

    def insert(
        self, plan: Plan, tensors: Sequence[QuantizedTensor], rounded: Mapping[int, Rounded] | None = None
    ) -> Inserted:
        """Put in everything; ``rounded`` holds weights that were quantized already, by id of their node."""
        self._names = {u.node.id: u.node.inputs[0].name for u in plan.integer}
        for item in tensors:
            self._activation(item)
        for unit in plan.integer:
            if unit.rule.kind == "compute":
                self._layer(unit, (rounded or {}).get(unit.node.id))
            else:
                self._constant_operands(unit)
        self.graph.sort()
        self.graph.remove_dead()
        return self.done

    def _activation(self, item: QuantizedTensor) -> None:
        tensor, graph = item.tensor, self.graph
        name = tensor.name
        scale, zero = self._scale_and_zero(name, self.grids.params[name])
        if item.whole:
            source = self._take_over(tensor)
            quantized = graph.add_node("QuantizeLinear", [source, scale, zero], name=f"{name}_QuantizeLinear")
            graph.add_node(
                "DequantizeLinear", [quantized.outputs[0], scale, zero], [tensor], name=f"{name}_DequantizeLinear"
            )
            return
        quantized = graph.add_node("QuantizeLinear", [tensor, scale, zero], name=f"{name}_QuantizeLinear")
        restored = graph.add_node(
            "DequantizeLinear", [quantized.outputs[0], scale, zero], name=f"{name}_DequantizeLinear"
        )
        for unit, position in item.readers:
            unit.node.inputs[position] = restored.outputs[0]

    def _take_over(self, tensor: Tensor) -> Variable:
        """A new tensor that the producer of ``tensor`` gives instead; all readers of ``tensor`` stay."""
        producer = tensor.inputs[0]
        index = next(i for i, t in enumerate(producer.outputs) if t is tensor)
        dtype = tensor.dtype if isinstance(tensor.dtype, np.dtype) else np.dtype(np.float32)
        fresh = self.graph.new_variable(
            f"{tensor.name}_float", dtype, tensor.shape if isinstance(tensor, Variable) else None
        )
        producer.outputs[index] = fresh
        return fresh

    def _scale_and_zero(self, name: str, params: QuantParams) -> tuple[Constant, Constant]:
        key = (params.scale, params.zero_point, params.type.name)
        if key not in self._params:
            scale = self.graph.new_constant(f"{name}_scale", np.array(params.scale, np.float32))
            zero = self.graph.new_constant(f"{name}_zero_point", np.array(params.zero_point, params.type.dtype))
            self._params[key] = (scale, zero)
        return self._params[key]

    def _constant_operands(self, unit: Unit) -> None:
        for position, tensor in unit.operands:
            if not is_constant(tensor):
                continue
            if id(tensor) not in self._constants:
                params = constant_params(tensor, self.settings.activation)
                value = constant_value(tensor)
                assert value is not None
                steps = value / np.float64(params.scale)
                stored = params.type.store(steps if params.type.floating else np.rint(steps) + params.zero_point)
                scale, zero = self._scale_and_zero(tensor.name, params)
                data = self.graph.new_constant(f"{tensor.name}_quantized", stored)
                node = self.graph.add_node(
                    "DequantizeLinear", [data, scale, zero], name=f"{tensor.name}_DequantizeLinear"
                )
                self._constants[id(tensor)] = node.outputs[0]
            unit.node.inputs[position] = self._constants[id(tensor)]

    def _layer(self, unit: Unit, rounded: Rounded | None) -> None:
        weight, bias = unit.weight, unit.bias
        if weight is None:
            return
        position = unit.rule.weight
        assert position is not None
        bias_value = None if bias is None else constant_value(bias)
        given = self._input_scale(unit)
        if rounded is not None and not self._bias_fits(rounded, bias_value, given):
            rounded = None
        quantized = self._quantize(unit, weight, bias_value, given) if rounded is None else rounded.weight
        shift = self._shift(unit, weight, quantized) if rounded is None else rounded.shift
        if bias_value is not None and shift is not None and shift.size == bias_value.size:
            bias_value = (bias_value - shift.reshape(bias_value.shape)).astype(np.float32)
        restored, scale = self._weight(unit, weight, quantized)
        if bias is not None and bias_value is not None:
            self._bias(unit, bias, bias_value, given, quantized)
        unit.node.inputs[position] = restored
        self.done.scales[unit.node.id] = scale

    def _bias_fits(self, rounded: Rounded, bias: Array | None, given: float) -> bool:
        if self.target.bias != "int32" or bias is None:
            return True
        scale = rounded.weight.scale
        return bool(np.array_equal(raise_for_bias(scale, bias.reshape(-1), given), scale))

    def _shift(self, unit: Unit, weight: Tensor, quantized: QuantizedWeight) -> Array | None:
        """What rounding adds to the mean of each output, from the means of the input channels if they are known."""
        means = self.means.get(self._names.get(unit.node.id, ""))
        value = constant_value(weight)
        axis = unit.weight_axis()
        if means is None or value is None or axis is None or unit.node.op == "ConvTranspose":
            return None
        groups = int(unit.node.attrs.get("group", 1)) if unit.node.op == "Conv" else 1
        return expected_shift(value, quantized.real, means, axis, groups)

    def _input_scale(self, unit: Unit) -> float:
        source = unit.node.inputs[unit.rule.inputs[0]]
        if not source.inputs or not source.inputs[0].is_op("DequantizeLinear"):
            return 1.0
        scale = constant_value(source.inputs[0].inputs[1])
        return 1.0 if scale is None or scale.size != 1 else float(scale.reshape(()))

    def _quantize(self, unit: Unit, weight: Tensor, bias: Array | None, given: float) -> QuantizedWeight:
        value = constant_value(weight)
        assert value is not None
        settings = self.settings
        axis = unit.weight_axis() if settings.weight.per_channel else None
        kind = settings.weight.int_type
        scale = settings.scales.get(weight.name) if kind.name == "int8" and not settings.reduced else None
        if scale is None or scale.size not in (1, 1 if axis is None else value.shape[axis]):
            scale = weight_scale(value, axis, kind, settings.reduced, settings.search)
        elif scale.size == 1:
            scale = np.broadcast_to(scale.reshape(()), () if axis is None else (value.shape[axis],)).copy()
        if self.target.bias == "int32":
            scale = raise_for_bias(scale, None if bias is None else bias.reshape(-1), given)
        return quantize_weight(value, scale, axis, kind, settings.reduced)

    def _weight(self, unit: Unit, weight: Tensor, quantized: QuantizedWeight) -> tuple[Tensor, Constant]:
        graph, name = self.graph, weight.name
        kept = self._weights.setdefault((id(weight), quantized.axis), [])
        for scale_value, restored, other, data, scale in kept:
            if np.array_equal(scale_value, quantized.scale) and np.array_equal(other.stored, quantized.stored):
                self.done.weights[unit.node.id] = data
                return restored, scale
        data = graph.new_constant(f"{name}_quantized", quantized.stored)
        scale = graph.new_constant(f"{name}_scale", quantized.scale)
        zero = np.full(quantized.scale.shape, quantized.zero_point, quantized.type.dtype)
        attrs = {} if quantized.axis is None else {"axis": quantized.axis}
        node = graph.add_node(
            "DequantizeLinear",
            [data, scale, graph.new_constant(f"{name}_zero_point", zero)],
            attrs=attrs,
            name=f"{name}_DequantizeLinear",
        )
        kept.append((quantized.scale, node.outputs[0], quantized, data, scale))
        self.done.weights[unit.node.id] = data
        return node.outputs[0], scale

    def _bias(self, unit: Unit, bias: Tensor, value: Array, given: float, weight: QuantizedWeight) -> None:
        graph = self.graph
        holder, position = unit.bias_add or (unit.node, unit.rule.bias or 0)
        if self.target.bias == "float32" or not _fits_int32_bias(unit, value, weight, self._static):
            row = unit.bias_add is not None and self.target.bias == "int32"
            held = graph.new_constant(f"{bias.name}_corrected", value.reshape(1, -1) if row else value)
            holder.inputs[position] = held
            self.done.biases[unit.node.id] = (held, None)
            return
        flat = value.reshape(-1).astype(np.float64)
        scale = (np.float64(given) * weight.scale.astype(np.float64)).astype(np.float32)
        stored = np.clip(np.rint(flat / scale.astype(np.float64)), -(2**31), 2**31 - 1).astype(np.int32)
        data = graph.new_constant(f"{bias.name}_quantized", stored)
        zero = np.zeros(scale.shape, np.int32)
        attrs = {} if scale.ndim == 0 else {"axis": 0}
        node = graph.add_node(
            "DequantizeLinear",
            [
                data,
                graph.new_constant(f"{bias.name}_scale", scale),
                graph.new_constant(f"{bias.name}_zero_point", zero),
            ],
            attrs=attrs,
            name=f"{bias.name}_DequantizeLinear",
        )
        holder.inputs[position] = node.outputs[0]
        self.done.biases[unit.node.id] = (data, scale)


def _fits_int32_bias(unit: Unit, value: Array, weight: QuantizedWeight, static: bool) -> bool:
    """One value a channel is needed; a bias in an Add behind a MatMul only fuses where all shapes are static."""
    channels = 1 if weight.scale.ndim == 0 else weight.scale.size
    return (unit.bias_add is None or static) and (channels == 1 or value.size == channels)
