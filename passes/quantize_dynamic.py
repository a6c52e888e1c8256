"""Dynamic quantization of matrix products, LSTMs and GRUs, without calibration data."""

from __future__ import annotations

from typing import Literal

from graphopt.model import Model
from graphopt.pipeline.context import Context
from graphopt.pipeline.dynamic_quantization import DynamicConfig, run_dynamic
from graphopt.pipeline.options import Options, Tunable, option
from graphopt.pipeline.passes import Pass
from graphopt.pipeline.values import Pattern
from graphopt.targets.registry import get_target


class QuantizeDynamicOptions(Options):
    """Options of ``quantize_dynamic``."""

    layers: Literal["all", "recurrent"] = option("all", "Which layers to look at: all, or only LSTM, GRU and RNN.")
    per_channel: bool = option(True, "A scale for each output channel of a weight.")
    reduce_range: Literal["auto", "yes", "no"] = option(
        "auto", "Weights in 7 bits, for CPUs without VNNI; auto: when the target's profile is of such a CPU."
    )
    include: tuple[Pattern, ...] = option((), "These nodes become integer even where the profile says float is faster.")
    exclude: tuple[Pattern, ...] = option((), "These nodes stay in float.")
    fidelity: float = option(
        30.0,
        "Least signal to noise at the outputs in dB, measured where there is calibration data; 0: not measured.",
        tunable=Tunable(mild=60.0, strong=0.0, tolerance=2.0),
        ge=0,
    )
    profile: str | None = option(None, "Latency profile (a file made by graphopt profile) instead of the target's own.")


class QuantizeDynamic(Pass[QuantizeDynamicOptions]):
    """Stores the weights of matrix products, LSTMs and GRUs in int8 and quantizes their inputs as the model runs.

    Needs no data; with data the noise at the outputs is measured. A MatMul or Gemm becomes DynamicQuantizeLinear,
    MatMulInteger and two Mul, which ONNX Runtime fuses to one kernel; an LSTM becomes com.microsoft
    DynamicQuantizeLSTM, a GRU a Scan around such products. What the latency profile shows slower on integers stays in
    float and is named.
    """

    guarantee = "lossy"
    quantizes = True

    def run(self, model: Model, ctx: Context) -> None:
        """See ``graphopt.transforms.quantize.dynamic``."""
        o = self.options
        config = DynamicConfig(
            recurrent_only=o.layers == "recurrent",
            per_channel=o.per_channel,
            reduced={"auto": None, "yes": True, "no": False}[o.reduce_range],
            include=o.include,
            exclude=o.exclude,
            fidelity=o.fidelity,
            profile=o.profile,
        )
        run_dynamic(model, ctx, get_target(ctx.settings.target), config)
