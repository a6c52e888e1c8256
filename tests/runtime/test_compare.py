from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from graphopt.data.npz import ArrayDataset
from graphopt.data.open import open_data
from graphopt.data.synthetic import SyntheticDataset
from graphopt.errors import UsageError
from graphopt.runtime.agreement import Agreement
from graphopt.runtime.compare import compare
from graphopt.runtime.session import Session


def _agree(reference, test):
    agreement = Agreement("y")
    agreement.add(np.asarray(reference), np.asarray(test))
    return agreement.result()


def test_figures_against_numpy() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((50, 10)).astype(np.float32)
    b = a + rng.standard_normal((50, 10)).astype(np.float32) * 0.1
    agreement = Agreement("y")
    for start in range(0, 50, 7):
        agreement.add(a[start : start + 7], b[start : start + 7])
    got = agreement.result()
    x, y = a.astype(np.float64), b.astype(np.float64)
    assert got.max_abs == pytest.approx(np.abs(x - y).max())
    assert got.mean_abs == pytest.approx(np.abs(x - y).mean())
    assert got.relative_to_range == pytest.approx(np.abs(x - y).max() / (x.max() - x.min()))
    assert got.cosine == pytest.approx((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y))
    assert got.sqnr_db == pytest.approx(10 * np.log10((x**2).sum() / ((x - y) ** 2).sum()))
    assert got.top1_agreement == pytest.approx((x.argmax(1) == y.argmax(1)).mean())
    assert got.equal_share is None
    assert got.elements == 500


def test_equal_outputs() -> None:
    got = _agree(np.float32([[1, 2]]), np.float32([[1, 2]]))
    assert (got.max_abs, got.relative_to_range, got.cosine, got.sqnr_db) == (0, 0, pytest.approx(1), math.inf)
    assert got.top1_agreement == 1


def test_all_zero_and_constant_references() -> None:
    zero = _agree(np.zeros(3, np.float32), np.zeros(3, np.float32))
    assert (zero.cosine, zero.relative_to_range) == (1, 0)
    off = _agree(np.zeros(3, np.float32), np.ones(3, np.float32))
    assert off.relative_to_range == math.inf
    assert off.sqnr_db == -math.inf
    constant = _agree(np.full(3, 4, np.float32), np.full(3, 5, np.float32))
    assert constant.relative_to_range == 0.25


def test_non_finite_values() -> None:
    nan, inf = np.nan, np.inf
    same = _agree(np.float32([nan, inf, -inf, 1]), np.float32([nan, inf, -inf, 1]))
    assert (same.new_non_finite, same.lost_non_finite, same.max_abs) == (0, 0, 0)
    new = _agree(np.float32([1, 2, inf, inf]), np.float32([nan, 2, -inf, nan]))
    assert new.new_non_finite == 3
    lost = _agree(np.float32([nan, 2]), np.float32([1, 2]))
    assert (lost.new_non_finite, lost.lost_non_finite) == (0, 1)
    none = _agree(np.float32([nan]), np.float32([nan]))
    assert math.isnan(none.max_abs)


def test_types_that_are_not_float() -> None:
    integers = _agree([1, 2, 3, 4], [1, 2, 3, 6])
    assert integers.equal_share == 0.75
    assert integers.max_abs == 2
    bools = _agree([True, False], [True, True])
    assert bools.equal_share == 0.5
    assert math.isnan(bools.max_abs)
    strings = _agree(np.array(["a", "b"], object), np.array(["a", "c"], object))
    assert strings.equal_share == 0.5


def test_shapes_and_kinds_that_cannot_be_compared() -> None:
    other = _agree(np.zeros((2, 3)), np.zeros((2, 4)))
    assert other.shape_mismatches == 1
    assert "[2, 4] where the original gives [2, 3]" in other.note
    empty = _agree(np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32))
    assert empty.note == "empty output"
    assert math.isnan(empty.max_abs)
    agreement = Agreement("s")
    agreement.add([np.zeros(2)], [np.zeros(2)])
    assert "not compared" in agreement.result().note


@pytest.mark.parametrize(
    ("shape", "classes"), [((4, 3), True), ((2, 4, 3), True), ((4, 1), False), ((1, 3, 4, 4), False)]
)
def test_top1_only_where_the_last_axis_looks_like_classes(shape, classes: bool) -> None:
    value = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    assert (_agree(value, value).top1_agreement is not None) == classes


def test_two_models_with_labels(build) -> None:
    first = Session(build("(float[N,3] x) => (float[N,3] y) { y = Identity(x) }"))
    second = Session(build("(float[N,3] x) => (float[N,3] z) <float[3] w = {1, 1, 0}> { z = Mul(x, w) }"))
    x = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2, 0]] + 0.1
    labels = np.array([0, 1, 2, 0, 1, 2, 1])
    data = ArrayDataset({"x": x, "labels": labels}, first.interface, "d")
    result = compare(first, second, data, batch=2)
    assert result.samples == 7
    assert result.finite
    assert not result.synthetic
    (output,) = result.outputs
    assert output.name == "y"
    assert output.top1_agreement == pytest.approx(5 / 7)
    assert result.accuracy.before == pytest.approx(6 / 7)
    assert result.accuracy.after == pytest.approx(4 / 7)
    assert result.accuracy.drop == pytest.approx(2 / 7)
    assert result.accuracy.low < -2 / 7 < result.accuracy.high
    assert result.worst == pytest.approx(1.1)


def test_padding_of_a_fixed_batch_does_not_count(build) -> None:
    first = Session(build("(float[4,2] x) => (float[4,2] y) { y = Identity(x) }"))
    second = Session(build("(float[4,2] x) => (float[4,2] y) <float[2] w = {1, 0.5}> { y = Mul(x, w) }"))
    x = np.array([[1, 0], [1, 0], [1, 0], [1, 0], [1, 4]], np.float32)
    data = ArrayDataset({"x": x, "labels": np.array([0, 0, 0, 0, 1])}, first.interface, "d")
    result = compare(first, second, data)
    assert result.samples == 5
    assert result.outputs[0].elements == 10
    assert result.outputs[0].mean_abs == pytest.approx(0.2)
    assert result.accuracy.samples == 5
    assert result.accuracy.before == 1


def test_integer_predictions_are_scored_too(build) -> None:
    model = Session(build("(float[N,3] x) => (int64[N] y) { y = ArgMax<axis=1, keepdims=0>(x) }"))
    data = ArrayDataset({"x": np.eye(3, dtype=np.float32), "labels": np.array([0, 1, 0])}, model.interface, "d")
    result = compare(model, model, data)
    assert result.accuracy.before == pytest.approx(2 / 3)
    assert result.outputs[0].equal_share == 1


def test_labels_that_no_output_fits(build, relu) -> None:
    model = Session(relu)
    data = ArrayDataset({"x": np.ones((2, 3), np.float32), "labels": np.ones((2, 5), int)}, model.interface, "d")
    assert compare(model, model, data).accuracy is None


def test_new_infinities_are_seen(build) -> None:
    first = Session(build("(float[N] x) => (float[N] y) { y = Identity(x) }"))
    second = Session(build("(float[N] x) => (float[N] y) { y = Reciprocal(x) }"))
    result = compare(first, second, open_data({"x": np.float32([0, 1])}, first.interface))
    assert not result.finite
    assert result.worst == math.inf


def test_outputs_whose_shape_depends_on_the_data(build) -> None:
    model = Session(build("(float[N] x) => (int64[1,M] y) { y = NonZero(x) }"))
    result = compare(model, model, open_data([{"x": np.float32([0, 1])}, {"x": np.float32([0, 0])}], model.interface))
    assert result.outputs[0].equal_share == 1
    assert result.outputs[0].elements == 1


def test_sequences_are_skipped_with_a_note(build) -> None:
    model = Session(build("(float[2] x) => (seq(float[2]) y, float[2] z) { y = SequenceConstruct(x) z = Neg(x) }"))
    result = compare(model, model, SyntheticDataset(model.interface, 2))
    assert "not compared" in result.outputs[0].note
    assert result.outputs[1].sqnr_db == math.inf
    assert result.synthetic
    assert result.worst == 0


def test_models_with_other_outputs(build, relu) -> None:
    two = Session(build("(float[N,3] x) => (float[N,3] a, float[N,3] b) { a = Neg(x) b = Abs(x) }"))
    data = open_data({"x": np.ones((1, 3), np.float32)}, two.interface)
    with pytest.raises(UsageError, match="different outputs: y and a, b"):
        compare(Session(relu), two, data)


def test_memory_does_not_grow_with_the_samples(build) -> None:
    model = Session(build("(float[N,1000] x) => (float[N,1000] y) { y = Relu(x) }"))
    one_output = 1000 * 4
    compare(model, model, SyntheticDataset(model.interface.bind({}, batch=1), 1))
    tracemalloc.start()
    compare(model, model, SyntheticDataset(model.interface.bind({}, batch=1), 1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * one_output
