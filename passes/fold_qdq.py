"""Folding of Q/DQ that a model came with, as quantization-aware training leaves it."""

from __future__ import annotations

from graphopt.model import Model
from graphopt.pipeline.context import Context
from graphopt.pipeline.passes import Pass
from graphopt.transforms.quantize.fold import fold_qdq


class FoldQdq(Pass):
    """Stores weights that stand behind a QuantizeLinear as integers, and drops a Q that only undoes the DQ before it.

    Exporters of quantization-aware training leave float weights behind Q and DQ: four times the bytes.
    """

    guarantee = "exact"

    def run(self, model: Model, ctx: Context) -> None:
        """See ``graphopt.transforms.quantize.fold``."""
        fold_qdq(model, ctx)
