"""Judges quantized models on samples of the calibration data that were held back from finding ranges and factors.

Where an output is a Softmax, its input is judged: behind it, small errors vanish and large ones are rare flips, so that
few samples tell little. A constant added to all its inputs changes nothing and is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from graphopt.analysis.statistics.exposure import session_of
from graphopt.data.feeds import Batch, Dataset
from graphopt.data.split import split, subsample
from graphopt.ir import Array, Tensor
from graphopt.model import Model
from graphopt.transforms.quantize.decisions import ALLOWED, Margins

HELD_BACK_AT_MOST = 64
_BATCH = 4
_SEED = 0
_FLATTENED = frozenset({"Softmax", "LogSoftmax"})


@dataclass(frozen=True)
class Parts:
    """Calibration data in two: ``fit`` finds ranges and factors, ``judge`` decides between models.

    ``few`` is of ``fit``, for trials; ``rest`` is what lies outside ``few``, in parts.
    """

    fit: Dataset
    judge: Dataset
    few: Dataset
    rest: tuple[Dataset, ...]


def hold_back(data: Dataset) -> Parts:
    """A fifth of the data, at most 64 samples, is held back; a single sample has to serve as both."""
    parts = split(data, _SEED)
    fit, judge = parts.calibration, subsample(parts.scoring, HELD_BACK_AT_MOST, _SEED)
    if parts.shared:
        return Parts(fit, judge, fit, ())
    order = np.random.default_rng(_SEED).permutation(len(fit))
    few, others = (fit.select(sorted(part)) for part in (order[:HELD_BACK_AT_MOST], order[HELD_BACK_AT_MOST:]))
    return Parts(fit, judge, few, (others, parts.scoring) if len(others) else (parts.scoring,))


@dataclass(frozen=True)
class Verdict:
    """Noise as a share of the signal, of the worst tensor: ``outputs`` as they are, ``inner`` before Softmax.

    ``changed``: expected share of decisions that change, where an output is a Softmax; see ``decisions``.
    """

    outputs: float
    inner: float
    changed: float = 0.0

    @property
    def sqnr_db(self) -> float:
        """Signal to noise at the outputs."""
        return decibel(self.outputs)

    @property
    def worst_db(self) -> float:
        """The lower of both."""
        return decibel(max(self.outputs, self.inner))

    def good_enough(self, wanted_db: float, decisions: bool) -> bool:
        """Whether the signal to noise ratio is reached and, if ``decisions`` count, few enough of them change."""
        return self.worst_db >= wanted_db and not (decisions and self.changed > ALLOWED)

    def better_than(self, other: Verdict) -> bool:
        """Whether there is less noise, before Softmax."""
        return self.inner < other.inner


def decibel(noise: float) -> float:
    """Signal to noise ratio of a noise share."""
    return float("inf") if noise <= 0 else -10 * float(np.log10(noise))


class Judge:
    """Holds what the float model gives on the held-back samples."""

    def __init__(self, model: Model, data: Dataset, limit: int | None = None) -> None:
        self._batches: list[Batch] = list(data.iter_batches(_BATCH))[:limit]
        self._inner, self._classes = _inner_names(model)
        self._wanted = list(self._runs(model))

    def verdict(self, model: Model) -> Verdict:
        """The noise of ``model``, which has the same outputs as the float model."""
        energy: dict[str, float] = {}
        noise: dict[str, float] = {}
        margins: dict[str, list[Margins]] = {}
        for wanted, got in zip(self._wanted, self._runs(model), strict=True):
            for name, values in wanted.items():
                other, classes = got.get(name), self._classes.get(name)
                if classes is not None and other is not None and other.shape == values.shape:
                    values, other = classes.rows(values), classes.rows(other)
                    if values.shape[1] > 1:
                        margins.setdefault(name, []).append(Margins.between(values, other))
                signal, error = _energies(values, other, name not in self._inner)
                energy[name] = energy.get(name, 0.0) + signal
                noise[name] = noise.get(name, 0.0) + error
        share = {n: noise[n] / max(energy[n], 1e-30) for n in energy}
        outer = [share[n] for n in self._inner if n in share]
        inner = [share[m] for n, m in self._inner.items() if m in share]
        changed = [Margins.joined(m).changed() for m in margins.values()]
        return Verdict(max(outer, default=0.0), max(inner, default=0.0), max(changed, default=0.0))

    def _runs(self, model: Model) -> Iterator[dict[str, Array]]:
        clone = model.clone()
        known = clone.graph.tensors()
        names = {t.name for t in clone.graph.outputs}
        clone.graph.outputs = [*clone.graph.outputs, *_found(known, set(self._inner.values()) - names)]
        with session_of(clone, 1) as session:
            for batch in self._batches:
                found = batch.trim_outputs(session.run(batch.feeds))
                yield {n: v for n, v in found.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f"}


def _found(known: dict[str, Tensor], names: set[str]) -> list[Tensor]:
    return [known[n] for n in sorted(names) if n in known]


@dataclass(frozen=True)
class _Classes:
    """Where a Softmax has its classes: on ``axis``, or, before opset 13, on it and all axes behind."""

    axis: int
    flattened: bool

    def rows(self, values: Array) -> Array:
        """The values as [decisions, classes]."""
        axis = self.axis % values.ndim
        if self.flattened:
            return values.reshape(prod(values.shape[:axis]), prod(values.shape[axis:]))
        return np.moveaxis(values, axis, -1).reshape(values.size // max(values.shape[axis], 1), values.shape[axis])


def _inner_names(model: Model) -> tuple[dict[str, str], dict[str, _Classes]]:
    """Name of each output to that of the tensor that is judged for it; the classes of those before a Softmax."""
    found, classes = {}, {}
    flattened = model.graph.opset < 13
    for tensor in model.graph.outputs:
        found[tensor.name] = tensor.name
        maker = tensor.inputs[0] if tensor.inputs else None
        if maker is not None and not maker.domain and maker.op in _FLATTENED and maker.inputs[0].inputs:
            inner = maker.inputs[0].name
            found[tensor.name] = inner
            classes[inner] = _Classes(int(maker.attrs.get("axis", 1 if flattened else -1)), flattened)
    return found, classes


def _energies(wanted: Array, got: Array | None, inner: bool) -> tuple[float, float]:
    """Energy of the signal and of the error; one of another shape, or without the same infinities, is all error."""
    a = wanted.astype(np.float64)
    b = got.astype(np.float64) if got is not None and got.shape == wanted.shape else np.zeros_like(a)
    endless = np.isinf(a) | np.isinf(b)
    if (a != b)[endless].any():
        return float(np.square(np.where(np.isfinite(a), a, 0.0)).sum()), float("inf")
    a, b = (np.where(np.isfinite(v), v, 0.0) for v in (a, b))
    if inner and a.ndim > 1 and a.shape[-1] > 1:
        error = a - b
        return float(np.square(a).sum()), float(np.square(error - error.mean(axis=-1, keepdims=True)).sum())
    return float(np.square(a).sum()), float(np.square(a - b).sum())
