"""The mix of float and integer layers: isotonic fit, bisection and the knee, on made-up curves."""

import pytest

from graphopt.transforms.quantize.mixed import Mix, Tried, best_trade, deciding, first_good, isotonic, mixes
from graphopt.transforms.quantize.plan import Plan
from graphopt.transforms.quantize.sensitivity import Sensitivity


def curve(points):
    """Mixes that keep the given shares of the time saved, and what measuring them gives."""
    found = [Mix({i: 1.0}, kept) for i, (kept, _) in enumerate(points)]
    asked = []

    def attempt(mix):
        index = next(i for i, m in enumerate(found) if m is mix)
        asked.append(index)
        return Tried(mix, index, points[index][1], points[index][1] + 5)

    return found, attempt, asked


def test_isotonic_pools_neighbours_that_fall():
    assert isotonic([1.0, 3.0, 2.0, 4.0]) == [1.0, 2.5, 2.5, 4.0]
    assert isotonic([5.0, 4.0, 3.0]) == [4.0, 4.0, 4.0]
    assert isotonic([]) == []


@pytest.mark.parametrize("wanted", [12.0, 20.0, 29.0, 35.0])
def test_bisection_finds_the_fastest_mix_that_is_good_enough(wanted):
    points = [(1.0, 10.0), (0.9, 15.0), (0.8, 20.0), (0.5, 28.0), (0.3, 31.0), (0.0, float("inf"))]
    found, attempt, asked = curve(points)
    chosen = first_good(found, attempt, wanted)
    assert chosen.built == next(i for i, (_, db) in enumerate(points) if db >= wanted)
    assert len(asked) <= 4


def test_the_knee_takes_cheap_decibels_and_leaves_dear_ones():
    found, attempt, _ = curve([(1.0, 10.0), (0.97, 24.0), (0.6, 27.0), (0.2, 31.0), (0.0, float("inf"))])
    first = attempt(found[0])
    assert best_trade(found, first, attempt, 30.0).built == 1


def test_the_fastest_stays_when_every_decibel_is_dear():
    found, attempt, _ = curve([(1.0, 28.0), (0.4, 28.2), (0.1, 28.4), (0.0, float("inf"))])
    assert best_trade(found, attempt(found[0]), attempt, 30.0).built == 0


def test_no_more_is_tried_once_nothing_can_be_better():
    found, attempt, asked = curve([(1.0, 10.0), (0.95, 30.0), (0.9, 33.0), (0.5, 40.0), (0.0, float("inf"))])
    assert best_trade(found, attempt(found[0]), attempt, 30.0).built == 1
    assert asked == [0, 1]


def changing(shares):
    """Mixes that keep these shares of the time saved and change those of the decisions."""
    found = [Mix({i: 1.0}, kept) for i, (kept, _) in enumerate(shares)]
    tried = [Tried(m, i, 30.0, 30.0, changed) for i, (m, (_, changed)) in enumerate(zip(found, shares, strict=True))]
    return found, tried, lambda mix: next(t for t in tried if t.mix is mix)


def test_the_fastest_mix_that_changes_few_enough_decisions():
    found, tried, attempt = changing([(1.0, 0.02), (0.9, 0.01), (0.7, 0.001), (0.6, 0.0), (0.0, 0.0)])
    assert deciding(found, tried[0], attempt, 0.002).built == 2
    assert deciding(found, tried[3], attempt, 0.002).built == 3


def test_decisions_are_not_worth_most_of_the_saved_time():
    found, tried, attempt = changing([(1.0, 0.02), (0.9, 0.01), (0.4, 0.001), (0.0, 0.0)])
    assert deciding(found, tried[1], attempt, 0.002).built == 1


class FakeUnit:
    def __init__(self, key):
        self.node = type("N", (), {"id": key})()


def test_mixes_go_from_all_to_nothing_and_drop_the_noisiest_for_their_gain_first():
    gains = {1: 10.0, 2: 10.0, 3: 10.0}
    noise = {1: 0.1, 2: 0.001, 3: 0.01}

    def planned(penalties):
        kept = tuple(FakeUnit(k) for k, g in gains.items() if penalties.get(k, 0.0) < g)
        saved = sum(gains[u.node.id] for u in kept)
        return Plan(kept, (), 100.0, 100.0 - saved, gains)

    ranking = [Sensitivity(str(k), k, n) for k, n in noise.items()]
    found = mixes(ranking, planned({}), planned)
    left = [{u.node.id for u in planned(m.penalties).integer} for m in found]
    assert left == [{1, 2, 3}, {2, 3}, {2}, set()]
    assert [m.kept for m in found] == pytest.approx([1.0, 2 / 3, 1 / 3, 0.0])
