"""Put QuantizeLinear and DequantizeLinear where the target runs integers faster."""

from __future__ import annotations

from graphopt.model import Model
from graphopt.pipeline.context import Context
from graphopt.pipeline.passes import Pass
from graphopt.pipeline.quantization import QuantizeOptions, run_quantization


class InsertQdq(Pass[QuantizeOptions]):
    """The quantizing part of ``quantize``: plan, calibrate, insert Q/DQ, check what became integer."""

    guarantee = "lossy"
    requires = frozenset({"data"})
    quantizes = True

    def run(self, model: Model, ctx: Context) -> None:
        """See ``graphopt.transforms.quantize.qdq``."""
        run_quantization(model, ctx, self.options)
