from __future__ import annotations

import numpy as np
import pytest

from graphopt.data.npz import ArrayDataset
from graphopt.errors import DataError, UsageError
from graphopt.runtime.evaluate import evaluate, load_metric, score, top_one
from graphopt.runtime.paired import paired_means, paired_proportions
from graphopt.runtime.session import Session


@pytest.fixture
def model(build) -> Session:
    return Session(build("(float[4,2] x) => (float[4,2] y) { y = Identity(x) }"))


@pytest.fixture
def data(model) -> ArrayDataset:
    x = np.array([[1, 0], [1, 0], [0, 1], [1, 0], [0, 1]], np.float32)
    return ArrayDataset({"x": x, "labels": np.array([0, 0, 1, 0, 0])}, model.interface, "d")


def test_top_one_of_one_model(model, data) -> None:
    assert top_one(model, data) == pytest.approx(0.8)


def test_a_metric_gets_batches_without_padding(model, data) -> None:
    seen = []

    def metric(run, data) -> float:
        right = total = 0
        for batch in data:
            outputs = run(batch)
            seen.append(outputs["y"].shape)
            right += int((outputs["y"].argmax(-1) == batch.labels).sum())
            total += batch.valid
        assert run(dict(batch.feeds))["y"].shape == (4, 2)
        return right / total

    result = score(metric, model, data)
    assert result.value == pytest.approx(0.8)
    assert result.name == "metric"
    assert seen == [(4, 2), (1, 2)]


def test_dicts(model, data) -> None:
    result = score(lambda run, data: {"value": 2, "f1": 0.5, "higher_is_better": False, "name": "wer"}, model, data)
    assert (result.name, result.value, result.higher_is_better, dict(result.details)) == ("wer", 2, False, {"f1": 0.5})
    first = score(lambda run, data: {"f1": np.float32(0.5), "auc": 0.25}, model, data)
    assert (first.name, first.value, dict(first.details)) == ("f1", 0.5, {"auc": 0.25})


def test_a_function_may_say_that_lower_is_better(model, data) -> None:
    def loss(run, data) -> float:
        return 1.0

    loss.higher_is_better = False
    assert not score(loss, model, data).higher_is_better


def test_paired_evaluation(model, build, data) -> None:
    worse = Session(build("(float[4,2] x) => (float[4,2] y) <float[2] w = {1, 0}> { y = Mul(x, w) }"))

    def metric(run, data) -> dict:
        values = [float(v) for batch in data for v in run(batch)["y"].argmax(-1) == batch.labels]
        return {"value": float(np.mean(values)), "per_sample": values}

    result = evaluate(metric, model, worse, data)
    assert result.samples == 5
    assert result.difference == pytest.approx(result.after - result.before)
    assert result.low <= result.difference <= result.high
    assert result.method == "paired bootstrap"
    plain = evaluate(lambda run, data: 0.5, model, worse, data)
    assert (plain.low, plain.high, plain.samples) == (None, None, 5)
    assert "per_sample" in plain.method


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("good", "gave str"),
        (None, "gave NoneType"),
        (float("nan"), "must be finite"),
        ({}, "without a number"),
        ({"value": "x"}, "gave str"),
        ({"value": 1.0, "per_sample": ["a"]}, "per_sample must hold numbers"),
        ({"value": 1.0, "per_sample": [float("nan")]}, "per_sample holds NaN"),
    ],
)
def test_answers_that_are_no_score(model, data, answer, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        score(lambda run, data: answer, model, data)


def test_a_metric_that_fails(model, data) -> None:
    def broken(run, data) -> float:
        raise KeyError("boom")

    with pytest.raises(UsageError, match="--eval broken failed: KeyError: 'boom'"):
        score(broken, model, data)
    with pytest.raises(DataError, match="no array for input 'x'"):
        score(lambda run, data: run({}), model, data)


def test_metric_from_a_file(tmp_path, model, data) -> None:
    (tmp_path / "mine.py").write_text("def half(run, data):\n    return 0.5\n")
    assert score(load_metric(f"{tmp_path / 'mine.py'}:half"), model, data).value == 0.5
    with pytest.raises(UsageError, match="--eval"):
        load_metric("half")


def test_interval_of_paired_proportions_covers() -> None:
    """Simulated: the 95 % interval holds the true difference about 95 % of the time, also in small samples."""
    rng = np.random.default_rng(0)
    true = 0.05 - 0.10
    hits = 0
    for _ in range(2000):
        cells = rng.multinomial(200, [0.05, 0.10, 0.85])
        interval = paired_proportions(int(cells[0]), int(cells[1]), 200)
        hits += interval.low <= true <= interval.high
    assert 0.93 < hits / 2000 < 0.98


def test_interval_without_any_change_is_not_empty() -> None:
    interval = paired_proportions(0, 0, 100)
    assert interval.low < 0 < interval.high
    assert interval.high < 0.05


def test_interval_of_paired_means_covers() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for number in range(200):
        before = rng.standard_normal(60)
        after = before + rng.standard_normal(60) * 0.3 - 0.1
        interval = paired_means(before.tolist(), after.tolist(), seed=number)
        hits += interval.low <= -0.1 <= interval.high
    assert 0.88 < hits / 200 <= 0.99
