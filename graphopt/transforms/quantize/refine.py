"""Effort ``best``: learned rounding of the weights, then sequential correction of the biases."""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphopt.analysis.statistics import Gram, GramAccumulator, Request, collect
from graphopt.data.feeds import Dataset
from graphopt.ir import constant_value
from graphopt.model import Model
from graphopt.results import counted
from graphopt.transforms.quantize.bias_correction import CorrectedLayer, correct_biases
from graphopt.transforms.quantize.config import QuantConfig, Quantized
from graphopt.transforms.quantize.rounding import MAX_FEATURES, Rounded, patches_of, round_weight
from graphopt.transforms.quantize.run import Run, biased
from graphopt.transforms.quantize.units import Unit, find_units
from graphopt.transforms.quantize.weight_grids import weight_scale

_POSITIONS = 64


def round_weights(run: Run, done: Quantized) -> Quantized | None:
    """The same plan with weights rounded so that each layer's output changes least."""
    config = run.config
    features = MAX_FEATURES["best"]
    rounded = round_layers(run.model, run.data, done, config.batch, config.max_memory, features)
    return run.attempt(run.penalties, rounded)


def settle_biases(run: Run, done: Quantized, layers: Sequence[CorrectedLayer], blocks: int) -> str:
    """Take the mean errors of ``done`` out through its biases, in place, block by block; a note about it."""
    config: QuantConfig = run.config
    shifts = correct_biases(run.model, done.model, layers, run.data, blocks, config.batch, config.max_memory)
    name, worst = max(shifts.items(), key=lambda i: i[1], default=("", 0.0))
    return (
        f"biases of {counted(len(shifts), 'layer')} corrected; the largest mean error was {worst:.2f} deviations "
        f"of a channel, in {name}"
    )


def round_layers(
    model: Model, data: Dataset, done: Quantized, batch: int | None, max_memory: int, features: int
) -> dict[int, Rounded]:
    """Learned rounding for every layer of the plan whose input rows are known and not too wide, by node id."""
    if done.settings.weight.int_type.floating:
        return {}
    units = {u.node.id: u for u in done.plan.integer if u.rule.kind == "compute"}
    requests: dict[int, tuple[Unit, Request]] = {}
    for unit in find_units(model.graph, done.target, done.probes):
        shape, axis = unit.weight_shape, unit.weight_axis()
        if unit.node.id not in units or shape is None or axis is None or not done.settings.weight.per_channel:
            continue
        patches = patches_of(unit.node, shape, _POSITIONS)
        if patches is not None and math.prod(shape) // shape[axis] <= features:
            requests[unit.node.id] = (unit, Request.of(unit.node.inputs[0].name, Gram(patches)))
    stats = collect(model, data, [r for _, r in requests.values()], batch=batch, max_memory=max_memory)
    kind, reduced = done.settings.weight.int_type, done.settings.reduced
    found: dict[int, Rounded] = {}
    for key, (unit, request) in requests.items():
        weight, axis = unit.weight, unit.weight_axis()
        value = None if weight is None else constant_value(weight)
        if value is None or axis is None or (weight is not None and weight.name in done.settings.scales):
            continue
        step = done.grids.params[unit.node.inputs[0].name].scale
        scale = weight_scale(value, axis, kind, reduced)
        gram = stats.typed(request, GramAccumulator)
        found[key] = round_weight(value, axis, gram, scale, kind, reduced, step, done.settings.search)
    return found


def integer_layers(done: Quantized) -> list[CorrectedLayer]:
    """The integer layers whose bias can take up a mean error."""
    return [layer for unit in done.plan.integer if (layer := _integer(done, unit)) is not None]


def last_layers(done: Quantized) -> list[CorrectedLayer]:
    """The last layers with a bias in front of the outputs, integer or float: behind them no other corrects the mean."""
    graph = done.model.graph
    units = {biased(u).outputs[0].name: u for u in (*done.plan.integer, *(u for u, _ in done.plan.floating))}
    units = {n: u for n, u in units.items() if u.rule.kind == "compute" and u.bias is not None}
    found: dict[str, CorrectedLayer] = {}
    seen: set[int] = set()
    queue = list(graph.outputs)
    while queue:
        tensor = queue.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        unit = units.get(tensor.name)
        layer = None if unit is None else _integer(done, unit) or _floating(done, unit)
        if layer is not None:
            found[layer.output] = layer
        else:
            queue.extend(t for node in tensor.inputs for t in node.inputs)
    return list(found.values())


def _integer(done: Quantized, unit: Unit) -> CorrectedLayer | None:
    if unit.node.id not in done.inserted.biases:
        return None
    bias, scale = done.inserted.biases[unit.node.id]
    output = biased(unit).outputs[0].name
    return CorrectedLayer(unit.label, done.outputs[unit.node.id], output, _axis(unit), bias, scale)


def _floating(done: Quantized, unit: Unit) -> CorrectedLayer | None:
    """A float layer; its bias is taken out of a constant that others may read."""
    value = None if unit.bias is None else constant_value(unit.bias)
    if unit.bias is None or value is None or value.dtype != "float32":
        return None
    holder, position = unit.bias_add or (unit.node, unit.rule.bias or 0)
    bias = done.model.graph.new_constant(f"{unit.bias.name}_corrected", value)
    holder.inputs[position] = bias
    output = biased(unit).outputs[0].name
    return CorrectedLayer(unit.label, output, output, _axis(unit), bias, None)


def _axis(unit: Unit) -> int:
    return 1 if unit.node.op == "Conv" else -1
