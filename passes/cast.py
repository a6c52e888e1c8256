"""Casting a model to float16 or bfloat16, or a half-precision model back to float32."""

from __future__ import annotations

from typing import Literal

from graphopt.model import Model
from graphopt.pipeline.casting import CastConfig, run_cast
from graphopt.pipeline.context import Context
from graphopt.pipeline.options import Options, Tunable, option
from graphopt.pipeline.passes import Pass
from graphopt.pipeline.values import Pattern
from graphopt.targets.registry import get_target
from graphopt.transforms.quantize.casting import widen


class CastOptions(Options):
    """Options of ``cast``."""

    to: Literal["float16", "bfloat16", "float32"] = option("float16", "Type of weights and activations.")
    keep: tuple[Pattern, ...] = option((), "These nodes stay in float32.")
    interface: bool = option(False, "Cast the model's inputs and outputs too; otherwise they keep their types.")
    headroom: float = option(2.0, "Activations may reach the type's largest value divided by this.", ge=1)
    fidelity: float = option(
        30.0,
        "Least signal to noise at the outputs in dB, that nodes go back to float32 for; measured on synthetic inputs "
        "where there is no calibration data; 0: measured only.",
        tunable=Tunable(mild=60.0, strong=1.0, tolerance=2.0),
        ge=0,
    )


class Cast(Pass[CastOptions]):
    """Casts weights and activations to float16 or bfloat16 wherever their values fit.

    A node is cast when its operator's schema allows the type. It stays in float32 when a weight or, on calibration
    data, an activation passes the type's range, when a constant is so small that it is lost (an epsilon of 1e-12),
    when it squares values whose squares overflow, when the target computes it badly, or when it belongs to Q/DQ. The
    loss at the outputs is measured, and the noisiest nodes go back to float32 where it is more than ``fidelity``
    allows. ``to=float32`` makes a half-precision model a float32 one.
    """

    guarantee = "lossy"

    def changes_interface(self) -> bool:
        """With ``interface``, inputs and outputs take the narrow type."""
        return self.options.interface

    def run(self, model: Model, ctx: Context) -> None:
        """See ``graphopt.transforms.quantize.casting``."""
        options = self.options
        if options.to == "float32":
            if ctx.allow(None, "widen"):
                ctx.count("weights in float32", widen(model))
            return
        config = CastConfig(options.to, options.keep, options.interface, options.headroom, options.fidelity)
        run_cast(model, ctx, get_target(ctx.settings.target), config)
