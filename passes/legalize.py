"""Make a quantized model legal for a target."""

from __future__ import annotations

from graphopt.model import Model
from graphopt.pipeline.context import Context
from graphopt.pipeline.options import Options, option
from graphopt.pipeline.passes import Guarantee, Pass


class LegalizeOptions(Options):
    """Options of ``legalize``."""

    target: str = option("", "The target whose rules count; by default the target of the run.")
    symmetric: bool = option(
        True, "Widen asymmetric ranges to symmetric ones where the target takes nothing else. This loses precision."
    )


class Legalize(Pass[LegalizeOptions]):
    """Rewrites Q/DQ, integer operators and stamps that a target refuses into forms with the same meaning.

    For tensorrt: QLinearConv and its like become Q/DQ, uint8 becomes int8, an int32 bias its float32 value, single
    scales scalars, and missing zero points are written down. For every target: opset and IR stamps that are too new.
    What it cannot fix stays, and a remark says so.
    """

    guarantee = "lossy"

    def effective_guarantee(self) -> Guarantee:
        """For ONNX Runtime's CPU provider and OpenVINO all fixes are exact; for others some may round."""
        return "exact" if self.options.target in ("ort-cpu", "openvino") else "lossy"

    def run(self, model: Model, ctx: Context) -> None:
        """Apply the fixes."""
        from graphopt.targets import get_target
        from graphopt.transforms.legalize.fixes import legalize_model

        target = get_target(self.options.target or ctx.settings.target)
        legalize_model(model, target, ctx, self.options.symmetric)
