"""The ``reconstruct`` pass: closed-form recovery of what lossy passes lost."""

from __future__ import annotations

from graphopt.data.feeds import Dataset
from graphopt.model import Model
from graphopt.pipeline.context import Context
from graphopt.pipeline.options import Options, option
from graphopt.pipeline.passes import Guarantee, Pass


class ReconstructOptions(Options):
    """Options of ``reconstruct``."""

    batch: int = option(32, "Rows of calibration data in one run, where the model leaves it open.", ge=1)
    threads: int = option(1, "Threads of ONNX Runtime.", ge=1)
    memory: int = option(1024, "Cap on stored reference values and exposed tensors, in MiB.", ge=1)
    residual: bool = option(True, "Aim layers that end in a residual sum at the reference's sum.")


class Reconstruct(Pass[ReconstructOptions]):
    """Fit each weighted layer that changes reach to the reference by least squares on calibration data.

    Sequential least squares through the graph (see ``graphopt.transforms.reconstruction`` for the sources): inputs
    from the changed prefix, targets from the model that entered the first lossy pass. Every layer's fit is judged on
    held-back samples and dropped when it does not help; so is the whole result.
    """

    guarantee = "lossy"
    requires = frozenset({"float", "data"})

    def effective_guarantee(self) -> Guarantee:
        """Lossy: it moves weights."""
        return "lossy"

    def run(self, model: Model, ctx: Context) -> None:
        """See the class."""
        reference, data = ctx.reference, ctx.settings.data
        if reference is None or data is None:
            ctx.skipped(None, "nothing to recover: no lossy pass ran before, or there is no calibration data")
            return
        self._recover(model, reference, data, ctx)

    def _recover(self, model: Model, reference: Model, data: Dataset, ctx: Context) -> None:
        from graphopt.analysis.statistics import Progress
        from graphopt.snapshot import restore, take
        from graphopt.transforms.reconstruction import ReconstructionOptions, reconstruct
        from graphopt.transforms.reconstruction_check import held_back, output_errors

        chosen = ReconstructionOptions(
            batch=self.options.batch,
            threads=self.options.threads,
            max_memory=self.options.memory << 20,
            residual_targets=self.options.residual,
        )
        if not ctx.allow(None, "reconstruct"):
            return

        def progress(state: Progress) -> None:
            ctx.settings.progress("calibrating", state.done, state.total)

        before = take(model.graph)
        start = model.clone()
        steps = reconstruct(model, reference, data, ctx.origins.of, chosen, progress=progress)
        if not steps:
            ctx.skipped(None, "no layer reads anything that changed")
            return
        old, new = output_errors(reference, [start, model], held_back(data), self.options.batch, self.options.threads)
        ctx.count("output error before", old)
        ctx.count("output error after", new)
        if not new < old:
            restore(model.graph, before)
            ctx.warn(
                None, f"undone: the error at the outputs did not fall on held-back samples ({old:.4g} to {new:.4g})"
            )
            return
        for step in steps:
            error = f"error on held-back samples {step.before:.3g} to {step.after:.3g}"
            if step.method == "unchanged":
                ctx.skipped(step.node, f"no fit helps ({error})")
            else:
                ctx.did(step.node, f"{step.method}: {error}")
                ctx.count("layers recovered")
        source = "synthetic data: proves nothing about accuracy; " if data.synthetic else ""
        ctx.did(None, f"{source}error at the outputs on held-back samples {old:.3g} to {new:.3g}")
