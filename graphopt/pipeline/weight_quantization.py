"""Choosing and rounding the matrices that ``quantize_weights`` stores in few bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from graphopt.analysis.statistics import Channels, Gram, GramAccumulator, Moments, MomentsAccumulator, Request, collect
from graphopt.data.feeds import Dataset
from graphopt.errors import UsageError
from graphopt.ir import Array
from graphopt.model import Model
from graphopt.pipeline.context import Context
from graphopt.pipeline.values import Pattern
from graphopt.targets.base import Target
from graphopt.transforms.quantize.output_noise import in_words, measured_sqnr
from graphopt.transforms.quantize.trial import Parts, hold_back
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
    parts = None if ctx.settings.data is None else hold_back(ctx.settings.data)
    grams = {} if parts is None or config.learned is False else _grams(model, parts.fit, layers, config)
    writer = WeightWriter(model, form, config.level)
    done: dict[_Key, BlockWeight] = {}
    for layer in layers:
        key = _key(layer)
        if key not in done:
            own = replace(grid, scales=layer.dtype.name)
            done[key] = quantize_blocks(layer.matrix(), own, grams.get(key))
        _say(ctx, layer, done[key], config, key in grams)
    for layer in layers:
        writer.write(layer, done[_key(layer)])
    writer.finish()
    if layers and reference is not None and parts is not None:
        _measure(reference, model, ctx, parts, bool(grams))


def _measure(reference: Model, model: Model, ctx: Context, parts: Parts, learned: bool) -> None:
    """Say what the outputs lost on samples that rounding was not learned from; a single sample serves as both."""
    measured = measured_sqnr(reference, model, parts.judge)
    if np.isfinite(measured):
        ctx.count("output SQNR dB", round(measured, 1))
    seen = "held-back samples"
    if parts.fit is parts.judge:
        seen = "the only sample, which rounding was learned from" if learned else "the only sample"
    ctx.note(None, f"the worst output {in_words(measured)} on {seen}")


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


_Key: TypeAlias = tuple[int, bool]


def _key(layer: WeightLayer) -> _Key:
    """The same for layers that read the same integers."""
    return id(layer.weight), layer.transposed


def _grams(model: Model, data: Dataset, layers: Sequence[WeightLayer], config: WeightConfig) -> Mapping[_Key, Array]:
    """For each matrix X^T X over the rows of all products that read it, divided by the rows; of the main graph.

    Of each product at most ``_POSITIONS`` rows a sample are looked at; it counts by all the rows that it has.
    """
    main = {id(n) for n in model.graph.nodes}
    wanted = [x for x in layers if id(x.node) in main and x.matrix().shape[1] <= _MAX_FEATURES]
    names = sorted({x.node.inputs[0].name for x in wanted})
    if not names:
        return {}
    grams = {n: Request.of(n, Gram(Channels(-1, limit=_POSITIONS))) for n in names}
    sizes = {n: Request.of(n, Moments()) for n in names}
    stats = collect(model, data, [*grams.values(), *sizes.values()], batch=config.batch, max_memory=config.memory)
    sums: dict[_Key, Array] = {}
    for layer in wanted:
        name, key = layer.node.inputs[0].name, _key(layer)
        matrix = stats.typed(grams[name], GramAccumulator).matrix[0]
        rows = stats.typed(sizes[name], MomentsAccumulator).count / (len(matrix) - 1)
        own = matrix * (rows / max(float(matrix[-1, -1]), 1.0))
        sums[key] = sums[key] + own if key in sums else own
    return {key: np.asarray(total[:-1, :-1] / max(float(total[-1, -1]), 1.0)) for key, total in sums.items()}


def _say(ctx: Context, layer: WeightLayer, done: BlockWeight, config: WeightConfig, learned: bool) -> None:
    exact = layer.matrix()
    noise = float(np.square(done.real - exact).sum()) / max(float(np.square(exact).sum()), 1e-30)
    how = "learned rounding" if learned else "rounded to nearest"
    ctx.did(layer.node, f"weight in {config.type}, blocks of {config.block}, {how}, weight error {noise**0.5:.2%}")
    ctx.count("matrices quantized")
    ctx.count("bytes saved", exact.nbytes - done.nbytes)
