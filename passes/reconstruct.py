"""The ``reconstruct`` pass: closed-form recovery of what lossy passes lost."""

from __future__ import annotations

from typing import Literal

from graphopt.data.feeds import Dataset
from graphopt.model import Model
from graphopt.pipeline.context import Context
from graphopt.pipeline.options import Options, option
from graphopt.pipeline.passes import Pass
from graphopt.pipeline.recovery import Recovery, recover


class ReconstructOptions(Options):
    """Options of ``reconstruct``."""

    batch: int = option(32, "Rows of calibration data in one run, where the model leaves it open.", ge=1)
    threads: int | None = option(None, "Threads of ONNX Runtime; by default the run's. Linear algebra takes one.", ge=1)
    memory: int = option(1024, "Cap on stored reference values and exposed tensors, in MiB.", ge=1)
    method: Literal["least-squares", "match"] = option(
        "least-squares", "match: only mean and standard deviation of each channel, as BatchNorm recalibration does."
    )
    synthetic: int = option(256, "Without calibration data, use this many seeded synthetic inputs (0: refuse).", ge=0)
    residual: bool = option(True, "Aim layers that end in a residual sum at the reference's sum.")


class Reconstruct(Pass[ReconstructOptions]):
    """Fit each weighted layer that changes reach to the reference by least squares on calibration data.

    Sequential least squares through the graph (see ``graphopt.transforms.recover.reconstruction`` for the sources):
    inputs from the changed prefix, targets from the model that entered the first lossy pass. Every layer's fit is
    judged on held-back samples and dropped when it does not help; so is the whole result.
    """

    guarantee = "lossy"
    requires = frozenset({"float"})

    def run(self, model: Model, ctx: Context) -> None:
        """See the class."""
        data = ctx.settings.data or self._synthetic(model, ctx)
        if data is None:
            return
        if not ctx.allow(None, "reconstruct"):
            return
        options = self.options
        match = options.method == "match"
        settings = Recovery(options.batch, options.threads, options.memory << 20, options.residual, match)
        recover(model, data, ctx, settings)

    def _synthetic(self, model: Model, ctx: Context) -> Dataset | None:
        """Data-free recovery: seeded synthetic inputs, when the model says what its inputs look like."""
        from graphopt.data.interface import read_interface
        from graphopt.data.synthetic import SyntheticDataset

        interface = read_interface(model.stub_proto().SerializeToString()).bind({}, batch=1)
        if not self.options.synthetic or interface.free_dims():
            ctx.skipped(None, "nothing to recover with: no calibration data, and no synthetic inputs can be made")
            return None
        ctx.warn(None, "data-free: synthetic inputs stand in for calibration data and prove nothing about accuracy")
        return SyntheticDataset(interface, self.options.synthetic, ctx.settings.seed)
