"""The choices of a quantization: weight of clipping, evened ranges, mixed precision, and what effort ``best`` adds."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import TypeAlias

from graphopt.data.split import subsample
from graphopt.transforms.quantize.config import Quantized
from graphopt.transforms.quantize.equalization import Evening, Link, find_links, find_smoothable, plan_equalization
from graphopt.transforms.quantize.equalization_choice import Evened, choose_evenings
from graphopt.transforms.quantize.mixed import Mix, Tried, best_trade, first_good, mixes
from graphopt.transforms.quantize.ranges import CLIPPING_WEIGHTS
from graphopt.transforms.quantize.refine import round_weights, settle_biases
from graphopt.transforms.quantize.report import kernel_report
from graphopt.transforms.quantize.run import Run
from graphopt.transforms.quantize.sensitivity import Sensitivity, rank_layers
from graphopt.transforms.quantize.trial import HELD_BACK_AT_MOST, Judge, decibel, hold_back

Better: TypeAlias = Callable[[Evened[tuple[Run, Quantized]], Evened[tuple[Run, Quantized]]], bool]

_USABLE_DB = 15.0
_RANKING_RUNS = 4
_HALVINGS = MappingProxyType({"fast": 1, "best": 3})
_SEED = 0


class Chooser:
    """Tries with few samples, judges on held-back ones, then quantizes with all of them."""

    def __init__(self, run: Run) -> None:
        parts = hold_back(run.data)
        self.whole = run.data
        self.run = run.on(subsample(parts.fit, HELD_BACK_AT_MOST, _SEED))
        self.judge = Judge(run.model, parts.judge)
        self.notes: list[str] = []
        self.ranking: list[Sensitivity] = []

    def choose(self) -> Quantized | None:
        """The quantized model; None when no layer becomes integer."""
        run, config = self.run, self.run.config
        first = run.attempt({})
        if first is None:
            return None
        if config.method == "auto":
            first = self._clipping(run, first)
        if config.equalize:
            self.run = self._evened(run, first)
        if config.fidelity > 0:
            self._mix()
        self.run = self.run.on(self.whole)
        done = self.run.settled(self.run.penalties)
        if done is None:
            return None
        if config.best:
            done = self._best(done)
        done.notes, done.ranking = tuple(self.notes), self.ranking
        return done

    def _clipping(self, run: Run, first: Quantized) -> Quantized:
        """Climb from the middle of the ladder of weights to the one of least noise."""
        known = {run.clipping: (first, self.judge.verdict(first.model))}

        def noise(index: int) -> float:
            if not 0 <= index < len(CLIPPING_WEIGHTS):
                return float("inf")
            weight = CLIPPING_WEIGHTS[index]
            if weight not in known:
                run.clipping = weight
                tried = run.attempt({})
                assert tried is not None
                known[weight] = tried, self.judge.verdict(tried.model)
            return known[weight][1].inner

        at = CLIPPING_WEIGHTS.index(run.clipping)
        while (step := min((-1, 1), key=lambda d: noise(at + d))) and noise(at + step) < noise(at):
            at += step
        run.clipping = CLIPPING_WEIGHTS[at]
        self.notes.append(f"clipping errors count {run.clipping:g} times, chosen on held-back samples")
        return known[run.clipping][0]

    def _evened(self, run: Run, first: Quantized) -> Run:
        """The run on a model with evened channel ranges, if that helps."""
        start: Evened[tuple[Run, Quantized]] = Evened((), (run, first), self.judge.verdict(first.model))
        depth = _HALVINGS["best" if run.config.best else "fast"]
        integer = {u.node.id for u in first.plan.integer}
        links = find_links(run.model.graph)
        folded = _worthwhile(run, [la for la in links if _read_by(la, integer)])

        def build(evenings: tuple[Evening, ...]) -> Evened[tuple[Run, Quantized]] | None:
            changed = run.evened(evenings)
            done = changed.attempt({})
            return None if done is None else Evened(evenings, (changed, done), self.judge.verdict(done.model))

        best = choose_evenings(start, folded, build, _quieter, depth)
        if best.verdict.sqnr_db < run.config.fidelity:
            taken = {id(e.link) for e in best.evenings}
            free = find_smoothable(run.model.graph, [la for la in links if id(la) in taken])
            smooth = _worthwhile(run, [la for la in free if _read_by(la, integer)])
            pays = _pays(first, best.verdict.sqnr_db, run.config.fidelity)
            best = choose_evenings(best, smooth, build, pays, depth)
        if best.evenings:
            self.notes.append(
                f"channel ranges of {len(best.evenings)} tensors evened out: {start.verdict.sqnr_db:.1f} -> "
                f"{best.verdict.sqnr_db:.1f} dB on held-back samples"
            )
        return best.built[0]

    def _mix(self) -> None:
        """All on integers if that is good enough, or the mix that trades best."""
        run, wanted = self.run, self.run.config.fidelity
        done = run.settled({})
        if done is None:
            return
        verdict = self.judge.verdict(done.model)
        if verdict.worst_db >= wanted:
            return
        few = Judge(run.model, run.data, _RANKING_RUNS)
        self.ranking = rank_layers(
            run.model, few, run.target, run.settings, done.plan, done.grids, run.probes, run.means
        )
        found = mixes(self.ranking, done.plan, run.planned)
        first: Tried[Quantized | None] = Tried(found[0], done, verdict.sqnr_db, decibel(verdict.inner))
        if run.config.strict:
            chosen = first_good(found, self._attempt, wanted)
        else:
            chosen = best_trade(found, first, self._attempt, wanted)
            if chosen.sqnr_db < _USABLE_DB:
                chosen = first_good(found, self._attempt, _USABLE_DB)
        run.penalties = chosen.mix.penalties
        self._say(found, first, chosen)

    def _attempt(self, mix: Mix) -> Tried[Quantized | None]:
        done = self.run.settled(mix.penalties)
        if done is None:
            return Tried(mix, None, float("inf"), float("inf"))
        verdict = self.judge.verdict(done.model)
        return Tried(mix, done, verdict.sqnr_db, decibel(verdict.inner))

    def _say(self, found: list[Mix], first: Tried[Quantized | None], chosen: Tried[Quantized | None]) -> None:
        if chosen.mix is not found[0]:
            self.notes.append(
                f"layers put back in float: {first.sqnr_db:.1f} -> {chosen.sqnr_db:.1f} dB on held-back samples, "
                f"{1 - chosen.mix.kept:.0%} of the saved time given up"
            )

    def _best(self, done: Quantized) -> Quantized:
        """Learned rounding and corrected biases, each kept if it lowers the noise on held-back samples."""
        report = done.report
        least = self.judge.verdict(done.model)
        rounded = round_weights(self.run, done)
        if rounded is not None and (verdict := self.judge.verdict(rounded.model)).better_than(least):
            self.notes.append(f"learned rounding: {least.sqnr_db:.1f} -> {verdict.sqnr_db:.1f} dB on held-back samples")
            done, least = rounded, verdict
        before = done.model.clone()
        note = settle_biases(self.run, done)
        verdict = self.judge.verdict(done.model)
        if verdict.better_than(least):
            self.notes.append(note)
        else:
            done.model = before
            self.notes.append("correcting the biases did not help on held-back samples and was undone")
        if report is not None:
            done.report = kernel_report(done.model, done.plan.integer)
        return done


def _read_by(link: Link, integer: set[int]) -> bool:
    return any(r.node.id in integer for r in link.readers)


def _worthwhile(run: Run, links: list[Link]) -> list[Evening]:
    batch = run.batch(la.read.name for la in links)
    return plan_equalization(run.model, run.data, links, batch, run.config.max_memory, run.moments)


def _quieter(new: Evened[tuple[Run, Quantized]], old: Evened[tuple[Run, Quantized]]) -> bool:
    return new.verdict.better_than(old.verdict)


def _pays(fastest: Quantized, start_db: float, wanted_db: float) -> Better:
    """Whether the noise falls, by a larger share of the way to what is wanted than the share of saved time it costs."""
    saved = max(fastest.plan.float_us - fastest.plan.planned_us, 1e-9)

    def pays(new: Evened[tuple[Run, Quantized]], old: Evened[tuple[Run, Quantized]]) -> bool:
        nearer = (min(new.verdict.sqnr_db, wanted_db) - old.verdict.sqnr_db) / max(wanted_db - start_db, 1e-9)
        cost = (new.built[1].plan.planned_us - old.built[1].plan.planned_us) / saved
        return new.verdict.better_than(old.verdict) and nearer > cost

    return pays
