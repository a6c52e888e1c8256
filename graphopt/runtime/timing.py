"""Latency of several models, measured in turns so that drift of the machine hits all of them alike."""

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
from graphopt.runtime.paired import ratio_interval
from graphopt.runtime.session import Session

MIN_ROUNDS = 9
NOISE = 0.03


@dataclass(frozen=True)
class Contender:
    """One model to time. ``rows`` is the number of samples that ``feeds`` holds, for throughput."""

    name: str
    session: Session
    feeds: Feeds
    rows: int = 1


@dataclass(frozen=True)
class TimingPlan:
    """How long to measure. A round repeats a model until it has run for ``round_ms``.

    ``warmup_ms`` is spent on each model first (at least three runs). ``max_calls`` bounds the repeats of a round.
    """

    rounds: int = MIN_ROUNDS
    round_ms: float = 20.0
    warmup_ms: float = 50.0
    max_calls: int = 2000
    seed: int = 0


@dataclass
class _Samples:
    """What was measured of one contender, in seconds.

    Per round the median wall time and the mean CPU time of a call, per call the wall time.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)


def time_models(contenders: Sequence[Contender], plan: TimingPlan | None = None) -> TimingReport:
    """Time models in turns; the first is the reference.

    A verdict other than "noise" needs the whole interval of the wall-time ratio below 0.97 (slower) or above
    1 / 0.97 (faster) in a first run and again in a second, independent one. With one thread on the CPU the
    interval of the CPU-time ratio must also lie on that side of 1, which load from other programs cannot fake.
    Raises UsageError for fewer than
    nine rounds, no contender, or sessions on different providers or thread counts.
    """
    plan = plan or TimingPlan()
    _check(contenders, plan)
    calls = [contender.session.prepared(contender.feeds) for contender in contenders]
    repeats = [_warm_up(call, plan) for call in calls]
    config = contenders[0].session.config
    clock = time.thread_time if config.threads == 1 else time.process_time
    both_clocks = config.provider == "cpu" and config.threads == 1
    first = _measure(calls, repeats, plan.rounds, clock)
    verdicts = _verdicts(first, plan.seed, both_clocks)
    confirmed = any(verdict in ("faster", "slower") for verdict in verdicts)
    samples = first
    if confirmed:
        second = _measure(calls, repeats, plan.rounds, clock)
        agreed = _verdicts(second, plan.seed + 1, both_clocks)
        verdicts = [one if one == two else "noise" for one, two in zip(verdicts, agreed, strict=True)]
        samples = [_join(one, two) for one, two in zip(first, second, strict=True)]
    timings = tuple(
        _timing(contender, own, samples[0], verdict, plan.seed)
        for contender, own, verdict in zip(contenders, samples, verdicts, strict=True)
    )
    return TimingReport(timings, config.provider, config.threads, cpu_info(), confirmed)


def judge(low: float, high: float, cpu: Ratio | None = None) -> Verdict:
    """Verdict of one run from the interval of reference time / own time; ``cpu`` time must not contradict it."""
    if high < 1.0 - NOISE and (cpu is None or cpu.high < 1.0):
        return "slower"
    if low > 1.0 / (1.0 - NOISE) and (cpu is None or cpu.low > 1.0):
        return "faster"
    return "noise"


def _check(contenders: Sequence[Contender], plan: TimingPlan) -> None:
    if not contenders:
        raise UsageError("there is no model to time")
    if plan.rounds < MIN_ROUNDS:
        raise UsageError(f"timing needs at least {MIN_ROUNDS} rounds, not {plan.rounds}")
    settings = {(one.session.config.provider, one.session.config.threads) for one in contenders}
    if len(settings) > 1:
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


def _measure(
    calls: Sequence[Callable[[], object]], repeats: Sequence[int], rounds: int, clock: Callable[[], float]
) -> list[_Samples]:
    """Measure ``rounds`` rounds; each one starts with another contender."""
    samples = [_Samples() for _ in calls]
    for number in range(rounds):
        for turn in range(len(calls)):
            index = (number + turn) % len(calls)
            _round(calls[index], repeats[index], clock, samples[index])
    return samples


def _round(call: Callable[[], object], repeats: int, clock: Callable[[], float], into: _Samples) -> None:
    marks = [0.0] * (repeats + 1)
    cpu = clock()
    marks[0] = time.perf_counter()
    for index in range(1, repeats + 1):
        call()
        marks[index] = time.perf_counter()
    into.cpu.append((clock() - cpu) / repeats)
    durations = np.diff(marks)
    into.wall.append(float(np.median(durations)))
    into.calls.extend(durations.tolist())


def _verdicts(samples: Sequence[_Samples], seed: int, both_clocks: bool) -> list[Verdict]:
    verdicts: list[Verdict] = ["reference"]
    for own in samples[1:]:
        _, low, high = ratio_interval(samples[0].wall, own.wall, seed)
        cpu = _cpu_ratio(samples[0].cpu, own.cpu, seed) if both_clocks else None
        verdicts.append(judge(low, high, cpu))
    return verdicts


def _join(one: _Samples, two: _Samples) -> _Samples:
    return _Samples(one.wall + two.wall, one.cpu + two.cpu, one.calls + two.calls)


def _timing(contender: Contender, own: _Samples, reference: _Samples, verdict: Verdict, seed: int) -> Timing:
    p50, p90, p99 = (float(value) * 1000 for value in np.percentile(own.calls, [50, 90, 99]))
    quarter, three_quarters = np.percentile(own.wall, [25, 75])
    is_reference = own is reference
    return Timing(
        name=contender.name,
        wall_ms=median(own.wall) * 1000,
        cpu_ms=median(own.cpu) * 1000,
        spread_ms=float(three_quarters - quarter) * 1000,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        calls=len(own.calls),
        rounds=len(own.wall),
        rows=contender.rows,
        throughput=contender.rows / median(own.wall),
        providers=contender.session.providers,
        verdict=verdict,
        speedup=None if is_reference else Ratio(*ratio_interval(reference.wall, own.wall, seed)),
        cpu_speedup=None if is_reference else _cpu_ratio(reference.cpu, own.cpu, seed),
    )


def _cpu_ratio(reference: Sequence[float], own: Sequence[float], seed: int) -> Ratio | None:
    """None where the clock is too coarse to see the model."""
    if min(reference) <= 0.0 or min(own) <= 0.0:
        return None
    return Ratio(*ratio_interval(reference, own, seed))
