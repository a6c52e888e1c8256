from __future__ import annotations

import numpy as np
import pytest

from graphopt.errors import UsageError
from graphopt.results import Ratio
from graphopt.runtime import timing
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
    assert small.rounds == 18
    assert mid.speedup is None
    assert small.p50_ms <= small.p90_ms <= small.p99_ms
    assert small.throughput == pytest.approx(8000 / small.wall_ms)
    assert small.cpu_ms > 0
    assert small.providers == ("CPUExecutionProvider",)
    assert report.cpu.model


def test_a_model_against_itself_is_noise(contender) -> None:
    same = contender("a", 4)
    report = time_models([same, Contender("b", same.session, same.feeds, 8)], QUICK)
    assert report.timings[1].verdict == "noise"


def test_thresholds() -> None:
    assert judge(0.90, 0.969) == "slower"
    assert judge(0.90, 0.971) == "noise"
    assert judge(1.032, 1.2) == "faster"
    assert judge(1.03, 1.2) == "noise"
    assert judge(1.1, 1.2, Ratio(1.1, 1.01, 1.2)) == "faster"
    assert judge(1.1, 1.2, Ratio(1.0, 0.99, 1.2)) == "noise"
    assert judge(0.8, 0.9, Ratio(1.0, 0.9, 1.01)) == "noise"


def test_a_second_run_must_agree(contender, monkeypatch) -> None:
    """A difference in the first run alone, such as a neighbour's load, is no verdict."""
    runs = iter([1.0, 2.0])

    def fake(calls, repeats, rounds, clock):
        factor = next(runs)
        return [timing._Samples([2.0] * 9, [2.0] * 9, [2.0] * 9), timing._Samples([factor] * 9, [1.0] * 9, [1.0] * 9)]

    monkeypatch.setattr(timing, "_measure", fake)
    report = time_models([contender("a", 1), contender("b", 1)], QUICK)
    assert report.confirmed
    assert report.timings[1].verdict == "noise"


def test_every_model_starts_some_rounds() -> None:
    order: list[int] = []
    calls = [lambda index=index: order.append(index) for index in range(3)]
    timing._measure(calls, [1, 1, 1], 9, lambda: 0.0)
    assert order[:6] == [0, 1, 2, 1, 2, 0]
    assert [order[start] for start in range(0, 27, 3)] == [0, 1, 2] * 3


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
    with pytest.raises(UsageError, match="one provider and one number of threads"):
        time_models([one, contender("b", 1, threads=2)])


def test_one_model_alone(contender) -> None:
    report = time_models([contender("a", 1)], QUICK)
    assert len(report.timings) == 1
    assert not report.confirmed
