"""How far a changed model's outputs are from the reference's, as a share of the outputs' own variation."""

from __future__ import annotations

import numpy as np

from graphopt.analysis.statistics import Rows
from graphopt.analysis.statistics.exposure import session_of
from graphopt.data.feeds import Dataset
from graphopt.ir import Array
from graphopt.model import Model
from graphopt.transforms.recover.rows import HELD_PERIOD


def held_back(dataset: Dataset) -> Dataset:
    """Every fifth sample (or feed), the ones that a reconstruction holds back; the last one of fewer than five."""
    count = len(dataset)
    return dataset.select(list(range(HELD_PERIOD - 1, count, HELD_PERIOD)) or [count - 1])


class OutputJudge:
    """Compares models with a reference whose outputs on ``dataset`` are computed once and kept."""

    def __init__(self, reference: Model, dataset: Dataset, batch: int | None = None, threads: int = 1) -> None:
        self._dataset, self._batch, self._threads = dataset, batch, threads
        self._wanted = _run(reference, dataset, batch, threads)

    def error(self, model: Model) -> float:
        """Mean over float outputs of squared error / squared deviation of the reference's output.

        An output that is not finite, or has another shape than the reference's, makes the error infinite.
        """
        return _error(self._wanted, _run(model, self._dataset, self._batch, self._threads))

    def error_of_rest(self, rest: Model, dataset: Dataset) -> float:
        """As ``error``, of the part of a model behind a cut, fed with what is there; other outputs are right."""
        found = _run(rest, dataset, self._batch, self._threads)
        share = len(found) / max(len(self._wanted), 1)
        return _error({n: b for n, b in self._wanted.items() if n in found}, found) * share


def _run(model: Model, dataset: Dataset, batch: int | None, threads: int) -> dict[str, list[Array]]:
    found: dict[str, list[Array]] = {}
    with session_of(model, threads) as session:
        for item in dataset.iter_batches(batch):
            rows = Rows(item.rows, item.valid, item.start)
            for name, value in session.run(item.feeds).items():
                if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                    found.setdefault(name, []).append(rows.samples(value).astype(np.float64))
    return found


def _error(wanted: dict[str, list[Array]], found: dict[str, list[Array]]) -> float:
    errors = []
    for name, blocks in wanted.items():
        others = found.get(name, [])
        if [b.shape for b in blocks] != [b.shape for b in others]:
            return float("inf")
        mean = sum(float(b.sum()) for b in blocks) / max(1, sum(b.size for b in blocks))
        spread = sum(float(np.square(b - mean).sum()) for b in blocks)
        error = sum(float(np.square(b - o).sum()) for b, o in zip(blocks, others, strict=True))
        errors.append(error / max(spread, 1e-30))
    if not errors:
        return 0.0
    result = float(np.mean(errors))
    return result if np.isfinite(result) else float("inf")
