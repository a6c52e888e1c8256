from __future__ import annotations

import numpy as np
import pytest

from graphopt.errors import UsageError
from graphopt.results import Ratio
from graphopt.runtime import timing
from graphopt.runtime.paired import grouped_ratio, student_t
from graphopt.runtime.session import Session, SessionConfig
from graphopt.runtime.timing import Contender, TimingPlan, judge, time_models

QUICK = TimingPlan(round_ms=4, warmup_ms=4)


@pytest.fixture
def contender(mlp):
    def make(name: str, layers: int, threads: int = 1) -> Contender:
        session = Session(mlp(128, layers), SessionConfig(threads=threads))
        return Contender(name, session, {"x": np.ones((8, 128), np.float32)}, rows=8)

    return make


def test_a_big_difference_is_found_both_ways(contender) -> None:
    report = time_models([contender("mid", 8), contender("small", 1), contender("large", 40)], QUICK)
    mid, small, large = report.timings
    assert (mid.verdict, small.verdict, large.verdict) == ("reference", "faster", "slower")
    assert report.confirmed
    assert small.speedup.low > 1.03
    assert large.speedup.high < 0.97
    assert small.rounds == 30
    assert report.sessions == 5
    assert mid.speedup is None
    assert small.p50_ms <= small.p90_ms <= small.p99_ms
    assert small.throughput == pytest.approx(8000 / small.wall_ms)
    assert small.cpu_ms > 0
    assert small.providers == ("CPUExecutionProvider",)
    assert report.cpu.model


def test_a_model_against_itself_is_noise(contender) -> None:
    same = contender("a", 4)
    report = time_models([same, Contender("b", same.session, same.feeds, 8)], QUICK)
    assert report.timings[1].verdict in ("noise", "same")


def test_thresholds() -> None:
    assert judge(0.90, 0.969)[0] == "slower"
    assert judge(0.90, 0.971)[0] == "noise"
    assert judge(1.032, 1.2)[0] == "faster"
    assert judge(1.03, 1.2)[0] == "noise"
    assert judge(0.98, 1.02)[0] == "same"
    assert judge(1.01, 1.02)[0] == "same"
    assert judge(0.96, 1.01)[0] == "noise"
    assert judge(1.1, 1.2, Ratio(1.1, 1.01, 1.2)) == ("faster", "")
    verdict, reason = judge(1.1, 1.2, Ratio(1.0, 0.99, 1.2))
    assert verdict == "noise"
    assert "CPU time does not confirm it: 1.00x [0.99, 1.20]" in reason
    assert judge(0.8, 0.9, Ratio(1.0, 0.9, 1.01))[0] == "noise"


def samples(wall: float, cpu: float | None = None, sessions: int = 5) -> timing._Samples:
    """Rounds that take ``wall`` seconds, give or take a permille from session to session."""
    rounds = [[wall * (1 + (s - 2) / 1000)] * 3 for s in range(sessions)]
    used = [[wall if cpu is None else cpu] * 3 for _ in range(sessions)]
    return timing._Samples(rounds, used, [wall] * 3 * sessions)


def test_a_second_run_must_agree(contender, monkeypatch) -> None:
    """A difference in the first run alone, such as a neighbour's load, is no verdict; the interval shows both runs."""
    runs = iter([[samples(2.0), samples(1.0)], [samples(2.0), samples(2.0)]])
    monkeypatch.setattr(timing, "_measure", lambda *_: next(runs))
    report = time_models([contender("a", 1), contender("b", 1)], QUICK)
    other = report.timings[1]
    assert report.confirmed
    assert other.verdict == "noise"
    assert other.reason == "the second run did not confirm the first"
    assert other.speedup.low <= 1.0 <= 2.0 <= other.speedup.high


@pytest.mark.parametrize(
    ("first", "second"), [(1.0, 1.0), (1.0, 1.99), (1.98, 1.98), (2.0, 2.0), (1.9, 1.97), (2.1, 2.4)]
)
def test_interval_and_verdict_say_the_same(contender, monkeypatch, first: float, second: float) -> None:
    runs = iter([[samples(2.0), samples(first)], [samples(2.0), samples(second)]])
    monkeypatch.setattr(timing, "_measure", lambda *_: next(runs))
    other = time_models([contender("a", 1), contender("b", 1)], QUICK).timings[1]
    inside = other.speedup.low >= 0.97 and other.speedup.high <= 1 / 0.97
    assert (other.verdict == "faster") == (other.speedup.low > 1 / 0.97)
    assert (other.verdict == "slower") == (other.speedup.high < 0.97)
    assert (other.verdict == "same") == inside


def test_what_differs_from_load_to_load_widens_the_interval() -> None:
    """Sessions that are fast or slow as a whole: many equal rounds in each do not make the interval narrow."""
    reference = [[1.0] * 100] * 5
    shifted = [[factor] * 100 for factor in (0.9, 1.1, 0.95, 1.05, 1.0)]
    ratio, low, high = grouped_ratio(reference, shifted)
    assert ratio == pytest.approx(1.0, abs=0.01)
    assert low < 0.91
    assert high > 1.09


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """With drift, session effects and outliers about 95 % of the intervals hold the true ratio of 1."""
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        groups = []
        for _ in range(2):
            session = random.normal(0, 0.02, (5, 1))
            calls = random.normal(0, 0.01, (5, 3)) + (random.random((5, 3)) < 0.1) * 0.5
            groups.append(np.exp(session + calls).tolist())
        _, low, high = grouped_ratio(*groups)
        held += low <= 1.0 <= high
    assert 0.92 <= held / 400 <= 0.98


def test_student_t() -> None:
    from scipy.stats import t

    assert all(abs(student_t(n) - t.ppf(0.975, n)) < 0.003 for n in range(1, 100))


class Fake:
    """A model that notes who ran."""

    provider, threads, providers = "cpu", 1, ("CPUExecutionProvider",)

    def __init__(self, order: list[int], index: int) -> None:
        self.order, self.index = order, index

    def prepared(self, feeds):
        return lambda: self.order.append(self.index)


def test_every_model_starts_some_rounds_and_is_loaded_anew() -> None:
    order: list[int] = []
    loads: list[int] = []

    def opened(index: int) -> Fake:
        loads.append(index)
        return Fake(order, index)

    contenders = [Contender(str(i), Fake(order, i), {}, reopen=lambda index=i: opened(index)) for i in range(3)]
    plan = TimingPlan(rounds=9, round_ms=0, warmup_ms=0, sessions=3)
    found = timing._measure(contenders, plan, lambda: 0.0)
    assert loads == [0, 1, 2, 1, 2, 0, 2, 0, 1]
    per_session = [order[start : start + 18] for start in range(0, 54, 18)]
    assert [[session[9 + 3 * r] for r in range(3)] for session in per_session] == [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    assert [len(session) for session in found[0].wall] == [3, 3, 3]


def test_repeats_fill_a_round(contender) -> None:
    calls = []
    repeats = timing._warm_up(lambda: calls.append(0), TimingPlan(warmup_ms=1))
    assert repeats == 2000
    assert len(calls) >= 3


def test_wrong_use(contender) -> None:
    one = contender("a", 1)
    with pytest.raises(UsageError, match="no model"):
        time_models([])
    with pytest.raises(UsageError, match="at least 9 rounds"):
        time_models([one], TimingPlan(rounds=3))
    with pytest.raises(UsageError, match="at least 3 sessions"):
        time_models([one], TimingPlan(sessions=1))
    with pytest.raises(UsageError, match="9 rounds do not fill 12 sessions"):
        time_models([one], TimingPlan(rounds=9, sessions=12))
    with pytest.raises(UsageError, match="one provider and one number of threads"):
        time_models([one, contender("b", 1, threads=2)])


def test_one_model_alone(contender) -> None:
    report = time_models([contender("a", 1)], QUICK)
    assert len(report.timings) == 1
    assert not report.confirmed
