"""What a family's narrowing does to the model's outputs, once the layers behind it have compensated as well.

The error database of OBC (Frantar and Alistarh 2022) and ZipLM (Kurtic et al. 2023) is made layer by layer, each with
its own compensation. What remains at the outputs after a whole recovery differs from that by factors that depend on
the place: most of what an early layer loses is made good by those behind it, while a layer with few rows loses more on
other samples than on its own. So each probe narrows one family, lets its readers compensate, fits the layers behind to
the reference as ``reconstruct`` does (linear fits on fewer samples), and is judged on samples that none of these saw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from graphopt.analysis.statistics import Channels, Window
from graphopt.data.feeds import Dataset
from graphopt.ir import Array, Node
from graphopt.model import Model
from graphopt.transforms.prune.selection_units import Family
from graphopt.transforms.recover.check import OutputJudge, held_back
from graphopt.transforms.recover.consumers import Reading
from graphopt.transforms.recover.elimination import DAMPING, Consumer, Elimination, compensated
from graphopt.transforms.recover.frontier import Frontier
from graphopt.transforms.recover.layers import layers_of
from graphopt.transforms.recover.plan import ReconstructionOptions
from graphopt.transforms.recover.reconstruction import reconstruct
from graphopt.transforms.recover.rows import HELD_PERIOD

_JUDGE_MACS = 1e10
_JUDGE_SAMPLES = (8, 256)
_REFIT_MACS = 8e11
_REFIT_SAMPLES = (40, 512)
_FEW_ROWS = 8
_NEAR = 0.04
_DAMPINGS = (DAMPING, 1e-3, 1e-2, 1e-1)
_FITS = ReconstructionOptions(
    ridges=(1e-4, 1e-2), rows_per_feature=8, least_rows=2048, most_rows=8192, most_features=1536, responses=False,
    chains=False,
)  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """A layer's group that reads a family: as a consumer, with the mean of each feature and the number of rows."""

    reading: Reading
    consumer: Consumer
    mean: Array
    rows: int


@dataclass(frozen=True)
class Curve:
    """A family with its order of removal; ``errors[j]`` is the error with ``j`` gone, at the outputs if measured.

    ``factors``: by removed units, error at the outputs over the family's own, where it was measured. ``direct`` and
    ``direct_factors``: the same when only the family's readers compensate, not the layers behind.
    """

    family: Family
    readers: tuple[Reader, ...]
    elimination: Elimination
    errors: Array
    factors: Mapping[int, float] = field(default_factory=dict)
    direct: Array | None = None
    direct_factors: Mapping[int, float] = field(default_factory=dict)

    def between(self, share: float) -> Array:
        """Errors between ``errors`` (0) and ``direct`` (1), evenly on a logarithmic scale."""
        if self.direct is None:
            return self.errors
        return np.asarray(np.maximum(self.errors, 0) ** (1 - share) * np.maximum(self.direct, 0) ** share)


def fitted_part(dataset: Dataset) -> Dataset:
    """The samples that ``held_back`` does not hold back; all of fewer than two."""
    count = len(dataset)
    last = count - 1 if count < HELD_PERIOD else -1
    chosen = [i for i in range(count) if i % HELD_PERIOD != HELD_PERIOD - 1 and i != last]
    return dataset.select(chosen or list(range(count)))


class Prober:
    """Measures single families of one model.

    Args:
        model: the intact model, which is the reference.
        dataset: calibration samples; the held-back ones judge, some of the others are fitted to.
        macs: of one sample.
        refits: how many probes will be made, about, behind which the layers compensate too; this bounds the samples of
            each. None do where it is 0, or the model too large.
        batch, threads, memory: as for ``reconstruct``.
    """

    def __init__(
        self, model: Model, dataset: Dataset, macs: float, refits: int, batch: int | None, threads: int, memory: int
    ) -> None:
        self._model, self._named = model, model.clone()
        for node in self._named.graph.nodes:
            node.name = f"{node.name}#{node.id}"
        held = held_back(dataset)
        count = int(min(max(_JUDGE_SAMPLES[0], _JUDGE_MACS / max(macs, 1.0)), _JUDGE_SAMPLES[1], len(held)))
        self._held = held.select(list(range(count)))
        self._judge = OutputJudge(model, self._held, batch, threads)
        self._options = replace(_FITS, batch=batch, threads=threads, max_memory=memory)
        self._samples = _refit_samples(model, dataset, macs, refits) if refits else None

    def measured(self, curves: Sequence[Curve], removed: Sequence[Sequence[int]]) -> list[Curve]:
        """The curves with the error at the outputs measured after these numbers of removed units as well."""
        options = self._options
        frontier = Frontier(self._model, self._held, options.batch, options.threads, options.max_memory // 2)
        result = list(curves)
        order = [i for i in _by_first_reader(self._model, curves) if len(removed[i])]
        for number, index in enumerate(order):
            frontier.advance([r.reading.layer.node for i in order[number:] for r in curves[i].readers])
            errors = {n: self.errors(curves[index], n, frontier) for n in removed[index]}
            result[index] = _with_errors(curves[index], errors)
        return result

    def error_of_all(self, curves: Sequence[Curve], removed: Sequence[int]) -> float:
        """Error at the outputs when every family does without so many units, and all layers compensate."""
        whole, readers = self._named, set[str]()
        for curve, count in zip(curves, removed, strict=True):
            if count:
                whole = _narrowed(whole, curve, curve.elimination.order[:count], DAMPING)
                readers.update(_first_output(r.reading.layer.node) for r in curve.readers)
        touched = frozenset(n.name for n in whole.graph.nodes if _first_output(n) in readers)
        if self._samples is not None and touched:
            options = replace(self._options, keep_zeros=True)
            reconstruct(whole, self._named, self._samples, _Itself, options, touched=touched)
        return self._judge.error(whole)

    def errors(self, curve: Curve, removed: int, frontier: Frontier | None = None) -> tuple[float, float]:
        """Errors at the outputs, relative to their variation, when a family does without its first units to go.

        First when only its readers compensate, then when the layers behind do as well. The model is run from the
        ``frontier`` on, which must lie in front of the family's readers.
        """
        gone = curve.elimination.order[:removed]
        few = any(r.rows < _FEW_ROWS * len(r.consumer.gram) for r in curve.readers)
        rest = self._model if frontier is None else frontier.rest()
        data = self._held if frontier is None else frontier.dataset

        def alone(damping: float) -> float:
            return self._judge.error_of_rest(_narrowed(rest, curve, gone, damping), data)

        error, damping = min((alone(d), d) for d in (_DAMPINGS if few else _DAMPINGS[:1]))
        if self._samples is None:
            return error, error
        whole = _narrowed(self._named, curve, gone, damping)
        nodes = {_first_output(n): n for n in whole.graph.nodes}
        readers = [nodes[_first_output(r.reading.layer.node)] for r in curve.readers]
        behind = frozenset(n.name for reader in readers for t in reader.outputs for n in t.outputs)
        reconstruct(whole, self._named, self._samples, _Itself, self._options, touched=behind)
        return error, min(error, self._judge.error(whole))


def _narrowed(model: Model, curve: Curve, removed: Array, damping: float) -> Model:
    """A clone whose readers of the family do without the removed units and have compensated."""
    clone = model.clone()
    nodes = {_first_output(n): n for n in clone.graph.nodes}
    for reader in curve.readers:
        reading, consumer = reader.reading, reader.consumer
        layers = layers_of(nodes[_first_output(reading.layer.node)])
        layer = next(lay for lay in layers if lay.half == reading.layer.half)
        matrix = layer.matrix()
        weights = compensated(consumer, removed, damping)
        if layer.has_bias:
            matrix[reading.group, -1] += reader.mean @ (consumer.weights - weights)
        matrix[reading.group, :-1] = weights
        layer.assign(clone.graph, matrix)
    return clone


def _refit_samples(model: Model, dataset: Dataset, macs: float, probes: int) -> Dataset | None:
    """As many samples as the work allows; None when those are too few for any fit."""
    layers = sum(isinstance(lay.patches, (Window, Channels)) for n in model.graph.nodes for lay in layers_of(n))
    runs = 2 + layers / 4
    part = fitted_part(dataset)
    count = int(min(_REFIT_MACS / max(macs * runs * probes, 1.0), _REFIT_SAMPLES[1], len(part)))
    if count < _REFIT_SAMPLES[0]:
        return None
    return part.select(np.unique(np.linspace(0, len(part) - 1, count).round().astype(int)).tolist())


def _with_errors(curve: Curve, errors: Mapping[int, tuple[float, float]]) -> Curve:
    """The curve with more errors at the outputs, direct ones first, by the number of units that are gone."""
    own = curve.elimination.errors
    direct, factors = dict(curve.direct_factors), dict(curve.factors)
    for count, pair in errors.items():
        for known, error in zip((direct, factors), pair, strict=True):
            known[count] = max(error / own[count], 1e-12) if own[count] > 0 and np.isfinite(error) else 1.0
    return replace(
        curve, errors=_scaled(own, factors), factors=factors, direct=_scaled(own, direct), direct_factors=direct
    )


def _scaled(own: Array, factors: Mapping[int, float]) -> Array:
    """A family's own errors in terms of those at the outputs.

    Between the widths that are measured the factors change evenly (on a logarithmic scale); a curve never falls.
    """
    places = sorted(factors)
    factor = np.exp(np.interp(np.arange(len(own)), places, [np.log(factors[p]) for p in places]))
    return np.asarray(np.maximum.accumulate(own * factor))


def _by_first_reader(model: Model, curves: Sequence[Curve]) -> list[int]:
    """Numbers of the curves in the order in which their first readers are computed."""
    place = {id(n): i for i, n in enumerate(model.graph.nodes)}
    first = [min(place[id(r.reading.layer.node)] for r in c.readers) for c in curves]
    return sorted(range(len(curves)), key=first.__getitem__)


def places_of(curve: Curve, shares: Sequence[float]) -> list[int]:
    """Numbers of units at which to measure a family first."""
    return sorted({max(1, round(len(curve.family) * share)) for share in shares})


def near_measured(curve: Curve, removed: int) -> bool:
    """Whether a width needs no measurement of its own: nothing removed, or measured nearby."""
    reach = max(1, round(_NEAR * len(curve.family)))
    return removed == 0 or any(abs(removed - place) <= reach for place in curve.factors)


@dataclass(frozen=True)
class _Itself:
    """Every tensor comes from the one of its name, whole."""

    tensor: str

    @property
    def kept(self) -> dict[int, Array]:
        """Nothing was removed."""
        return {}

    @property
    def scales(self) -> dict[int, Array]:
        """Nothing was scaled."""
        return {}


def _first_output(node: Node) -> str:
    return next((t.name for t in node.outputs if not t.is_empty()), "")
