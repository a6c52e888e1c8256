"""Learned rounding against plain rounding and brute force; bias correction."""

import itertools

import numpy as np
import pytest

from graphopt.analysis.statistics import Channels, Gram
from graphopt.analysis.statistics.samples import Rows
from graphopt.targets.base import INT_TYPES
from graphopt.transforms.quantize.bias_correction import expected_shift
from graphopt.transforms.quantize.rounding import round_weight
from graphopt.transforms.quantize.weight_grids import quantize_weight, weight_scale

INT4 = INT_TYPES["int4"]


def layer(seed, inputs, outputs, count=2000):
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((inputs, inputs)) * rng.uniform(0.1, 2, inputs)
    rows = (rng.standard_normal((count, inputs)) @ mixing + rng.standard_normal(inputs)).astype(np.float32)
    gram = Gram(Channels(-1)).create()
    gram.update((rows,), Rows(count, count))
    return rows, rng.standard_normal((inputs, outputs)).astype(np.float32), gram


def output_error(rows, weight, rounded, shift=0.0):
    difference = rows @ (rounded - weight) - shift
    return float(np.square(difference).mean())


@pytest.mark.parametrize("seed", range(4))
def test_output_error_is_far_below_that_of_rounding_to_nearest(seed):
    rows, weight, gram = layer(seed, 48, 16)
    scale = weight_scale(weight, 1, INT4)
    plain = quantize_weight(weight, scale, 1, INT4)
    learned = round_weight(weight, 1, gram, scale, INT4, False, 0.0, search=False)
    before = output_error(rows, weight, plain.real, (rows @ (plain.real - weight)).mean(axis=0))
    after = output_error(rows, weight, learned.weight.real, learned.shift)
    assert after < 0.5 * before


def test_it_is_near_the_optimum_of_a_small_case():
    rows, weight, gram = layer(5, 4, 1)
    scale = weight_scale(weight, 1, INT4)
    learned = round_weight(weight, 1, gram, scale, INT4, False, 0.0, search=False)
    base = np.floor(weight[:, 0] / scale[0])
    errors = []
    for ups in itertools.product((-1, 0, 1, 2), repeat=4):
        candidate = (np.clip(base + np.array(ups), -7, 7) * scale[0])[:, None]
        errors.append(output_error(rows, weight, candidate, (rows @ (candidate - weight)).mean(axis=0)))
    assert output_error(rows, weight, learned.weight.real, learned.shift) <= 2.0 * min(errors)


def test_the_shift_is_the_mean_error():
    rows, weight, gram = layer(1, 12, 6)
    learned = round_weight(weight, 1, gram, weight_scale(weight, 1, INT4), INT4, False, 0.0, search=True)
    assert learned.shift == pytest.approx((rows @ (learned.weight.real - weight)).mean(axis=0), abs=2e-3)


def test_integers_stay_within_the_type():
    _, weight, gram = layer(2, 30, 5)
    learned = round_weight(weight * 100, 1, gram, weight_scale(weight, 1, INT4), INT4, False, 0.1, search=False)
    assert np.abs(learned.weight.stored.astype(int)).max() <= 7


def test_expected_shift_of_a_grouped_convolution():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 2, 3, 3)).astype(np.float32)
    rounded = weight + rng.standard_normal(weight.shape).astype(np.float32) * 0.01
    means = rng.standard_normal(6)
    shift = expected_shift(weight, rounded, means, 0, groups=3)
    for out in range(6):
        group = out // 2
        expected = sum((rounded - weight)[out, i].sum() * means[group * 2 + i] for i in range(2))
        assert shift[out] == pytest.approx(expected, rel=1e-4)
