"""What the quantizing passes share: their options, and running the mechanism with remarks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Literal

from graphopt.errors import DataError
from graphopt.ir import Node
from graphopt.model import Model
from graphopt.pipeline.context import Context
from graphopt.pipeline.options import Options, Tunable, option
from graphopt.pipeline.values import Pattern, Size
from graphopt.targets.registry import get_target
from graphopt.transforms.quantize.opset import QDQ_OPSET
from graphopt.transforms.quantize.qdq import QuantConfig, Quantized, quantize_model


class QuantizeOptions(Options):
    """Options of ``quantize`` and ``insert_qdq``."""

    types: str | None = option(None, "Activation and weight types, such as u8s8 or u8s4; none: the target's own.")
    effort: Literal["fast", "best"] = option(
        "fast", "best: also learned rounding of weights and sequential correction of biases; takes longer."
    )
    per_channel: bool = option(True, "A scale for each output channel of a weight, where the target can.")
    method: Literal["auto", "minmax", "percentile", "mse", "entropy"] = option(
        "auto", "How activation ranges are found; auto takes the one of least error, tensor by tensor."
    )
    include: tuple[Pattern, ...] = option((), "These nodes become integer even where the profile says float is faster.")
    exclude: tuple[Pattern, ...] = option((), "These nodes stay in float.")
    fidelity: float = option(
        30.0,
        "Signal to noise at the outputs in dB, on held-back calibration data, that layers are put back in float for: "
        "as long as that pays, or at any loss of speed where the user gives the figure; 0: never. Unless given, at "
        "most 0.2 % of the decisions of a Softmax may change, too.",
        tunable=Tunable(mild=60.0, strong=0.0, tolerance=2.0),
        ge=0,
    )
    equalize: bool = option(True, "Even out the ranges of channels where that lowers the noise on held-back samples.")
    reduce_range: Literal["auto", "yes", "no"] = option(
        "auto", "Weights in 7 bits, for CPUs without VNNI; auto: when the target's profile is of such a CPU."
    )
    profile: str | None = option(None, "Latency profile (a file made by graphopt profile) instead of the target's own.")
    batch: int | None = option(None, "Rows of calibration data in one run, where the model leaves it open.", ge=1)
    memory: Size = option(1 << 30, "Cap on the values of inner tensors held at a time.")


def run_quantization(model: Model, ctx: Context, options: QuantizeOptions) -> None:
    """Quantize for the run's target, and say what was done to each layer and why not to others."""
    data = ctx.settings.data
    if data is None:
        raise DataError("quantization needs calibration data; give it with --data")
    if not ctx.allow(None, "quantize"):
        return
    target = get_target(ctx.settings.target)
    quantized = quantize_model(model, data, target, _config(options))
    if quantized is None:
        ctx.skipped(None, f"no layer is worth quantizing on {target.name}: the profile shows float faster everywhere")
        return
    _remark(ctx, quantized)
    _check_cpu(ctx, quantized, target.reduced_without)


def _config(options: QuantizeOptions) -> QuantConfig:
    from graphopt.targets.profile import load_profile

    return QuantConfig(
        types=options.types,
        per_channel=options.per_channel,
        method=options.method,
        reduced={"auto": None, "yes": True, "no": False}[options.reduce_range],
        keep_float=_matcher(options.exclude),
        force=_matcher(options.include),
        profile=None if options.profile is None else load_profile(options.profile),
        fidelity=options.fidelity,
        strict=options.given("fidelity"),
        equalize=options.equalize,
        best=options.effort == "best",
        batch=options.batch,
        max_memory=options.memory,
    )


def _matcher(patterns: tuple[Pattern, ...]) -> Callable[[Node], bool]:
    return lambda node: any(p.matches(node) for p in patterns)


def _remark(ctx: Context, done: Quantized) -> None:
    if done.raised_from is not None:
        now = done.model.opsets[""]
        why = "per-channel Q/DQ need" if now == QDQ_OPSET else "Q/DQ of these types need"
        ctx.note(None, f"opset raised from {done.raised_from} to {now}, which {why}")
    kernels = {} if done.report is None else {id(k.unit): k for k in done.report.kernels}
    for unit in done.plan.integer:
        if unit.rule.kind == "mover":
            continue
        kernel = kernels.get(id(unit))
        runs = "integer by the target's rules" if kernel is None else f"runs as {kernel.runs_as}"
        if kernel is not None and not kernel.integer:
            ctx.warn(unit.node, f"has Q/DQ around it, but ONNX Runtime runs it as {kernel.runs_as} in float")
        else:
            ctx.did(unit.node, runs)
        ctx.count("integer kernels", 1 if kernel is None or kernel.integer else 0)
    for unit, why in done.plan.floating:
        if unit.rule.kind == "compute" or not why.startswith("the profile"):
            ctx.skipped(unit.node, f"left in float: {why}")
    ctx.count("compute layers left in float", sum(u.rule.kind == "compute" for u, _ in done.plan.floating))
    ctx.count("tensors quantized", len(done.tensors))
    for method, count in Counter(r.method.split()[0] for r in done.grids.ranges.values()).items():
        ctx.count(f"ranges by {method}", count)
    if done.profile is not None:
        ctx.note(
            None,
            f"decided by the latency profile {done.profile.digest} ({done.profile.device}, {done.profile.runtime}): "
            f"expected speed-up {done.plan.speedup:.2f}x; the ceiling, with Q/DQ between regions free and no layer in "
            f"float for accuracy, is {done.plan.ceiling:.2f}x",
        )
        ctx.count("expected speed-up", round(done.plan.speedup, 3))
        ctx.count("speed-up ceiling", round(done.plan.ceiling, 3))
    for note in done.notes:
        ctx.note(None, note)


def _check_cpu(ctx: Context, done: Quantized, flag: str) -> None:
    from graphopt.runtime.cpu import cpu_info

    if flag and not done.settings.reduced and cpu_info().vnni is False:
        ctx.warn(
            None,
            f"this CPU has no {flag}: 8-bit products may saturate here, and the outputs be worse than on the target; "
            "quantize with reduce_range=yes for such CPUs",
        )
