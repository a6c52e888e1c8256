"""Scoring: top-1 accuracy from labels, or the user's own metric, always of two models on the same samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.data.callables import load_callable
from graphopt.data.checks import Array
from graphopt.data.feeds import Batch, Dataset, Feeds, count_samples
from graphopt.errors import DataError, GraphoptError, UsageError
from graphopt.results import Accuracy
from graphopt.runtime.agreement import has_classes
from graphopt.runtime.paired import paired_means, paired_proportions
from graphopt.runtime.session import Runner

_RESERVED = ("value", "name", "higher_is_better", "per_sample")

Run = Callable[[Batch | Feeds], Mapping[str, Any]]
Metric = Callable[[Run, Dataset], float | Mapping[str, Any]]


class TopOne:
    """Counts, over two models, which samples are right: four numbers, whatever the number of samples.

    The scored output is the first one that fits the labels: float classes on the last axis (argmax), or integers
    of the labels' size (equal).
    """

    def __init__(self) -> None:
        self._both = 0
        self._lost = 0
        self._gained = 0
        self._total = 0
        self._output: str | None = None

    def add(self, labels: Array, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Add one run, padding already dropped.

        Raises:
            DataError: the labels are no class numbers, or not those of the output that they fit.
        """
        labels = whole_labels(labels)
        if self._output is None:
            self._output = next(
                (name for name, value in before.items() if predictions(value, labels) is not None), None
            )
        if self._output is None:
            return
        first = predictions(before[self._output], labels)
        second = predictions(after[self._output], labels)
        if first is None or second is None:
            return
        _check_classes(labels, before[self._output], self._output)
        right_before, right_after = first == labels.ravel(), second == labels.ravel()
        self._both += int(np.count_nonzero(right_before & right_after))
        self._lost += int(np.count_nonzero(right_before & ~right_after))
        self._gained += int(np.count_nonzero(~right_before & right_after))
        self._total += labels.size

    def result(self) -> Accuracy | None:
        """Accuracy of both; None when no output fits the labels."""
        if not self._total:
            return None
        interval = paired_proportions(self._gained, self._lost, self._total)
        return Accuracy(
            metric="top-1",
            before=(self._both + self._lost) / self._total,
            after=(self._both + self._gained) / self._total,
            difference=(self._gained - self._lost) / self._total,
            low=interval.low,
            high=interval.high,
            samples=self._total,
            method=interval.method,
        )


def whole_labels(labels: Array) -> Array:
    """Labels as integers.

    Raises:
        DataError: they are no whole numbers.
    """
    if labels.dtype.kind in "iub":
        return labels
    if labels.dtype.kind == "f" and bool((labels == np.floor(labels)).all()):
        return labels.astype(np.int64)
    raise DataError(
        f"labels are {labels.dtype} and no whole numbers; top-1 accuracy needs class numbers, --eval scores others"
    )


def _check_classes(labels: Array, value: Any, output: str) -> None:
    if not has_classes(value) or not labels.size:
        return
    low, high, classes = int(labels.min()), int(labels.max()), value.shape[-1]
    if low < 0 or high >= classes:
        raise DataError(
            f"labels run from {low} to {high}, but output {output!r} has classes 0 to {classes - 1}; "
            "count from 0, or score with --eval"
        )


def predictions(value: Any, labels: Array) -> Array | None:
    """Class per label from one output, flat; None when the output does not fit the labels."""
    if not isinstance(value, np.ndarray) or value.size == 0:
        return None
    if has_classes(value) and value.size // value.shape[-1] == labels.size:
        chosen: Array = value.argmax(-1).ravel()
        return chosen
    if value.dtype.kind in "iu" and value.size == labels.size:
        return value.ravel()
    return None


def top_one(model: Runner, data: Dataset, batch: int | None = None) -> float | None:
    """Top-1 accuracy of one model; None without labels or an output that fits them."""
    counter = TopOne()
    for part in data.iter_batches(batch):
        if part.labels is not None:
            outputs = runner(model)(part)
            counter.add(part.labels, outputs, outputs)
    result = counter.result()
    return None if result is None else result.before


def check_labels(model: Runner, part: Batch) -> None:
    """Find out on one batch whether its labels can be scored, before any long work.

    Raises:
        DataError: they are no classes of the output that they fit.
    """
    if part.labels is not None:
        outputs = runner(model)(part)
        TopOne().add(part.labels, outputs, outputs)


@dataclass(frozen=True)
class Score:
    """What a metric said of one model. ``per_sample`` allows a paired interval; ``details`` are further figures."""

    name: str
    value: float
    higher_is_better: bool = True
    per_sample: tuple[float, ...] | None = None
    details: Mapping[str, float] = field(default_factory=dict)


def load_metric(spec: str) -> Metric:
    """Import the function of ``--eval module:function``; UsageError when there is none."""
    return load_callable(spec, "--eval")


def score(metric: Metric, model: Runner, data: Dataset, name: str | None = None) -> Score:
    """Call the user's metric ``(run, data) -> float | dict`` on one model.

    ``run`` takes a batch of ``data`` (or a dict of arrays) and gives a dict of outputs, padding dropped. A dict
    that comes back has ``value``, or its first number counts; ``higher_is_better``, ``name`` and ``per_sample``
    are read where present, other numbers are details. ``higher_is_better = False`` may also be set on the
    function. Raises UsageError when the function fails or gives something else.
    """
    label = name or str(getattr(metric, "__name__", "metric"))
    try:
        answer = metric(runner(model), data)
    except GraphoptError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise UsageError(f"--eval {label} failed: {type(error).__name__}: {error}") from error
    higher = bool(getattr(metric, "higher_is_better", True))
    if not isinstance(answer, Mapping):
        return Score(label, _number(answer, label), higher)
    numbers = {key: value for key, value in answer.items() if key not in _RESERVED and _is_number(value)}
    if "value" not in answer and not numbers:
        raise UsageError(f"--eval {label} gave a dict without a number")
    main = "value" if "value" in answer else next(iter(numbers))
    details = {key: float(value) for key, value in numbers.items() if key != main}
    values = answer.get("per_sample")
    return Score(
        name=str(answer.get("name", label if main == "value" else main)),
        value=_number(answer[main], label),
        higher_is_better=bool(answer.get("higher_is_better", higher)),
        per_sample=None if values is None else _sequence(values, label),
        details=details,
    )


def compare_scores(before: Score, after: Score, samples: int, seed: int = 0) -> Accuracy:
    """Set two scores of one metric side by side, with a paired interval where both give values per sample."""
    low = high = None
    method = "no interval: the metric gives no per_sample values"
    if before.per_sample and after.per_sample and len(before.per_sample) == len(after.per_sample):
        interval = paired_means(before.per_sample, after.per_sample, seed)
        low, high, method = interval.low, interval.high, interval.method
        samples = len(before.per_sample)
    return Accuracy(
        metric=before.name,
        before=before.value,
        after=after.value,
        difference=after.value - before.value,
        low=low,
        high=high,
        samples=samples,
        higher_is_better=before.higher_is_better,
        method=method,
        details_before=before.details,
        details_after=after.details,
    )


def evaluate(metric: Metric, before: Runner, after: Runner, data: Dataset, seed: int = 0) -> Accuracy:
    """Score two models with the user's metric and compare them."""
    first, second = score(metric, before, data), score(metric, after, data)
    return compare_scores(first, second, count_samples(data), seed)


def runner(model: Runner) -> Run:
    """Give the ``run`` that a metric gets."""

    def run(batch: Batch | Feeds) -> Mapping[str, Any]:
        if not isinstance(batch, Batch):
            return model.run(batch)
        return batch.trim_outputs(model.run(batch.feeds))

    return run


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _number(value: Any, label: str) -> float:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if not _is_number(value):
        raise UsageError(f"--eval {label} gave {type(value).__name__}; it must give a number or a dict")
    if not math.isfinite(value):
        raise UsageError(f"--eval {label} gave {value}; a score must be finite")
    return float(value)


def _sequence(values: Sequence[Any], label: str) -> tuple[float, ...]:
    try:
        numbers = np.asarray(values, np.float64).ravel()
    except (TypeError, ValueError) as error:
        raise UsageError(f"--eval {label}: per_sample must hold numbers: {error}") from error
    if not np.isfinite(numbers).all():
        raise UsageError(f"--eval {label}: per_sample holds NaN or Inf")
    return tuple(float(number) for number in numbers)
