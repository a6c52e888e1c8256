"""Recovery as passes use it: reconstruct against the run's reference, report each step, undo what does not help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graphopt.data.feeds import Dataset
from graphopt.ir import Array
from graphopt.model import Model
from graphopt.pipeline.context import Context

if TYPE_CHECKING:
    from graphopt.analysis.statistics import Progress
    from graphopt.transforms.recover.reconstruction import Step


@dataclass(frozen=True)
class Recovery:
    """Settings of a recovery. ``memory`` caps stored reference values and exposed tensors, in bytes.

    ``threads``: of ONNX Runtime, by default the run's; linear algebra takes one. ``match``: only match mean and
    standard deviation of each channel. ``keep_zeros``: weights that are zero stay zero. ``limits``: largest magnitude
    that fitted weights may have, by the name of the weight. ``touched`` names nodes that a pass changed in other ways
    than by removing input channels.
    """

    batch: int | None = None
    threads: int | None = None
    memory: int = 1 << 30
    residual: bool = True
    match: bool = False
    limits: Mapping[str, Array] = field(default_factory=dict)
    keep_zeros: bool = False
    touched: frozenset[str] = frozenset()


def recover(model: Model, data: Dataset, ctx: Context, settings: Recovery | None = None) -> bool:
    """Reconstruct ``model`` in place against ``ctx.reference``; whether it was changed.

    Remarks give the relative squared error of every layer on held-back samples before and after. When the error at
    the outputs does not fall, everything is put back and a warning says so.

    Raises:
        DataError: no samples, or non-finite values.
    """
    from graphopt.snapshot import restore, take
    from graphopt.transforms.recover.check import OutputJudge, held_back

    reference = ctx.reference
    if reference is None:
        ctx.skipped(None, "nothing to recover: no lossy pass ran before")
        return False
    settings = settings or Recovery()
    before = take(model.graph)
    judge = OutputJudge(reference, held_back(data), settings.batch, settings.threads or ctx.settings.threads)
    old = judge.error(model)
    steps = _reconstruct(model, reference, data, ctx, settings)
    if not steps:
        ctx.skipped(None, "nothing to recover: no weighted layer reads anything that changed")
        return False
    if all(step.method == "unchanged" for step in steps):
        _report(steps, ctx)
        return False
    new = judge.error(model)
    ctx.count("output error before recovery", old)
    ctx.count("output error after recovery", new)
    if not new < old:
        restore(model.graph, before)
        ctx.warn(
            None, f"recovery undone: the error at the outputs did not fall on held-back samples ({old:.3g}, {new:.3g})"
        )
        return False
    _report(steps, ctx)
    origin = "synthetic data, which proves nothing about accuracy: " if data.synthetic else ""
    ctx.did(None, f"{origin}error at the outputs on held-back samples {old:.3g} before recovery, {new:.3g} after")
    return True


def _reconstruct(model: Model, reference: Model, data: Dataset, ctx: Context, settings: Recovery) -> tuple[Step, ...]:
    from graphopt.runtime.blas import blas_threads
    from graphopt.transforms.recover.reconstruction import ReconstructionOptions, reconstruct

    threads = settings.threads or ctx.settings.threads
    options = ReconstructionOptions(
        batch=settings.batch,
        threads=threads,
        max_memory=settings.memory,
        residual_targets=settings.residual and not settings.match,
        match=settings.match,
        keep_zeros=settings.keep_zeros,
        limits=settings.limits,
    )

    def progress(state: Progress) -> None:
        ctx.settings.progress("calibrating", state.done, state.total)

    with blas_threads(1):
        return reconstruct(model, reference, data, ctx.origins.of, options, touched=settings.touched, progress=progress)


def _report(steps: tuple[Step, ...], ctx: Context) -> None:
    from graphopt.transforms.recover.reconstruction import JOINT

    for step in steps:
        error = f"error on held-back samples {step.before:.3g} before, {step.after:.3g} after"
        if step.method == "unchanged":
            ctx.skipped(step.node, f"no fit helps ({error})")
        else:
            ctx.did(step.node, f"{step.method}: {error}")
            ctx.count("joint fits" if step.method == JOINT else "layers recovered")
