"""The ``prune`` pass: structured pruning of whole channels, heads, features and hidden units."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from graphopt.analysis.layers import integer_layers
from graphopt.errors import BudgetError, UsageError, ValidationError
from graphopt.model import Model
from graphopt.pipeline.context import Context
from graphopt.pipeline.options import Options, Tunable, option
from graphopt.pipeline.passes import Guarantee, Pass, Requirement
from graphopt.pipeline.pruning import explain, record_origins
from graphopt.pipeline.values import Pattern, PatternMap

if TYPE_CHECKING:
    from graphopt.analysis.labels import Coupling
    from graphopt.analysis.statistics import Progress
    from graphopt.data.feeds import Dataset
    from graphopt.ir import Array
    from graphopt.snapshot import Snapshot
    from graphopt.transforms.prune.data_free import Merge
    from graphopt.transforms.prune.exact_constants import Folding
    from graphopt.transforms.prune.keepset import KeepSet
    from graphopt.transforms.prune.selection import Budget, Policy
    from graphopt.transforms.prune.selection_units import Units

DEFAULT_MACS = 0.7
_RETRIES = 8


class PruneOptions(Options):
    """Options of ``prune``. Without an amount: keep 70 % of the MACs when there is data, else the exact mode."""

    ratio: float | None = option(
        None, "Share of the units of every class that is removed.", ge=0, lt=1
    )
    ratios: PatternMap[float] = option(PatternMap(), "Ratios for the classes whose weights these nodes read.")
    keep_macs: float | None = option(
        None, "Share of the MACs that stays, at most.", gt=0, le=1, tunable=Tunable(1.0, 0.2, 0.02)
    )
    keep_params: float | None = option(None, "Share of the parameters that stays, at most.", gt=0, le=1)
    keep_bytes: float | None = option(None, "Share of the weight bytes that stays, at most.", gt=0, le=1)
    threshold: float | None = option(None, "Remove units all of whose producing weights are at most this.", ge=0)
    norm: Literal["max", "l1", "l2"] = option(
        "max", "What threshold bounds: the largest magnitude in a unit's weights, their L1 or their L2 norm."
    )
    mode: Literal["amount", "exact"] = option("amount", "exact removes only what provably changes nothing.")
    criterion: str = option(
        "auto",
        "How units are ranked. From the weights: l1, l2, random, bn_scale, fpgm, lamp. With data: recovery (error left "
        "after compensation), reconstruction (error of the consumers' outputs), wanda, fluctuation, activation (root "
        "mean square), mean, variance, apoz. Or one of a plugin. auto is recovery with data, l1 without.",
    )
    reduction: Literal["sum", "mean", "max", "prod", "union"] = option(
        "sum", "How a unit's scores on its weights are combined. union: what any of its weights would remove first."
    )
    scope: Literal["local", "global"] = option("local", "Rank units within their class, or all together.")
    prefer: Literal["auto", "heads", "inside"] = option(
        "auto", "Remove whole heads (blocks), or positions inside them."
    )
    free: bool = option(
        True,
        "Groups that need equal numbers (grouped convolution, GroupNormalization, grouped-query heads) lose whichever "
        "units score least; false: the same places in every group.",
    )
    shuffles: bool = option(True, "Channel shuffles become Gather nodes where more can be removed then.")
    align: Literal["auto"] | int = option("auto", "Kept widths are multiples of this; auto asks the target.")
    minimum: int = option(1, "Units of a class that always stay.", ge=1)
    max_ratio: float = option(0.95, "No class loses a larger share.", gt=0, lt=1)
    include: tuple[Pattern, ...] = option((), "Only classes whose weights one of these nodes reads.")
    exclude: tuple[Pattern, ...] = option((), "No class whose weights one of these nodes reads.")
    recover: bool = option(
        True,
        "With data, reconstruct the layers that the removal reaches (pass reconstruct); without, merge removed units "
        "into kept ones by their weights.",
    )
    verify: bool = option(True, "Check masked equivalence and that the check has power.")
    manifest: str | None = option(None, "Write the keep-set to this JSON file.")
    replay: str | None = option(None, "Apply the keep-set of this JSON file instead of choosing.")

    def open_knobs(self) -> dict[str, Tunable]:
        """``keep_macs``, unless another option already says how much goes."""
        amounts = ("ratio", "ratios", "keep_macs", "keep_params", "keep_bytes", "threshold", "mode", "replay")
        return {} if any(self.given(name) for name in amounts) else self.tunables()


class Prune(Pass[PruneOptions]):
    """Removes channels, heads, features and hidden units, with everything that must go with them.

    Which positions go together is found by label propagation over the whole graph; the result is compared with the
    unpruned graph in which the removed units are masked. Layers that hold integers lose units too, but nothing can be
    recovered in them: without an amount, a quantized model loses only what changes nothing.
    """

    guarantee = "lossy"

    def requirements(self) -> frozenset[Requirement]:
        """Float layers, to recover in; exact mode has nothing to recover."""
        return frozenset() if self.options.mode == "exact" else frozenset({"float"})

    def effective_guarantee(self) -> Guarantee:
        """Equivalent in exact mode."""
        return "equivalent" if self.options.mode == "exact" else "lossy"

    def run(self, model: Model, ctx: Context) -> None:
        """See the class."""
        from graphopt.snapshot import restore, take
        from graphopt.transforms.prune.slicing_values import SliceConflict

        if not ctx.allow(None, "prune"):
            return
        model.inline_functions()
        frozen: dict[str, str] = {}
        for _ in range(_RETRIES):
            before = take(model.graph)
            try:
                self._prune(model, ctx, frozen)
            except SliceConflict as conflict:
                restore(model.graph, before)
                frozen |= {t.name: str(conflict) for t in conflict.tensors}
                ctx.warn(None, f"kept as they are: {', '.join(sorted(t.name for t in conflict.tensors))}: {conflict}")
            else:
                return
        raise ValidationError(f"{len(frozen)} tensors have extents that cannot be followed; exclude their nodes")

    def _prune(self, model: Model, ctx: Context, frozen: dict[str, str]) -> None:
        from graphopt.pipeline import proof
        from graphopt.snapshot import restore
        from graphopt.transforms.prune import masking, slicing
        from graphopt.transforms.prune.selection import macs, parameters
        from graphopt.transforms.prune.selection_units import find_units

        coupling, shuffled = self._analyse(model, ctx, frozen)
        units = find_units(coupling)
        keep, folding = self._choose(model, units, ctx)
        if keep.empty():
            if shuffled is not None:
                restore(model.graph, shuffled)
            explain(units, keep, ctx)
            self._nothing(ctx)
            return
        feeds = self._feeds(coupling, ctx) if self.options.verify else {}
        oracle = masking.build(model, coupling, keep) if self.options.verify else None
        exact = folding is not None and not self.options.replay
        original = model.clone() if exact and self.options.verify else None
        merges = self._merges(units, keep, ctx) if folding is None else []
        report = slicing.apply(keep)
        explain(units, keep, ctx)
        for name in dict.fromkeys(report.pinned):
            ctx.note(name, "computed from extents at run time; patched to what it must be")
        if oracle is not None:
            proof.masked(model, oracle, units, keep, feeds, ctx)
        if folding is not None:
            ctx.count("constants folded into biases", folding.apply(model.graph, keep))
        if original is not None:
            proof.unchanged(original, model, feeds, ctx)
        record_origins(coupling, keep, ctx)
        self._apply_merges(model, merges, keep, ctx)
        self._recover(model, ctx)
        ctx.count("units removed", int(keep.removed[coupling.solution.leaf].sum()))
        ctx.count("macs kept", macs(units, keep) / max(macs(units, None), 1.0))
        ctx.count("parameters kept", parameters(units, keep) / max(parameters(units, None), 1.0))
        if self.options.manifest:
            from graphopt.transforms.prune.manifest import write_manifest

            text = json.dumps(write_manifest(keep, constants=folding is not None), indent=1)
            Path(self.options.manifest).write_text(text + "\n")

    def _analyse(self, model: Model, ctx: Context, frozen: dict[str, str]) -> tuple[Coupling, Snapshot | None]:
        """The coupling; where it allows more, channel shuffles are rewritten first: then also the graph as it was."""
        from graphopt.analysis.labels import analyse
        from graphopt.transforms.prune.equivalence import identical
        from graphopt.transforms.prune.shuffles import opened

        def again() -> Coupling:
            tensors = model.graph.tensors() if frozen else {}
            stuck = {tensors[n]: why for n, why in frozen.items() if n in tensors}
            return analyse(model.graph, rules=ctx.rules(), frozen=stuck)

        first = again()
        if not self.options.shuffles:
            return first, None
        original = model.clone()
        coupling, before = opened(model.graph, first, again)
        if before is not None:
            ctx.note(None, "channel shuffles became Gather nodes, so that any channels may go")
            if self.options.verify and not identical(original, model, self._feeds(coupling, ctx)):
                raise ValidationError("rewriting the channel shuffles changed the outputs; please report it")
        return coupling, before

    def _recover(self, model: Model, ctx: Context) -> None:
        from graphopt.pipeline.recovery import recover

        data = ctx.settings.data
        if self.options.recover and self.options.mode != "exact" and data is not None:
            recover(model, data, ctx)

    def _nothing(self, ctx: Context) -> None:
        if self._amounts() or self.options.mode == "exact" or self.options.replay:
            ctx.skipped(None, "nothing to remove")
        else:
            ctx.warn(None, "nothing was removed: give an amount (ratio=, keep_macs=, ...), or data to recover with")

    def _amounts(self) -> list[str]:
        """Names of the options that were given to say how much goes."""
        names = ("ratio", "ratios", "keep_macs", "keep_params", "keep_bytes", "threshold")
        return [name for name in names if self.options.given(name)]

    def _merges(self, units: Units, keep: KeepSet, ctx: Context) -> list[Merge]:
        """Without data: what the readers of the removed units should hold instead."""
        from graphopt.transforms.prune.data_free import plan_merges

        if not self.options.recover or self.options.mode == "exact" or ctx.settings.data is not None:
            return []
        return plan_merges(units, keep)

    def _apply_merges(self, model: Model, merges: list[Merge], keep: KeepSet, ctx: Context) -> None:
        from graphopt.transforms.prune.data_free import apply_merges

        if not merges:
            return
        apply_merges(model.graph, merges, keep)
        ctx.count("layers recovered without data", len(merges))
        for merge in merges:
            ctx.did(merge.layer.node, "data-free: takes over the weights of removed units that kept ones stand in for")
        ctx.note(None, "data-free: removed units merged into kept ones by their weights; nothing proves that it helps")

    # -- choosing --------------------------------------------------------------------------------------------------

    def _choose(self, model: Model, units: Units, ctx: Context) -> tuple[KeepSet, Folding | None]:
        """The keep-set; in exact mode also what the consumers of removed constants get."""
        options = self.options
        if options.replay:
            return self._replay(model, units, ctx)
        if options.mode == "exact":
            if self._amounts():
                raise UsageError(f"mode=exact removes what changes nothing; leave out {', '.join(self._amounts())}")
            return self._exact(model, units, ctx)
        if options.criterion not in ("auto", "recovery"):
            ctx.criterion(options.criterion)
        fixed = integer_layers(model.graph)
        if (ctx.settings.data is None or fixed) and not self._amounts():
            why = f"no amount, and layers of integers ({fixed})" if fixed else "no amount and no calibration data"
            ctx.note(None, f"{why}: only what provably changes nothing is removed")
            return self._exact(model, units, ctx)
        if fixed:
            ctx.warn(
                None,
                f"layers that hold integers ({fixed}) cannot make up for removed units; where you have the float "
                "model, prune that and quantize it then",
            )
        return self._choose_amount(model, units, ctx), None

    def _choose_amount(self, model: Model, units: Units, ctx: Context) -> KeepSet:
        from graphopt.transforms.prune import selection

        options, policy = self.options, self._policy(ctx)
        if options.threshold is not None:
            return selection.by_threshold(units, options.threshold, policy, options.norm)
        budgets: list[tuple[selection.Budget, float | None]] = [
            ("macs", options.keep_macs),
            ("params", options.keep_params),
            ("bytes", options.keep_bytes),
        ]
        given = [(kind, share) for kind, share in budgets if share is not None]
        if len(given) + (options.ratio is not None) > 1:
            raise UsageError("give one of ratio, keep_macs, keep_params, keep_bytes")
        if not given and options.ratio is None and not len(options.ratios):
            ctx.note(None, f"no amount given: {DEFAULT_MACS:.0%} of the MACs are kept")
            given = [("macs", DEFAULT_MACS)]
        if given and self._criterion(model, ctx) == "recovery":
            return self._by_recovery(model, units, policy, given[0][0], given[0][1], ctx)
        scores = self._scores(model, units, policy, ctx)
        if given:
            return selection.by_budget(units, scores, policy, given[0][0], given[0][1])
        return selection.by_ratio(units, scores, policy)

    def _exact(self, model: Model, units: Units, ctx: Context) -> tuple[KeepSet, Folding]:
        from graphopt.transforms.prune.exact import choose

        found = choose(model, units, self._policy(ctx), lambda: self._feeds(units.coupling, ctx))
        for node, number in found.padded.items():
            ctx.skipped(
                node,
                f"{number} of the units it reads are constant and stay: it pads with zeros, so the border would differ",
            )
        if found.refused:
            ctx.warn(None, f"constant units stay, their values cannot be read: {found.refused}")
        return found.keep, found.folding

    def _replay(self, model: Model, units: Units, ctx: Context) -> tuple[KeepSet, Folding | None]:
        from graphopt.transforms.prune.exact_constants import plan
        from graphopt.transforms.prune.manifest import folds_constants, load_manifest, read_manifest

        data = load_manifest(Path(str(self.options.replay)))
        keep = read_manifest(units.coupling, data)
        return keep, plan(model, keep, self._feeds(units.coupling, ctx)) if folds_constants(data) else None

    def _scores(self, model: Model, units: Units, policy: Policy, ctx: Context) -> Array:
        from graphopt.transforms.prune.activations import ActivationStatistics
        from graphopt.transforms.prune.criteria import CRITERIA, score, score_all

        name = self._criterion(model, ctx)
        seed = int(ctx.rng().integers(1 << 31))
        if name != "recovery":
            data = ctx.settings.data
            statistics = None if data is None else ActivationStatistics(model, data, units, ctx.settings.cache_dir)
            scores, silent = score_all(units, ctx.criterion(name), self.options.reduction, statistics, seed)
            for family in silent:
                ctx.note(family.name, f"criterion {name} says nothing about this class; l1 ranks it")
            return scores
        from graphopt.runtime.blas import blas_threads
        from graphopt.transforms.recover.selection import RecoveryOptions, recovery_scores

        others = score(units, CRITERIA["l1"], self.options.reduction, None, seed)
        with blas_threads(1):
            options = RecoveryOptions(threads=ctx.settings.threads)
            return recovery_scores(model, units, policy, self._data(ctx), others, options)

    def _criterion(self, model: Model, ctx: Context) -> str:
        if self.options.criterion == "auto":
            return "l1" if ctx.settings.data is None or integer_layers(model.graph) else "recovery"
        return self.options.criterion

    def _data(self, ctx: Context) -> Dataset:
        if ctx.settings.data is None:
            raise UsageError("criterion recovery needs calibration data; give --data or choose l1")
        return ctx.settings.data

    def _by_recovery(
        self, model: Model, units: Units, policy: Policy, kind: Budget, share: float, ctx: Context
    ) -> KeepSet:
        from graphopt.runtime.blas import blas_threads
        from graphopt.transforms.prune.criteria import CRITERIA, score
        from graphopt.transforms.prune.selection import by_budget
        from graphopt.transforms.recover.selection import RecoveryOptions, by_recovery

        def progress(state: Progress) -> None:
            ctx.settings.progress("calibrating", state.done, state.total)

        options = RecoveryOptions(threads=ctx.settings.threads)
        try:
            with blas_threads(1):
                return by_recovery(model, units, policy, kind, share, self._data(ctx), options, progress)
        except BudgetError as error:
            ranks = score(units, CRITERIA["l1"], self.options.reduction, None, int(ctx.rng().integers(1 << 31)))
            keep = by_budget(units, ranks, policy, kind, share)
            ctx.warn(
                None,
                f"units chosen by l1: among those that layers with constant weights can make up for, {error}. "
                "Run cleanup before prune if weights are computed from constants",
            )
            return keep

    def _policy(self, ctx: Context) -> Policy:
        from graphopt.targets.registry import get_target
        from graphopt.transforms.prune.selection import Policy

        options = self.options
        align = get_target(ctx.settings.target).alignment(ctx.precision) if options.align == "auto" else options.align
        if align < 1:
            raise UsageError(f"align must be at least 1, not {align}")
        return Policy(
            ratio=options.ratio or 0.0,
            ratios=options.ratios,
            align=align,
            minimum=options.minimum,
            max_ratio=options.max_ratio,
            include=options.include,
            exclude=options.exclude,
            scope=options.scope,
            free=options.free,
            prefer={"auto": "auto", "heads": "outer", "inside": "inner"}[options.prefer],  # type: ignore[arg-type]
        )

    # -- proof -----------------------------------------------------------------------------------------------------

    def _feeds(self, coupling: Coupling, ctx: Context) -> dict[str, Array]:
        from graphopt.transforms.prune.seeded import seeded_feeds

        if ctx.settings.data is not None:
            batch = next(iter(ctx.settings.data.iter_batches(1)), None)
            if batch is not None:
                return dict(batch.feeds)
        return seeded_feeds(coupling.graph, coupling.facts, ctx.settings.seed)
