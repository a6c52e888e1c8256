"""What ``prune`` tells a run: which channels are left, what went, and which nodes froze the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt.pipeline.context import Context

if TYPE_CHECKING:
    from graphopt.analysis.labels import Coupling
    from graphopt.transforms.prune.keepset import KeepSet
    from graphopt.transforms.prune.selection_units import Units


def record_origins(coupling: Coupling, keep: KeepSet, ctx: Context) -> None:
    """Tell the run which channels of each tensor are left."""
    import numpy as np

    for tensor, axes in coupling.record.axes.items():
        if tensor.is_empty():
            continue
        for place, axis in enumerate(axes):
            if keep.changed(axis):
                ctx.origins.cut(tensor.name, place, np.flatnonzero(keep.mask(axis)))


def explain(units: Units, keep: KeepSet, ctx: Context) -> None:
    """Remarks: what went, class by class, and which node froze the rest."""
    from graphopt.transforms.prune.inspection import prunable

    for family in units.families:
        gone = int(keep.removed[family.classes].sum())
        if gone:
            ctx.did(family.nodes[0] if family.nodes else None, f"{gone} of {len(family)} units removed")
    found = prunable(units)
    ctx.count("prunable share of macs", found.macs_share)
    for frozen in found.frozen:
        ctx.skipped(
            frozen.reason, f"freezes {frozen.axes} weight axes (nodes with {frozen.macs_share:.1%} of the MACs)"
        )
    for text in found.without_rule:
        ctx.skipped(text, "all its axes stay: no rule, control flow, or extents that only the data decides")
