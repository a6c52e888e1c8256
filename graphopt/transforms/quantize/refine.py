"""Effort ``best``: learned rounding of the weights, then sequential correction of the biases."""

from __future__ import annotations

import math

from graphopt.analysis.statistics import Gram, GramAccumulator, Request, collect
from graphopt.data.feeds import Dataset
from graphopt.ir import constant_value
from graphopt.model import Model
from graphopt.transforms.quantize.bias_correction import CorrectedLayer, correct_biases
from graphopt.transforms.quantize.config import QuantConfig, Quantized
from graphopt.transforms.quantize.rounding import MAX_FEATURES, Rounded, patches_of, round_weight
from graphopt.transforms.quantize.run import Run, biased
from graphopt.transforms.quantize.units import Unit, find_units
from graphopt.transforms.quantize.weight_grids import weight_scale

_BIAS_BLOCKS = 8
_POSITIONS = 64


def round_weights(run: Run, done: Quantized) -> Quantized | None:
    """The same plan with weights rounded so that each layer's output changes least."""
    config = run.config
    return run.attempt(run.penalties, round_layers(run.model, run.data, done, config.batch, config.max_memory))


def settle_biases(run: Run, done: Quantized) -> str:
    """Take the mean errors of ``done`` out through its biases, in place; a note about it."""
    config: QuantConfig = run.config
    shifts = correct_biases(
        run.model, done.model, corrected_layers(done), run.data, _BIAS_BLOCKS, config.batch, config.max_memory
    )
    name, worst = max(shifts.items(), key=lambda i: i[1], default=("", 0.0))
    return (
        f"biases of {len(shifts)} layers corrected; the largest mean error was {worst:.2f} deviations of a channel, "
        f"in {name}"
    )


def round_layers(
    model: Model, data: Dataset, done: Quantized, batch: int | None, max_memory: int
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
        if patches is not None and math.prod(shape) // shape[axis] <= MAX_FEATURES:
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


def corrected_layers(done: Quantized) -> list[CorrectedLayer]:
    """The layers whose bias can take up a mean error."""
    found = []
    for unit in done.plan.integer:
        if unit.node.id not in done.inserted.biases:
            continue
        bias, scale = done.inserted.biases[unit.node.id]
        axis = 1 if unit.node.op == "Conv" else -1
        output = biased(unit).outputs[0].name
        found.append(CorrectedLayer(unit.label, done.outputs[unit.node.id], output, axis, bias, scale))
    return found
