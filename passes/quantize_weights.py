"""Weight-only quantization of matrix products to 4 or 8 bits."""

from __future__ import annotations

from typing import Literal

from graphopt.model import Model
from graphopt.pipeline.context import Context
from graphopt.pipeline.options import Options, option
from graphopt.pipeline.passes import Pass
from graphopt.pipeline.values import Pattern, Size
from graphopt.pipeline.weight_quantization import WeightConfig, run_weight_quantization
from graphopt.targets.registry import get_target


class QuantizeWeightsOptions(Options):
    """Options of ``quantize_weights``."""

    type: Literal["int4", "uint4", "int8"] = option(
        "int4", "Type of the weights; uint4 has a zero point for each block, the others are symmetric."
    )
    block: int = option(32, "Inputs that share a scale; a power of two.", ge=16, le=4096)
    form: Literal["auto", "matmulnbits", "dequantize"] = option(
        "auto",
        "The operator: com.microsoft MatMulNBits, or DequantizeLinear with block_size (opset 21) before the product; "
        "auto: the target's own.",
    )
    activations: Literal["int8", "float"] = option(
        "int8", "What MatMulNBits computes with: its input in int8, which is faster, or in float."
    )
    rounding: Literal["auto", "nearest", "learned"] = option(
        "auto", "learned: GPTQ with the inputs' statistics, needs data; auto: learned where there is data."
    )
    least: int = option(4096, "Weights with fewer elements stay in float.", ge=0)
    include: tuple[Pattern, ...] = option((), "These nodes' weights are quantized even when they are small.")
    exclude: tuple[Pattern, ...] = option((), "These nodes' weights stay in float.")
    batch: int | None = option(None, "Rows of calibration data in one run, where the model leaves it open.", ge=1)
    memory: Size = option(1 << 30, "Cap on statistics and values of inner tensors held at a time.")


class QuantizeWeights(Pass[QuantizeWeightsOptions]):
    """Stores the constant matrices of MatMul and Gemm block-wise in int4, uint4 or int8; activations stay in float.

    Makes large models small, and faster where products have few rows, as when a language model generates. Each block's
    range is the one of least error; with calibration data weights are rounded with the statistics of their inputs.
    """

    guarantee = "lossy"
    quantizes = True

    def run(self, model: Model, ctx: Context) -> None:
        """See ``graphopt.transforms.quantize.weight_only``."""
        o = self.options
        config = WeightConfig(
            type=o.type,
            block=o.block,
            form=None if o.form == "auto" else o.form,
            level=4 if o.activations == "int8" else 0,
            least=o.least,
            learned={"auto": None, "nearest": False, "learned": True}[o.rounding],
            include=o.include,
            exclude=o.exclude,
            batch=o.batch,
            memory=o.memory,
        )
        run_weight_quantization(model, ctx, get_target(ctx.settings.target), config)
