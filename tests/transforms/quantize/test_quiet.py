"""Which parts of a change are taken back for the noise."""

import pytest

from graphopt.transforms.quantize.quiet import noisy_parts


def added(noises):
    """Noises that add up, and how often they were asked for."""
    calls = []

    def noise(parts):
        calls.append(tuple(parts))
        return sum(noises[i] for i in parts)

    return noise, calls


def test_what_is_quiet_enough_stays():
    noise, calls = added([0.1] * 5)
    assert noisy_parts(5, noise, 0.5 + 1e-9) == set()
    assert len(calls) <= 2
    assert noisy_parts(0, noise, 1.0) == set()


@pytest.mark.parametrize("bad", [{3}, {0, 99}, {50, 51, 52}])
def test_the_noisy_ones_are_found_in_few_trials(bad):
    noise, calls = added([1.0 if i in bad else 1e-6 for i in range(100)])
    assert noisy_parts(100, noise, 0.1) == bad
    assert len(calls) < 60


def test_infinite_noise_is_found():
    noise, _ = added([float("inf") if i == 7 else 1e-6 for i in range(20)])
    assert noisy_parts(20, noise, 0.1) == {7}


def test_parts_that_are_worse_together_go_on_being_taken_back():
    def noise(parts):
        return len(parts) ** 2 * 0.01

    left = set(range(10)) - noisy_parts(10, noise, 0.1)
    assert 0 < len(left) ** 2 * 0.01 <= 0.1


def test_when_trials_run_out_groups_go_whole():
    noise, calls = added([1.0] * 1000)
    taken = noisy_parts(1000, noise, 0.5, trials=10)
    assert len(calls) < 30
    assert len(taken) == 1000


def test_a_part_whose_noise_is_no_number_is_taken_back():
    assert noisy_parts(4, lambda parts: float("nan") if 2 in parts else 0.0, 0.1) == {2}
