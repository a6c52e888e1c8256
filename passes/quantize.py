"""Static int8 quantization for the run's target, from calibration data."""

from __future__ import annotations

from graphopt.pipeline.passes import Composite
from graphopt.pipeline.quantization import QuantizeOptions
from graphopt.pipeline.text import StepText


class Quantize(Composite[QuantizeOptions]):
    """Quantizes a model so that the target's integer kernels run, and no layer gets slower.

    Cleans the graph first (a BatchNormalization that is not folded keeps its convolution from fusing), then puts Q/DQ
    where the target's rules and its latency profile say that they pay.
    """

    guarantee = "lossy"
    quantizes = True

    def pipeline(self) -> str:
        """Clean-up, then Q/DQ."""
        return f"cleanup,{StepText('insert_qdq', tuple(self.options.to_text().items()))}"
