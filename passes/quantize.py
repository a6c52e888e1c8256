"""The ``quantize`` pass: static integer Q/DQ for the run's target, from calibration data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from graphopt.model import Model
from graphopt.pipeline.context import Context
from graphopt.pipeline.options import Options, option
from graphopt.pipeline.passes import Pass
from graphopt.pipeline.values import Pattern

if TYPE_CHECKING:
    from graphopt.transforms.qdq import Quantized


class QuantizeOptions(Options):
    """Options of ``quantize``."""

    types: str | None = option(None, "Activation and weight types, such as u8s8 or s8s8; by default the target's own.")
    calibration: Literal["auto", "minmax", "percentile", "mse", "entropy"] = option(
        "auto", "How ranges are found; auto takes for each tensor the method with the smallest error."
    )
    per_channel: bool = option(True, "A scale for each output channel of a weight, where the target can.")
    reduce_range: bool | None = option(None, "Weights use 7 bits; by default where the target's processor needs it.")
    fidelity: float = option(30.0, "Signal to noise in dB below which the noisiest layers stay in float; 0: none.", ge=0)
    include: tuple[Pattern, ...] = option((), "Nodes that become integer even where the profile shows no gain.")
    exclude: tuple[Pattern, ...] = option((), "Nodes that stay in float.")


class Quantize(Pass[QuantizeOptions]):
    """Inserts Q/DQ so that the target's integer kernels really run.

    Which layers become integer is decided by the target's rules and latency profile; ranges come from calibration
    data. The result is loaded in the runtime, and a layer that did not become an integer kernel is put back to float.
    """

    guarantee = "lossy"
    requires = frozenset({"data"})
    quantizes = True

    def run(self, model: Model, ctx: Context) -> None:
        """See the class."""
        from graphopt.targets.registry import get_target
        from graphopt.transforms.qdq import QuantConfig, quantize_model

        data, options = ctx.settings.data, self.options
        assert data is not None
        if not ctx.allow(None, "quantize"):
            return
        model.inline_functions()
        config = QuantConfig(
            types=options.types,
            per_channel=options.per_channel,
            method=options.calibration,
            reduced=options.reduce_range,
            fidelity=options.fidelity,
            keep_float=lambda node: any(p.matches(node) for p in options.exclude),
            force=lambda node: any(p.matches(node) for p in options.include),
        )
        if data.synthetic:
            ctx.warn(None, "ranges come from synthetic inputs and prove nothing; give real samples with --data")
        done = quantize_model(model, data, get_target(ctx.settings.target), config)
        if done is None:
            ctx.skipped(None, f"no layer is faster on integers on {ctx.settings.target}; the model stays in float")
            return
        _report(done, ctx)


def _report(done: Quantized, ctx: Context) -> None:
    ctx.count("integer layers", len(done.plan.integer))
    if done.raised_from is not None:
        ctx.note(None, f"opset raised from {done.raised_from} to {done.model.opsets['']}: Q/DQ need it")
    runs = {} if done.report is None else {k.unit.node.id: k for k in done.report.kernels}
    for unit in done.plan.integer:
        kernel = runs.get(unit.node.id)
        ctx.did(unit.node, "integer" if kernel is None else f"runs as {kernel.runs_as}")
    for unit, why in done.plan.floating:
        ctx.skipped(unit.node, f"left in float: {why}")
