"""Ranges from histograms, scales and zero points, weight grids: known answers and brute force."""

import ml_dtypes  # noqa: F401
import numpy as np
import pytest

from graphopt.analysis.statistics import HistogramAccumulator
from graphopt.analysis.statistics.samples import Rows
from graphopt.targets.base import INT_TYPES, Grid
from graphopt.transforms.quantize.ranges import Spectrum, find_range, quant_params
from graphopt.transforms.quantize.weight_grids import limits, quantize_weight, raise_for_bias, weight_scale

U8 = Grid("uint8", symmetric=False)
S8 = Grid("int8", symmetric=True)


def histogram(values):
    found = HistogramAccumulator(4096)
    found.update((np.asarray(values, np.float32).reshape(1, -1),), Rows(1, 1))
    return found


def test_zero_is_exact():
    for low, high in [(-1.0, 3.0), (0.0, 5.0), (-2.0, -1.0), (1.0, 2.0), (-1e-3, 7.7)]:
        params = quant_params(low, high, U8)
        assert 0 <= params.zero_point <= 255
        assert params.low <= 0 <= params.high
        assert params.low <= min(low, 0) + params.scale
        assert params.high >= max(high, 0) - params.scale


def test_relu_range_has_zero_point_0():
    params = quant_params(0.0, 6.0, U8)
    assert params.zero_point == 0
    assert params.high == pytest.approx(6.0)


def test_symmetric_range_has_zero_point_0_and_127_steps():
    params = quant_params(-1.0, 2.54, S8)
    assert params.zero_point == 0
    assert params.scale == pytest.approx(0.02)


def test_an_all_zero_tensor_keeps_its_zeros():
    found = find_range([histogram(np.zeros(100))], U8)
    params = quant_params(found.low, found.high, U8)
    assert params.zero_point == 0
    assert params.scale == pytest.approx(1 / 255)


def test_analytic_error_agrees_with_real_rounding():
    values = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    spectrum = Spectrum([histogram(values)], clipping=4.0)
    for low, high in [(-4.5, 4.5), (-3.0, 3.0), (-2.0, 2.5)]:
        params = quant_params(low, high, U8)
        stored = np.clip(np.rint(values / params.scale) + params.zero_point, 0, 255)
        inside = np.square((stored - params.zero_point) * params.scale - values)
        clipped = (values < params.low) | (values > params.high)
        real = (inside[~clipped].sum() + 4.0 * inside[clipped].sum()) / len(values)
        estimate = spectrum.errors(np.array([low]), np.array([high]), 255)[0]
        assert estimate == pytest.approx(real, rel=0.05)


def test_auto_is_never_worse_than_any_method():
    values = np.concatenate([np.random.default_rng(0).standard_normal(50_000), [60.0]])
    known = [histogram(values)]
    best = find_range(known, U8)
    for method in ("minmax", "percentile", "mse", "entropy"):
        assert best.error <= find_range(known, U8, method).error * (1 + 1e-9)


def test_minmax_is_the_extremes():
    found = find_range([histogram([-1.5, 0.0, 3.25])], U8, "minmax")
    assert (found.low, found.high) == (-1.5, 3.25)


def test_percentile_leaves_an_outlier_out():
    values = np.concatenate([np.random.default_rng(0).uniform(-1, 1, 100_000), [1000.0]])
    found = find_range([histogram(values)], U8, "percentile")
    assert found.high < 3


def test_a_saturating_function_frees_the_range_that_it_ignores():
    values = np.random.default_rng(0).standard_normal(100_000) * 4
    plain = find_range([histogram(values)], U8)
    behind_relu = find_range([histogram(values)], U8, function=lambda v: [np.maximum(v, 0)])
    assert behind_relu.low > 0.5 * plain.low
    assert behind_relu.high >= 0.9 * plain.high


def test_tensors_that_share_a_grid_are_covered_together():
    found = find_range([histogram([-1.0, 1.0]), histogram([0.0, 9.0])], U8, "minmax")
    assert (found.low, found.high) == (-1.0, 9.0)


@pytest.mark.parametrize(
    ("name", "reduced", "expected"),
    [
        ("int8", False, (-127, 127, 0)),
        ("int8", True, (-63, 63, 0)),
        ("uint8", False, (1, 255, 128)),
        ("int4", True, (-7, 7, 0)),
    ],
)
def test_limits_of_weights(name, reduced, expected):
    assert limits(INT_TYPES[name], reduced) == expected


def test_reduced_weights_cannot_saturate_16_bit_sums():
    low, high, _ = limits(INT_TYPES["int8"], reduced=True)
    assert 2 * 255 * max(-low, high) < 32767


def test_weight_scales_are_the_channel_maxima():
    weight = np.array([[1.0, -2.54], [0.127, 0.0]], np.float32)
    scale = weight_scale(weight, 0, INT_TYPES["int8"])
    assert scale == pytest.approx([0.02, 0.001])
    assert quantize_weight(weight, scale, 0, INT_TYPES["int8"]).stored.tolist() == [[50, -127], [127, 0]]


def test_all_zero_weights_quantize_to_zeros():
    weight = np.zeros((3, 4), np.float32)
    scale = weight_scale(weight, 0, INT_TYPES["int8"])
    assert np.isfinite(scale).all()
    assert (scale > 0).all()
    assert not quantize_weight(weight, scale, 0, INT_TYPES["int8"]).stored.any()


def test_four_bits_fit_a_byte():
    weight = np.linspace(-1, 1, 32, dtype=np.float32).reshape(4, 8)
    kind = INT_TYPES["int4"]
    stored = quantize_weight(weight, weight_scale(weight, 0, kind, search=True), 0, kind).stored
    assert stored.dtype == np.int8
    assert np.abs(stored).max() <= 7


def test_searched_scale_is_no_worse():
    weight = np.random.default_rng(0).standard_t(3, (8, 500)).astype(np.float32)
    kind = INT_TYPES["int4"]
    errors = [
        np.square(quantize_weight(weight, weight_scale(weight, 0, kind, search=s), 0, kind).real - weight).sum()
        for s in (False, True)
    ]
    assert errors[1] < errors[0]


def test_a_bias_over_tiny_weights_fits_int32():
    scale = raise_for_bias(np.array([1e-9, 1e-2], np.float32), np.array([3.0, 3.0]), 0.01)
    assert 3.0 / (0.01 * scale[0]) < 2**31
    assert scale[1] == np.float32(1e-2)
