"""Choosing and rounding the matrices that ``quantize_weights`` stores in few bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from graphopt.analysis.statistics import Channels, Gram, GramAccumulator, Request, collect
from graphopt.errors import UsageError
from graphopt.ir import Array
from graphopt.model import Model
from graphopt.pipeline.context import Context
from graphopt.pipeline.values import Pattern
from graphopt.targets.base import Target
from graphopt.transforms.quantize.output_noise import measured_sqnr
from graphopt.transforms.quantize.weight_blocks import BlockGrid, BlockWeight, quantize_blocks
from graphopt.transforms.quantize.weight_only import BLOCKED_OPSET, Form, WeightLayer, WeightWriter, find_matrices

_MAX_FEATURES = 8192
_POSITIONS = 64


@dataclass(frozen=True)
class WeightConfig:
    """What is wanted. ``learned``: rounding from Gram matrices; None: when there is data. ``level``: of MatMulNBits."""

    type: Literal["int4", "uint4", "int8"] = "int4"
    block: int = 32
    form: Form | None = None
    level: int = 4
    least: int = 4096
    learned: bool | None = None
    include: tuple[Pattern, ...] = ()
    exclude: tuple[Pattern, ...] = ()
    batch: int | None = None
    memory: int = 1 << 30


def run_weight_quantization(model: Model, ctx: Context, target: Target, config: WeightConfig) -> None:
    """Quantize, in place, and say of every other product why its weight stays.

    Raises:
        UsageError: the target does not take the type, the block is not a power of two of at least 16, or learned
            rounding is wanted and there is no data.
        UnsupportedError: the model cannot be raised to opset 21, which blocked DequantizeLinear needs.
    """
    if config.block < 16 or config.block & (config.block - 1):
        raise UsageError(f"block={config.block}: the kernels take powers of two from 16")
    if config.learned and ctx.settings.data is None:
        raise UsageError("learned rounding needs calibration data; give it with --data, or take rounding=nearest")
    if config.type not in target.weight_types:
        allowed = ", ".join(target.weight_types)
        raise UsageError(f"target {target.name} does not take weights of type {config.type}; it takes {allowed}")
    form = config.form or target.weight_only
    grid = BlockGrid(8 if config.type == "int8" else 4, config.block, config.type != "uint4", form == "matmulnbits")
    reference = model.clone() if ctx.settings.data is not None else None
    if not all(_why(layer, config) for layer in find_matrices(model, config.least)):
        _raise(model, ctx, form)
    layers = _chosen(find_matrices(model, config.least), ctx, config)
    grams = _grams(model, ctx, layers, config)
    writer = WeightWriter(model, form, config.level)
    done: dict[tuple[int, bool], BlockWeight] = {}
    for layer in layers:
        key = (id(layer.weight), layer.transposed)
        if key not in done:
            own = replace(grid, scales=layer.dtype.name)
            done[key] = quantize_blocks(layer.matrix(), own, grams.get(layer.node.inputs[0].name))
        _say(ctx, layer, done[key], config, layer.node.inputs[0].name in grams)
    for layer in layers:
        writer.write(layer, done[(id(layer.weight), layer.transposed)])
    writer.finish()
    if layers and reference is not None and ctx.settings.data is not None:
        measured = measured_sqnr(reference, model, ctx.settings.data)
        ctx.count("output SQNR dB", round(measured, 1))
        ctx.note(None, f"the worst output keeps {measured:.1f} dB")


def _raise(model: Model, ctx: Context, form: Form) -> None:
    before = model.opsets[""]
    if form != "dequantize" or before >= BLOCKED_OPSET:
        return
    if model.functions:
        model.inline_functions()
    model.convert_opset(BLOCKED_OPSET)
    ctx.note(None, f"opset raised from {before} to {BLOCKED_OPSET}, which DequantizeLinear with block_size needs")


def _chosen(found: Sequence[WeightLayer], ctx: Context, config: WeightConfig) -> list[WeightLayer]:
    chosen = []
    for layer in found:
        if why := _why(layer, config):
            ctx.skipped(layer.node, f"weight left in float: {why}")
        elif ctx.allow(layer.node, "quantize_weights"):
            chosen.append(layer)
    return chosen


def _why(layer: WeightLayer, config: WeightConfig) -> str:
    """Why a weight stays in float; "" when it does not."""
    if any(p.matches(layer.node) for p in config.exclude):
        return "excluded by the options"
    forced = layer.small and any(p.matches(layer.node) for p in config.include)
    return "" if forced else layer.why_float


def _grams(model: Model, ctx: Context, layers: Sequence[WeightLayer], config: WeightConfig) -> Mapping[str, Array]:
    """X^T X over the rows of each product's input, divided by the rows, by tensor name; of the main graph."""
    data = ctx.settings.data
    if data is None or config.learned is False:
        return {}
    main = {id(n) for n in model.graph.nodes}
    names = {
        layer.node.inputs[0].name
        for layer in layers
        if id(layer.node) in main and layer.matrix().shape[1] <= _MAX_FEATURES
    }
    requests = {n: Request.of(n, Gram(Channels(-1, limit=_POSITIONS))) for n in sorted(names)}
    if not requests:
        return {}
    stats = collect(model, data, list(requests.values()), batch=config.batch, max_memory=config.memory)
    found = {}
    for name, request in requests.items():
        matrix = stats.typed(request, GramAccumulator).matrix[0]
        found[name] = np.asarray(matrix[:-1, :-1] / max(float(matrix[-1, -1]), 1.0))
    return found


def _say(ctx: Context, layer: WeightLayer, done: BlockWeight, config: WeightConfig, learned: bool) -> None:
    exact = layer.matrix()
    noise = float(np.square(done.real - exact).sum()) / max(float(np.square(exact).sum()), 1e-30)
    how = "learned rounding" if learned else "rounded to nearest"
    ctx.did(layer.node, f"weight in {config.type}, blocks of {config.block}, {how}, weight error {noise**0.5:.2%}")
    ctx.count("matrices quantized")
    ctx.count("bytes saved", exact.nbytes - done.nbytes)
