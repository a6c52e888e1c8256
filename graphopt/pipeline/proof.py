"""The proofs of ``prune`` as a user sees them: remarks, counts, and an error when one fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt.errors import UnsupportedError, ValidationError
from graphopt.model import Model
from graphopt.pipeline.context import Context

if TYPE_CHECKING:
    from graphopt.ir import Array
    from graphopt.transforms.prune.keepset import KeepSet
    from graphopt.transforms.prune.masking import Oracle
    from graphopt.transforms.prune.selection_units import Units


def masked(
    model: Model, oracle: Oracle, units: Units, keep: KeepSet, feeds: dict[str, Array], ctx: Context
) -> None:
    """Masked equivalence of a pruned model, with its remarks and counts.

    Raises:
        ValidationError: the result differs from the masked model.
    """
    from graphopt.transforms.prune.equivalence import check

    try:
        found = check(model, oracle, units.coupling, keep, feeds, units.families)
    except UnsupportedError as error:
        ctx.warn(None, f"not proven: {error}")
        return
    ctx.count("masked error", found.error)
    ctx.count("classes exchanged", found.tested)
    ctx.count("inconclusive", len(found.inconclusive))
    if not found.passed:
        raise ValidationError(
            f"the result differs from the masked model by {max(found.error, found.probe_error):.2e} of the "
            f"output range (allowed {found.tolerance:.0e}); this is a bug in an operator's rule, please report it"
        )
    if found.ill_conditioned:
        ctx.warn(
            None,
            f"no proof: the error against the masked model, {found.error:.1e} of the output range, is above the "
            f"tolerance, but changing the inputs by one rounding unit moves the outputs by {found.noise:.1e}",
        )
    else:
        ctx.note(None, f"equals the masked model: error {found.error:.1e} of the output range")
    for name in found.unstable:
        ctx.warn(
            name,
            "not comparable: it lies behind a sort or threshold that rounding decides; what is in front agrees",
        )
    for name in found.inconclusive:
        ctx.warn(name, "inconclusive: exchanging a kept for a removed unit moved nothing by 100 tolerances")


def unchanged(original: Model, model: Model, feeds: dict[str, Array], ctx: Context) -> None:
    """That exact mode left the outputs as they were.

    Raises:
        ValidationError: it did not.
    """
    from graphopt.transforms.prune.equivalence import TOLERANCE, largest_difference

    try:
        error = largest_difference(original, model, feeds)
    except UnsupportedError:
        return
    if error > TOLERANCE:
        raise ValidationError(
            f"exact mode changed outputs by {error:.1e} of their range (allowed {TOLERANCE:.0e}); "
            "please report it"
        )
    ctx.note(None, f"outputs are those of the model before: difference {error:.1e} of their range")
