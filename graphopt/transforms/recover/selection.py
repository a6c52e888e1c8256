"""Selection that knows about recovery: units by the error that remains after compensation, widths by a budget.

Every family of units gets an order and an error curve by block elimination on the Gram matrices of the layers that
read it (see ``elimination``). What a family's own error does to the model's outputs is measured at a few widths of each
family, with everything else intact and the layers behind compensating (see ``probing``). The budget is then spent over
families by these curves (see ``allocation``); widths chosen away from measured ones are measured in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod

import numpy as np

from graphopt.analysis.labels import Axis, Frozen
from graphopt.analysis.statistics import Gram, GramAccumulator, ProgressCallback, Request, collect
from graphopt.data.feeds import Dataset, count_samples
from graphopt.ir import Array
from graphopt.model import Model
from graphopt.transforms.prune.keepset import KeepSet
from graphopt.transforms.prune.selection import Budget, Policy, active_families, width_multiple
from graphopt.transforms.prune.selection_units import Family, Units
from graphopt.transforms.recover.allocation import Term, UnitClass, allocate
from graphopt.transforms.recover.consumers import Reading, find_readings
from graphopt.transforms.recover.elimination import Consumer, eliminate
from graphopt.transforms.recover.layers import Layer, with_limit
from graphopt.transforms.recover.least_squares import centred
from graphopt.transforms.recover.probing import Curve, Prober, Reader, fitted_part, near_measured, places_of

_ROWS = 16384
_ROUNDS = 4
_DIRECT_SHARES = (0.5, 1.0)


@dataclass(frozen=True)
class RecoveryOptions:
    """How to select.

    ``most_features``: layers with more are not looked at. ``probes``: shares of each family's units at whose removal
    the error at the outputs is measured (none: take all families alike). ``refit``: the layers behind compensate
    before it is measured.
    """

    most_features: int = 4608
    probes: tuple[float, ...] = (0.3, 0.6)
    refit: bool = True
    batch: int | None = None
    threads: int = 1
    max_memory: int = 1 << 30


def by_recovery(
    model: Model,
    units: Units,
    policy: Policy,
    kind: Budget,
    keep: float,
    dataset: Dataset,
    options: RecoveryOptions | None = None,
    progress: ProgressCallback | None = None,
) -> KeepSet:
    """At most ``keep`` (a share) of the MACs, parameters or bytes, with the smallest error after compensation.

    ``model`` holds the graph that ``units`` were found in; it is not changed. Families that no layer with a Gram
    matrix reads keep their width.

    Raises:
        BudgetError: the budget cannot be reached.
    """
    options = options or RecoveryOptions()
    families = active_families(units, replace(policy, ratio=min(1.0 - keep, policy.max_ratio)))
    curves = error_curves(model, units, families, fitted_part(dataset), options, progress)
    leaves = np.zeros(len(units.family_of), bool)
    for curve, width in _allocate(model, units, curves, policy, kind, keep, dataset, options):
        gone = curve.elimination.order[: len(curve.family) - width]
        leaves[curve.family.classes[gone]] = True
    return KeepSet.removing(units.coupling, leaves)


def error_curves(
    model: Model,
    units: Units,
    families: list[Family],
    dataset: Dataset,
    options: RecoveryOptions,
    progress: ProgressCallback | None = None,
) -> list[Curve]:
    """Order and error curve of every family that some layer reads; errors relative to each layer's own output."""
    readings = find_readings(units, families, options.most_features)
    samples = max(1, count_samples(dataset))
    limit = max(1, -(-_ROWS // samples))
    requests = {r.layer.weight: _request(r.layer, limit) for found in readings.values() for r in found}
    grams = collect(
        model, dataset, requests.values(), batch=options.batch, threads=options.threads,
        max_memory=options.max_memory, progress=progress,
    ) if requests else {}  # fmt: skip
    curves = []
    for family in families:
        readers = []
        for reading in readings[family.number]:
            accumulator = grams[requests[reading.layer.weight]]
            assert isinstance(accumulator, GramAccumulator)
            readers.append(_reader(reading, accumulator))
        if readers:
            chunk = max(1, len(family) // 64) if max(len(r.consumer.gram) for r in readers) > 1024 else 1
            found = eliminate([r.consumer for r in readers], chunk=chunk, units=len(family))
            curves.append(Curve(family, tuple(readers), found, found.errors))
    return curves


def _request(layer: Layer, limit: int) -> Request:
    return Request.of(layer.data.name, Gram(with_limit(layer, limit).patches))


def _reader(reading: Reading, accumulator: GramAccumulator) -> Reader:
    raw = accumulator.matrix[reading.group]
    count = max(accumulator.count, 1)
    gram = (centred(raw) if reading.layer.has_bias else raw[:-1, :-1]) / count
    weights = reading.layer.matrix()[reading.group, :-1]
    scale = max(float((weights * (gram @ weights)).sum()), 1e-30)
    mean = raw[-1, :-1] / count
    return Reader(reading, Consumer(gram, weights, reading.blocks, scale, reading.units), mean, int(accumulator.count))


def measured(
    model: Model, units: Units, curves: Sequence[Curve], dataset: Dataset, options: RecoveryOptions
) -> list[Curve]:
    """The curves in terms of the error at the outputs when only that family shrinks."""
    prober = _prober(model, units, curves, dataset, options)
    return prober.measured(curves, [places_of(c, options.probes) for c in curves])


def _prober(model: Model, units: Units, curves: Sequence[Curve], dataset: Dataset, options: RecoveryOptions) -> Prober:
    macs = sum(c.macs() for c in units.coupling.record.costs) or 1.0
    count = len(curves) * (len(options.probes) + 1)
    return Prober(
        model, dataset, macs, count if options.refit else 0, options.batch, options.threads, options.max_memory
    )


def _allocate(
    model: Model,
    units: Units,
    curves: list[Curve],
    policy: Policy,
    kind: Budget,
    keep: float,
    dataset: Dataset,
    options: RecoveryOptions,
) -> list[tuple[Curve, int]]:
    """A width for each curve. Widths that are chosen away from measured ones are measured, and chosen again.

    Curves behind which other layers compensated are too low where many layers shrink at once, those of the readers
    alone too high: of the widths by either, and by what is between, those stay whose error is smallest with everything
    narrowed and fitted.
    """
    terms = cost_terms(units, [c.family for c in curves], kind)
    budget = keep * sum(t.amount for t in terms)
    prober = _prober(model, units, curves, dataset, options) if options.probes and curves else None
    if prober is not None:
        curves = prober.measured(curves, [places_of(c, options.probes) for c in curves])
    for rest in reversed(range(_ROUNDS)):
        widths = allocate([_unit_class(c, policy) for c in curves], terms, budget)
        far = [[] if near_measured(c, g) else [g] for c, g in zip(curves, _gone(curves, widths), strict=True)]
        if prober is None or not rest or not any(far):
            break
        curves = prober.measured(curves, far)
    if prober is not None and options.refit:
        candidates = [widths]
        for share in _DIRECT_SHARES:
            between = [_unit_class(replace(c, errors=c.between(share)), policy) for c in curves]
            candidates.append(allocate(between, terms, budget))
        if any(c != widths for c in candidates):
            widths = min(candidates, key=lambda w: prober.error_of_all(curves, _gone(curves, w)))
    return list(zip(curves, widths, strict=True))


def _gone(curves: Sequence[Curve], widths: Sequence[int]) -> list[int]:
    return [len(c.family) - w for c, w in zip(curves, widths, strict=True)]


def _unit_class(curve: Curve, policy: Policy) -> UnitClass:
    width = len(curve.family)
    widths = allowed_widths(width, policy)
    return UnitClass(width, widths, curve.errors[width - widths])


def allowed_widths(width: int, policy: Policy) -> Array:
    """Widths that a family may have: multiples of the alignment (any, for a narrow family), and its own."""
    multiple = width_multiple(width, policy.align)
    least = max(policy.minimum, 1, int(np.ceil(width * (1.0 - policy.max_ratio))))
    widths = np.arange(multiple, width + 1, multiple)
    return np.unique(np.append(widths[widths >= least], width))


def cost_terms(units: Units, families: Sequence[Family], kind: Budget) -> list[Term]:
    """The model's cost as a sum of products of family widths, in the order of ``families``."""
    solution = units.coupling.solution
    affected = np.zeros((len(families), len(solution.frozen)), bool)
    for index, family in enumerate(families):
        leaves = np.zeros(len(solution.frozen), bool)
        leaves[family.classes] = True
        affected[index] = solution.removed(leaves)
    totals: dict[tuple[int, ...], float] = {}
    for scale, axes in _costs(units, kind):
        for parts in product(*(_parts(units, axis, affected) for axis in axes)):
            key = tuple(sorted(c for _, classes in parts for c in classes))
            totals[key] = totals.get(key, 0.0) + scale * prod(count for count, _ in parts)
    return [Term(amount, classes) for classes, amount in totals.items()]


def _costs(units: Units, kind: Budget) -> list[tuple[float, tuple[Axis, ...]]]:
    if kind == "macs":
        return [(c.scale, tuple(c.axes)) for c in units.coupling.record.costs]
    found = {t: axes for t, axes, _ in units.coupling.weight_axes()}
    return [
        (1.0 if kind == "params" else float(np.dtype(t.dtype).itemsize) if t.dtype is not None else 4.0, axes)
        for t, axes in found.items()
    ]


def _parts(units: Units, axis: Axis, affected: Array) -> list[tuple[int, tuple[int, ...]]]:
    """Positions of an axis by the families that shrink them: (how many, which)."""
    classes = None if isinstance(axis, Frozen) else units.coupling.solution.classes(axis)
    if classes is None or not len(affected):
        return [(len(axis), ())]
    columns, counts = np.unique(affected[:, classes], axis=1, return_counts=True)
    return [
        (int(count), tuple(np.flatnonzero(column).tolist())) for column, count in zip(columns.T, counts, strict=True)
    ]


def recovery_scores(
    model: Model,
    units: Units,
    policy: Policy,
    dataset: Dataset,
    others: Array,
    options: RecoveryOptions | None = None,
    progress: ProgressCallback | None = None,
) -> Array:
    """A score a class for selection by ratio: the family's error once the unit is gone, all before it gone as well.

    Families that no layer with a Gram matrix reads keep the scores of ``others``.
    """
    options = options or RecoveryOptions()
    scores = np.array(others, np.float64)
    for curve in error_curves(model, units, active_families(units, policy), dataset, options, progress):
        order = curve.family.classes[curve.elimination.order]
        scores[order] = curve.elimination.errors[1:] + 1e-12 * np.arange(1, len(order) + 1)
    return scores
