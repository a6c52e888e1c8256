"""Latency of several models, measured in turns so that drift of the machine hits all of them alike.

What is measured has levels: calls in a round, rounds in a session, sessions. Models take turns round by round; after a
few rounds every model is loaded anew, because where its memory happens to lie shifts its speed by some percent for as
long as the session lives, and more calls do not average that out. The interval of a ratio comes from the sessions
(Student's t over their log ratios), so it covers what changes from load to load and drifts with time; the verdict is
read off that same interval.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from graphopt.data.feeds import Feeds
from graphopt.errors import UsageError
from graphopt.results import Ratio, Timing, TimingReport, Verdict
from graphopt.runtime.cpu import cpu_info
from graphopt.runtime.paired import grouped_ratio
from graphopt.runtime.runners import TimedRunner

MIN_ROUNDS = 9
MIN_SESSIONS = 3
NOISE = 0.03
_SLOWER, _FASTER = 1.0 - NOISE, 1.0 / (1.0 - NOISE)


@dataclass(frozen=True)
class Contender:
    """One model to time.

    ``rows`` is the number of samples that ``feeds`` holds, for throughput. ``reopen`` loads the model again; without it
    all rounds use ``session``, and the interval does not cover what changes from load to load.
    """

    name: str
    session: TimedRunner
    feeds: Feeds
    rows: int = 1
    reopen: Callable[[], TimedRunner] | None = None


@dataclass(frozen=True)
class TimingPlan:
    """How long to measure. A round repeats a model until it has run for ``round_ms``.

    ``rounds`` are spread over ``sessions``. ``warmup_ms`` is spent on each model in every session (at least three
    runs). ``max_calls`` bounds the repeats of a round.
    """

    rounds: int = 15
    round_ms: float = 20.0
    warmup_ms: float = 50.0
    max_calls: int = 2000
    sessions: int = 5


@dataclass
class _Samples:
    """What was measured of one contender, in seconds.

    Per session and round the median wall time and the mean CPU time of a call, per call the wall time.
    """

    wall: list[list[float]] = field(default_factory=list)
    cpu: list[list[float]] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)

    @property
    def rounds(self) -> list[float]:
        """Wall time of every round."""
        return [value for session in self.wall for value in session]


@dataclass(frozen=True)
class _Judged:
    """The ratios of one contender, and what follows from them."""

    wall: Ratio
    cpu: Ratio | None
    verdict: Verdict
    reason: str = ""


def time_models(contenders: Sequence[Contender], plan: TimingPlan | None = None) -> TimingReport:
    """Time models in turns; the first is the reference.

    "Faster" and "slower" need the whole interval of the wall-time ratio above 1 / 0.97 or below 0.97, in a first run
    and in a second, independent one; where the two disagree the interval spans both. With one thread on the CPU the
    interval of the CPU-time ratio must also lie on that side of 1, which load from other programs cannot fake. "Same"
    means that the whole interval lies within 3 % of 1, "noise" that it reaches across a limit: nothing is claimed.

    Raises UsageError for fewer than nine rounds or three sessions, fewer rounds than sessions, no contender, or models
    on different providers or thread counts.
    """
    plan = plan or TimingPlan()
    _check(contenders, plan)
    both_clocks = contenders[0].session.provider == "cpu" and contenders[0].session.threads == 1
    clock = time.thread_time if both_clocks else time.process_time
    first = _measure(contenders, plan, clock)
    samples, judged = first, [_judged(first[0], own, both_clocks) for own in first[1:]]
    confirmed = any(one.verdict in ("faster", "slower") for one in judged)
    if confirmed:
        second = _measure(contenders, plan, clock)
        samples = [_join(one, two) for one, two in zip(first, second, strict=True)]
        again = [_judged(second[0], own, both_clocks) for own in second[1:]]
        whole = [_judged(samples[0], own, both_clocks) for own in samples[1:]]
        judged = [_agreed(*three) for three in zip(judged, again, whole, strict=True)]
    timings = [_timing(contenders[0], samples[0], None)]
    timings += [_timing(*three) for three in zip(contenders[1:], samples[1:], judged, strict=True)]
    head = contenders[0].session
    return TimingReport(tuple(timings), head.provider, head.threads, cpu_info(), confirmed, plan.sessions)


def judge(low: float, high: float, cpu: Ratio | None = None) -> tuple[Verdict, str]:
    """Verdict from the interval of reference time / own time, and why a difference is not claimed.

    CPU time must not contradict it.
    """
    if low > _FASTER or high < _SLOWER:
        faster = low > _FASTER
        if cpu is not None and not (cpu.low > 1.0 if faster else cpu.high < 1.0):
            return "noise", f"CPU time does not confirm it: {cpu.value:.2f}x [{cpu.low:.2f}, {cpu.high:.2f}]"
        return ("faster", "") if faster else ("slower", "")
    if low >= _SLOWER and high <= _FASTER:
        return "same", ""
    return "noise", ""


def _check(contenders: Sequence[Contender], plan: TimingPlan) -> None:
    if not contenders:
        raise UsageError("there is no model to time")
    if plan.rounds < MIN_ROUNDS:
        raise UsageError(f"timing needs at least {MIN_ROUNDS} rounds, not {plan.rounds}")
    if plan.sessions < MIN_SESSIONS:
        raise UsageError(f"timing needs at least {MIN_SESSIONS} sessions, not {plan.sessions}")
    if plan.rounds < plan.sessions:
        raise UsageError(f"{plan.rounds} rounds do not fill {plan.sessions} sessions; ask for more rounds")
    if len({(one.session.provider, one.session.threads) for one in contenders}) > 1:
        raise UsageError("models that are timed against each other must use one provider and one number of threads")


def _warm_up(call: Callable[[], object], plan: TimingPlan) -> int:
    """Run until warm and give the number of calls that fill a round."""
    start = time.perf_counter()
    durations: list[float] = []
    while len(durations) < 3 or (time.perf_counter() - start) * 1000 < plan.warmup_ms:
        before = time.perf_counter()
        call()
        durations.append(time.perf_counter() - before)
    typical = max(median(durations), 1e-7)
    return max(1, min(plan.max_calls, round(plan.round_ms / 1000 / typical + 0.5)))


def _measure(contenders: Sequence[Contender], plan: TimingPlan, clock: Callable[[], float]) -> list[_Samples]:
    """Measure in sessions; each starts with another contender, as does each round."""
    samples = [_Samples() for _ in contenders]
    for number in range(plan.sessions):
        rounds = plan.rounds // plan.sessions + (number < plan.rounds % plan.sessions)
        calls = _load(contenders, number)
        repeats = [_warm_up(call, plan) for call in calls]
        for own in samples:
            own.wall.append([])
            own.cpu.append([])
        for turn in range(rounds):
            for place in range(len(calls)):
                index = (number + turn + place) % len(calls)
                _round(calls[index], repeats[index], clock, samples[index])
    return samples


def _load(contenders: Sequence[Contender], number: int) -> list[Callable[[], object]]:
    """A call of each model, loaded anew where that is possible, in another order each time."""
    calls: dict[int, Callable[[], object]] = {}
    for place in range(len(contenders)):
        index = (number + place) % len(contenders)
        one = contenders[index]
        session = one.session if one.reopen is None else one.reopen()
        calls[index] = session.prepared(one.feeds)
    return [calls[index] for index in range(len(contenders))]


def _round(call: Callable[[], object], repeats: int, clock: Callable[[], float], into: _Samples) -> None:
    marks = [0.0] * (repeats + 1)
    cpu = clock()
    marks[0] = time.perf_counter()
    for index in range(1, repeats + 1):
        call()
        marks[index] = time.perf_counter()
    into.cpu[-1].append((clock() - cpu) / repeats)
    durations = np.diff(marks)
    into.wall[-1].append(float(np.median(durations)))
    into.calls.extend(durations.tolist())


def _judged(reference: _Samples, own: _Samples, both_clocks: bool) -> _Judged:
    wall = Ratio(*grouped_ratio(reference.wall, own.wall))
    cpu = _cpu_ratio(reference, own)
    return _Judged(wall, cpu, *judge(wall.low, wall.high, cpu if both_clocks else None))


def _agreed(one: _Judged, two: _Judged, whole: _Judged) -> _Judged:
    """The verdict of both runs together; where they disagree, an interval that spans both."""
    if one.verdict == two.verdict or not {one.verdict, two.verdict} & {"faster", "slower"}:
        return whole
    wall = Ratio(whole.wall.value, min(one.wall.low, two.wall.low), max(one.wall.high, two.wall.high))
    reason = one.reason or two.reason or "the second run did not confirm the first"
    return _Judged(wall, whole.cpu, "noise", reason)


def _join(one: _Samples, two: _Samples) -> _Samples:
    return _Samples(one.wall + two.wall, one.cpu + two.cpu, one.calls + two.calls)


def _timing(contender: Contender, own: _Samples, judged: _Judged | None) -> Timing:
    p50, p90, p99 = (float(value) * 1000 for value in np.percentile(own.calls, [50, 90, 99]))
    quarter, three_quarters = np.percentile(own.rounds, [25, 75])
    wall = median(own.rounds)
    return Timing(
        name=contender.name,
        wall_ms=wall * 1000,
        cpu_ms=median(value for session in own.cpu for value in session) * 1000,
        spread_ms=float(three_quarters - quarter) * 1000,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        calls=len(own.calls),
        rounds=len(own.rounds),
        rows=contender.rows,
        throughput=contender.rows / wall,
        providers=contender.session.providers,
        verdict="reference" if judged is None else judged.verdict,
        speedup=None if judged is None else judged.wall,
        cpu_speedup=None if judged is None else judged.cpu,
        reason="" if judged is None else judged.reason,
    )


def _cpu_ratio(reference: _Samples, own: _Samples) -> Ratio | None:
    """None where the clock is too coarse to see the model."""
    if any(value <= 0.0 for one in (reference, own) for session in one.cpu for value in session):
        return None
    return Ratio(*grouped_ratio(reference.cpu, own.cpu))
