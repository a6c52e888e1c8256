"""The estimate of how many decisions change, against counting them."""

import numpy as np
import pytest

from graphopt.transforms.quantize.decisions import Margins

CLASSES = 6


def values(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, CLASSES)).astype(np.float32)


def noisy(exact, size, seed=1):
    return exact + size * np.random.default_rng(seed).standard_normal(exact.shape).astype(np.float32)


@pytest.mark.parametrize("size", [0.003, 0.01, 0.05])
def test_few_decisions_tell_what_counting_many_tells(size):
    many = values(200_000)
    counted = float((many.argmax(1) != noisy(many, size).argmax(1)).mean())
    estimates = [
        Margins.between(few, noisy(few, size, seed)).changed() for seed in range(20) for few in [values(600, 50 + seed)]
    ]
    assert np.mean(estimates) == pytest.approx(counted, rel=0.3)
    assert max(estimates) < 3 * counted


def test_without_noise_none_changes():
    exact = values(100)
    assert Margins.between(exact, exact).changed() == 0
    assert Margins.between(exact, exact + 3).changed() == pytest.approx(0, abs=1e-6)


def test_ties_and_values_that_are_not_finite_count_as_changed():
    flat = np.zeros((20, CLASSES), np.float32)
    assert Margins.between(flat, noisy(flat, 0.1)).changed() == 1
    assert Margins.between(values(20), np.full((20, CLASSES), np.nan, np.float32)).changed() == 1


def test_runs_are_joined():
    exact, other = values(300), noisy(values(300), 0.02)
    parts = [Margins.between(exact[i : i + 100], other[i : i + 100]) for i in (0, 100, 200)]
    assert Margins.joined(parts).changed() == Margins.between(exact, other).changed()


def test_masked_classes_change_nothing():
    exact = values(300)
    masked = np.concatenate([exact, np.full((300, 2), -np.inf, np.float32)], axis=1)
    expected = Margins.between(exact, noisy(exact, 0.02)).changed()
    got = np.concatenate([noisy(exact, 0.02), np.full((300, 2), -np.inf, np.float32)], axis=1)
    assert Margins.between(masked, got).changed() == expected > 0
    alone = np.full((12, CLASSES), -np.inf, np.float32)
    alone[:, 2] = 1.0
    assert Margins.between(alone, alone + np.float32(0.1)).changed() == 0
    mixed = Margins.between(np.concatenate([values(12), alone]), np.concatenate([noisy(values(12), 0.5), alone]))
    assert 0 < mixed.changed() < 1
