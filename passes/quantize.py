"""Static int8 quantization for the run's target, from calibration data."""

from __future__ import annotations

from graphopt.pipeline.passes import Composite
from graphopt.pipeline.quantization import QuantizeOptions
from graphopt.pipeline.text import StepText

_RECURRENT_TOO = ("per_channel", "reduce_range", "include", "exclude", "fidelity", "profile")


class Quantize(Composite[QuantizeOptions]):
    """Quantizes a model so that the target's integer kernels run, and no layer gets slower.

    Cleans the graph first (a BatchNormalization that is not folded keeps its convolution from fusing), then puts Q/DQ
    where the target's rules and its latency profile say that they pay. An LSTM runs on integers where the target has
    a kernel for it that is faster and keeps ``fidelity``; other recurrent nodes stay in float and are named.
    """

    guarantee = "lossy"
    quantizes = True

    def pipeline(self) -> str:
        """Clean-up, what is quantized already, Q/DQ, then the recurrent nodes."""
        given = self.options.to_text()
        static = StepText("insert_qdq", tuple(given.items()))
        shared = {name: given[name] for name in _RECURRENT_TOO if name in given}
        recurrent = StepText("quantize_dynamic", tuple({"layers": "recurrent", **shared}.items()))
        return f"cleanup,fold_qdq,{static},{recurrent}"
