"""Ranges by output noise: which units are looked at, and what shared tensors get."""

from graphopt.transforms.quantize.range_choice import choose_ranges
from graphopt.transforms.quantize.ranges import Wish
from graphopt.transforms.quantize.sensitivity import Sensitivity


class FakeAlone:
    """Noise by (unit, weight); the tensors of each unit."""

    def __init__(self, noise, tensors):
        self._noise, self._tensors, self.asked = noise, tensors, []

    def noise(self, keys, weight):
        (key,) = keys
        self.asked.append(key)
        return self._noise[key, weight.clipping]

    def tensors(self, keys, weight):
        (key,) = keys
        return self._tensors[key]


NOISE = {(1, 4.0): 0.1, (1, 1.0): 0.02, (1, 16.0): 0.5, (2, 4.0): 0.03, (2, 1.0): 0.04, (2, 16.0): 0.01}
TENSORS = {1: ["x", "y"], 2: ["y", "z"], 3: ["z", "w"]}
RANKING = [Sensitivity("one", 1, 0.1), Sensitivity("two", 2, 0.03), Sensitivity("three", 3, 1e-5)]
GRIDS = {w: w for w in (Wish(1.0), Wish(4.0), Wish(16.0))}


def test_each_noisy_unit_gets_the_weight_of_least_noise_and_the_noisier_one_decides_for_both():
    alone = FakeAlone(NOISE, TENSORS)
    weights, ranking = choose_ranges(alone, RANKING, GRIDS, Wish(4.0), 0.003)
    assert weights == {"x": Wish(1.0), "y": Wish(1.0), "z": Wish(16.0)}
    assert [(s.node, s.noise) for s in ranking] == [("one", 0.02), ("two", 0.01), ("three", 1e-5)]


def test_units_below_their_share_of_the_allowed_noise_cost_nothing():
    alone = FakeAlone(NOISE, TENSORS)
    weights, ranking = choose_ranges(alone, RANKING, GRIDS, Wish(4.0), 0.15)
    assert weights == {"x": Wish(1.0), "y": Wish(1.0)}
    assert set(alone.asked) == {1}
    assert ranking[0].node == "two"
