import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from graphopt.analysis.statistics import ChannelMoments, Histogram, MinMax, Moments, Part, Rows


def feed(spec, array, cuts):
    accumulator = spec.create()
    start = 0
    for piece in np.split(array, cuts):
        accumulator.update((piece,), Rows(len(piece), len(piece), start))
        start += len(piece)
    return accumulator


@pytest.fixture
def values():
    return (np.random.default_rng(0).standard_normal((40, 3, 5)) * np.array([1, 10, 100])[:, None]).astype(np.float32)


def test_moments_equal_numpy(values):
    found = feed(Moments(), values, [7, 30])
    assert found.mean == pytest.approx(values.mean(dtype=float))
    assert found.variance == pytest.approx(values.var(dtype=float), rel=1e-6)
    assert found.energy == pytest.approx(np.square(values, dtype=float).mean(), rel=1e-6)


@pytest.mark.parametrize("axis", [1, -2])
def test_channel_moments_equal_numpy(values, axis):
    found = feed(ChannelMoments(axis), values, [1, 2])
    np.testing.assert_allclose(found.mean, values.mean(axis=(0, 2), dtype=float), rtol=1e-5)
    np.testing.assert_allclose(found.variance, values.var(axis=(0, 2), dtype=float), rtol=1e-5)
    np.testing.assert_allclose(found.energy, np.square(values, dtype=float).mean(axis=(0, 2)), rtol=1e-5)
    np.testing.assert_array_equal(found.abs_max, np.abs(values).max(axis=(0, 2)))


@pytest.mark.parametrize("spec", [MinMax(), Moments(), ChannelMoments(1), Histogram(64)])
def test_shards_merge_into_the_whole(values, spec):
    whole, left, right = feed(spec, values, []), feed(spec, values[:11], []), feed(spec, values[11:], [5])
    left.merge(right)
    for name, value in whole.state().items():
        np.testing.assert_allclose(left.state()[name], value, rtol=1e-6)


@pytest.mark.parametrize("spec", [MinMax(), Moments(), ChannelMoments(1), Histogram(64)])
def test_padding_is_dropped(values, spec):
    padded = np.concatenate([values[:3], np.full((2, 3, 5), 1e6, np.float32)])
    found, wanted = spec.create(), feed(spec, values[:3], [])
    found.update((padded,), Rows(5, 3))
    for name, value in wanted.state().items():
        np.testing.assert_array_equal(found.state()[name], value)


@settings(max_examples=60, deadline=None)
@example([1024.0, -5.465064010866787e-44], [1], [1, 0, 2, 3])
@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=60),
    st.lists(st.integers(0, 60), max_size=4),
    st.permutations(range(4)),
)
def test_histogram_does_not_depend_on_order_or_cuts(numbers, cuts, order):
    array = np.array(numbers, np.float32)
    whole = feed(Histogram(32), array, [])
    pieces = np.array_split(array, 4)
    other = feed(Histogram(32), np.concatenate([pieces[i] for i in order]), sorted(c % (len(array) + 1) for c in cuts))
    assert whole.exponent == other.exponent
    np.testing.assert_array_equal(whole.counts, other.counts)
    assert whole.zeros == other.zeros
    assert whole.total == len(array)


def test_histogram_widens_by_powers_of_two_and_counts_exactly():
    accumulator = Histogram(8).create()
    accumulator.update((np.array([0.1, -0.9, 0.5], np.float32),), Rows(3, 3))
    assert accumulator.limit == 1.0
    accumulator.update((np.array([1.0, 3.9], np.float32),), Rows(2, 2))
    assert accumulator.limit == 4.0
    wanted, _ = np.histogram(np.array([0.1, -0.9, 0.5, 1.0, 3.9], np.float32), accumulator.edges)
    np.testing.assert_array_equal(accumulator.counts, wanted)


def test_histogram_of_zeros_and_quantile():
    accumulator = Histogram(4096).create()
    accumulator.update((np.zeros((2, 4), np.float32),), Rows(2, 2))
    assert accumulator.total == 8
    assert accumulator.limit == 0.0
    numbers = np.random.default_rng(0).standard_normal(10000).astype(np.float32)
    accumulator = feed(Histogram(4096), numbers, [100])
    assert accumulator.quantile(0.99) == pytest.approx(np.quantile(np.abs(numbers), 0.99), abs=2 * accumulator.width)


def test_rows_find_a_merged_batch():
    merged = np.arange(24).reshape(12, 2)
    assert Rows(4, 3).samples(merged).shape == (3, 3, 2)
    assert Rows(5, 5).samples(merged).shape == (1, 12, 2)
    assert Rows(2, 1).samples(np.zeros((7, 2, 3)), batch_axis=1).shape == (1, 7, 3)


def test_parts_are_disjoint_and_complete():
    ids = np.arange(17)
    held, rest = Part(5, True).mask(ids), Part(5, False).mask(ids)
    assert (held ^ rest).all()
    assert held.sum() == 3
