"""The choices of a quantization: weight of clipping, evened ranges, mixed precision, and what effort ``best`` adds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import TypeAlias

from graphopt.results import counted
from graphopt.transforms.quantize.bias_correction import CorrectedLayer
from graphopt.transforms.quantize.config import Quantized
from graphopt.transforms.quantize.decisions import ALLOWED
from graphopt.transforms.quantize.equalization import Evening, Link, find_links, find_smoothable, plan_equalization
from graphopt.transforms.quantize.equalization_choice import Evened, choose_evenings
from graphopt.transforms.quantize.mixed import Mix, Tried, best_trade, deciding, first_good, mixes
from graphopt.transforms.quantize.range_choice import choose_ranges
from graphopt.transforms.quantize.ranges import CLIPPING_WEIGHTS, WISHES, Wish
from graphopt.transforms.quantize.refine import integer_layers, last_layers, round_layers, round_weights, settle_biases
from graphopt.transforms.quantize.report import kernel_report
from graphopt.transforms.quantize.rounding import MAX_FEATURES, Rounded
from graphopt.transforms.quantize.run import Run
from graphopt.transforms.quantize.sensitivity import Alone, Sensitivity, is_large, rank_layers
from graphopt.transforms.quantize.trial import Judge, Verdict, decibel, hold_back

Better: TypeAlias = Callable[[Evened[tuple[Run, Quantized]], Evened[tuple[Run, Quantized]]], bool]

_USABLE_DB = 15.0
_RANKING_RUNS = 4
_HALVINGS = MappingProxyType({"fast": 1, "best": 3})
_BIAS_BLOCKS = 8


class Chooser:
    """Tries with few samples, judges on held-back ones, then quantizes with all of them."""

    def __init__(self, run: Run) -> None:
        parts = hold_back(run.data)
        self.whole, self.rest = run.data, parts.rest
        self.run = run.on(parts.few)
        self.held = parts.judge
        self.judge = Judge(run.model, parts.judge)
        self.notes: list[str] = []
        self.ranking: list[Sensitivity] = []
        self.refined = False

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
        if config.fidelity > 0 or config.best:
            self._refine()
        fit = self.run
        self.run = fit.on(self.whole, self.rest)
        done = self.run.settled(fit.penalties)
        if done is None:
            return None
        if config.best:
            done = self._round_again(done)
            self._correct(self.run, done, integer_layers(done), _BIAS_BLOCKS)
        if self.refined:
            self._correct(fit, done, last_layers(done), 1)
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
                f"channel ranges of {counted(len(best.evenings), 'tensor')} evened out: {start.verdict.sqnr_db:.1f} -> "
                f"{best.verdict.sqnr_db:.1f} dB on held-back samples"
            )
        return best.built[0]

    def _refine(self) -> None:
        """All on integers if that is good enough, else with rounded weights and better ranges, else the best mix."""
        run, config = self.run, self.run.config
        done = run.settled({})
        if done is None:
            return
        start = self.judge.verdict(done.model)
        if start.good_enough(config.fidelity, not config.strict) and not config.best:
            return
        self.refined = True
        features = MAX_FEATURES["best" if config.best else "fast"]
        run.rounded = round_layers(run.model, run.data, done, config.batch, config.max_memory, features)
        self._rank(done, start)
        if run.rounded or run.wishes:
            done = run.settled({})
            assert done is not None
        verdict = self.judge.verdict(done.model)
        if config.fidelity > 0 and not verdict.good_enough(config.fidelity, not config.strict):
            self._mix(done, verdict)
        final = self._doubt()
        if start.better_than(final) and start.good_enough(config.fidelity, not config.strict):
            run.rounded, run.wishes, run.penalties = {}, {}, {}
            self.notes.append(f"ranges and rounding as they were at first are better: {_change(final, start)}")

    def _rank(self, done: Quantized, verdict: Verdict) -> None:
        """Rank the layers, and find ranges for the noisiest by the noise at the outputs."""
        run, config = self.run, self.run.config
        few = Judge(run.model, self.held, _RANKING_RUNS)
        alone = Alone(run.model, few, run.target, run.settings, run.probes, run.means, run.rounded)
        self.ranking = rank_layers(alone, done.plan, done.grids)
        fixed = config.method != "auto" or run.settings.activation.int_type.floating
        if fixed or (is_large(run.model) and not config.best):
            return
        grids = run.grids_at(WISHES)
        allowed = min(10 ** (-config.fidelity / 10), verdict.inner)
        run.wishes, self.ranking = choose_ranges(alone, self.ranking, grids, Wish(run.clipping), allowed)

    def _doubt(self) -> Verdict:
        """Keep learned rounding and the single ranges only if they lower the noise of what was chosen; its noise."""
        run = self.run
        kept = run.settled(run.penalties)
        if kept is None:
            return Verdict(0.0, 0.0)
        least = self.judge.verdict(kept.model)
        for name, none, text in (
            ("rounded", dict[int, Rounded](), "learned rounding of {} layers"),
            ("wishes", dict[str, Wish](), "ranges of {} tensors by the noise at the outputs"),
        ):
            found = getattr(run, name)
            if not found:
                continue
            setattr(run, name, none)
            tried = run.settled(run.penalties)
            verdict = least if tried is None else self.judge.verdict(tried.model)
            if tried is not None and verdict.better_than(least):
                least = verdict
                continue
            setattr(run, name, found)
            self.notes.append(f"{text.format(len(found))}: {_change(verdict, least)}")
        return least

    def _mix(self, done: Quantized, verdict: Verdict) -> None:
        """The mix of integer and float layers that trades best."""
        run, wanted = self.run, self.run.config.fidelity
        found = mixes(self.ranking, done.plan, run.planned)
        first: Tried[Quantized | None] = _tried(found[0], done, verdict)
        if run.config.strict:
            chosen = first_good(found, self._attempt, wanted)
        else:
            chosen = best_trade(found, first, self._attempt, wanted) if first.sqnr_db < wanted else first
            if chosen.sqnr_db < _USABLE_DB:
                chosen = first_good(found, self._attempt, _USABLE_DB)
            chosen = deciding(found, chosen, self._attempt, ALLOWED)
        run.penalties = chosen.mix.penalties
        self._say(found, first, chosen)

    def _attempt(self, mix: Mix) -> Tried[Quantized | None]:
        done = self.run.settled(mix.penalties)
        if done is None:
            return Tried(mix, None, float("inf"), float("inf"))
        return _tried(mix, done, self.judge.verdict(done.model))

    def _say(self, found: list[Mix], first: Tried[Quantized | None], chosen: Tried[Quantized | None]) -> None:
        if chosen.mix is not found[0]:
            decisions = ""
            if first.changed > 0:
                decisions = f", {first.changed:.1%} -> {chosen.changed:.1%} of the decisions expected to change"
            self.notes.append(
                f"layers put back in float: {first.sqnr_db:.1f} -> {chosen.sqnr_db:.1f} dB on held-back samples"
                f"{decisions}, {1 - chosen.mix.kept:.0%} of the saved time given up"
            )

    def _round_again(self, done: Quantized) -> Quantized:
        """Learned rounding from all the data, if it lowers the noise on held-back samples."""
        least = self.judge.verdict(done.model)
        rounded = round_weights(self.run, done)
        if rounded is None or not (verdict := self.judge.verdict(rounded.model)).better_than(least):
            return done
        self.notes.append(f"learned rounding from all the data: {_change(least, verdict)}")
        rounded.report = done.report and kernel_report(rounded.model, rounded.plan.integer)
        return rounded

    def _correct(self, run: Run, done: Quantized, layers: Sequence[CorrectedLayer], blocks: int) -> None:
        """Correct the biases, if that lowers the noise on held-back samples."""
        least = self.judge.verdict(done.model)
        before = [(la.bias, la.bias.values) for la in layers]
        note = settle_biases(run, done, layers, blocks)
        verdict = self.judge.verdict(done.model)
        if verdict.better_than(least):
            self.notes.append(f"{note}: {_change(least, verdict)}")
            return
        for bias, values in before:
            done.model.graph.set_weight(bias, values)
        self.notes.append("correcting the biases did not help on held-back samples and was undone")


def _tried(mix: Mix, done: Quantized, verdict: Verdict) -> Tried[Quantized | None]:
    return Tried(mix, done, verdict.sqnr_db, decibel(verdict.inner), verdict.changed)


def _change(old: Verdict, new: Verdict) -> str:
    return f"{old.worst_db:.1f} -> {new.worst_db:.1f} dB on held-back samples"


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
