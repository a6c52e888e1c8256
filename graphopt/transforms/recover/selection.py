"""Selection that knows about recovery: units by the error that remains after compensation, widths by a budget.

Every family of units gets an order and an error curve by block elimination on the Gram matrices of the layers that
read it (see ``elimination``). What a family's own error does to the model's outputs is measured at a few widths of each
family, with everything else intact. The budget is then spent over families by these curves (see ``allocation``).
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
from graphopt.ir import Array, Node
from graphopt.model import Model
from graphopt.transforms.prune.keepset import KeepSet
from graphopt.transforms.prune.selection import Budget, Policy, active_families, width_multiple
from graphopt.transforms.prune.selection_units import Family, Units
from graphopt.transforms.recover.allocation import Term, UnitClass, allocate
from graphopt.transforms.recover.check import OutputJudge, held_back
from graphopt.transforms.recover.consumers import Reading, find_readings
from graphopt.transforms.recover.elimination import Consumer, Elimination, compensated, eliminate
from graphopt.transforms.recover.frontier import Frontier
from graphopt.transforms.recover.layers import Layer, layers_of, with_limit
from graphopt.transforms.recover.least_squares import centred

_ROWS = 16384
_PROBE_MACS = 1e10
_PROBE_SAMPLES = (8, 128)


@dataclass(frozen=True)
class RecoveryOptions:
    """How to select.

    ``most_features``: layers with more are not looked at. ``probes``: shares of each family's units at whose removal
    the error at the outputs is measured (none: take all families alike).
    """

    most_features: int = 4608
    probes: tuple[float, ...] = (0.125, 0.25, 0.5, 0.75)
    batch: int | None = None
    threads: int = 1
    max_memory: int = 1 << 30


@dataclass(frozen=True)
class Curve:
    """A family with its order of removal; ``errors[j]`` is the error with ``j`` gone, at the outputs if measured."""

    family: Family
    readers: tuple[tuple[Reading, Consumer, Array], ...]
    elimination: Elimination
    errors: Array


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
    curves = error_curves(model, units, families, dataset, options, progress)
    terms = cost_terms(units, [c.family for c in curves], kind)
    if options.probes:
        curves = measured(model, units, curves, dataset, options)
    classes = [_unit_class(c, policy) for c in curves]
    widths = allocate(classes, terms, keep * sum(t.amount for t in terms))
    leaves = np.zeros(len(units.family_of), bool)
    for curve, width in zip(curves, widths, strict=True):
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
            readers.append(_consumer(reading, accumulator))
        if readers:
            chunk = max(1, len(family) // 64) if max(len(c.gram) for _, c, _ in readers) > 1024 else 1
            found = eliminate([c for _, c, _ in readers], chunk=chunk, units=len(family))
            curves.append(Curve(family, tuple(readers), found, found.errors))
    return curves


def _request(layer: Layer, limit: int) -> Request:
    return Request.of(layer.data.name, Gram(with_limit(layer, limit).patches))


def _consumer(reading: Reading, accumulator: GramAccumulator) -> tuple[Reading, Consumer, Array]:
    """The reader as a consumer, and the means of its features."""
    raw = accumulator.matrix[reading.group]
    count = max(accumulator.count, 1)
    gram = (centred(raw) if reading.layer.has_bias else raw[:-1, :-1]) / count
    weights = reading.layer.matrix()[reading.group, :-1]
    scale = max(float((weights * (gram @ weights)).sum()), 1e-30)
    mean = raw[-1, :-1] / count
    return reading, Consumer(gram, weights, reading.blocks, scale, reading.units), mean


def measured(
    model: Model, units: Units, curves: Sequence[Curve], dataset: Dataset, options: RecoveryOptions
) -> list[Curve]:
    """The curves in terms of the error at the outputs when only that family shrinks, and compensates.

    Between the widths that are measured the family's own error is scaled by factors that change evenly (on a
    logarithmic scale); a curve never falls.
    """
    macs = sum(c.macs() for c in units.coupling.record.costs) or 1.0
    least, most = _PROBE_SAMPLES
    held = held_back(dataset)
    count = int(min(max(least, _PROBE_MACS / macs), most, len(held)))
    held = held.select(list(range(count)))
    judge = OutputJudge(model, held, options.batch, options.threads)
    frontier = Frontier(model, held, options.batch, options.threads, options.max_memory // 2)
    result = list(curves)
    order = _by_first_reader(model, curves)
    for number, index in enumerate(order):
        curve = curves[index]
        frontier.advance([r.layer.node for i in order[number:] for r, _, _ in curves[i].readers])
        rest = frontier.rest()
        own, width = curve.elimination.errors, len(curve.family)
        places = sorted({max(1, round(width * share)) for share in options.probes})
        factors = []
        for removed in places:
            seen = judge.error_of_rest(_probe(rest, curve, curve.elimination.order[:removed]), frontier.dataset)
            factors.append(seen / own[removed] if own[removed] > 0 and np.isfinite(seen) else 1.0)
        factor = np.exp(np.interp(np.arange(width + 1), places, np.log(np.maximum(factors, 1e-12))))
        result[index] = replace(curve, errors=np.maximum.accumulate(own * factor))
    return result


def _by_first_reader(model: Model, curves: Sequence[Curve]) -> list[int]:
    """Numbers of the curves in the order in which their first readers are computed."""
    place = {id(n): i for i, n in enumerate(model.graph.nodes)}
    return sorted(range(len(curves)), key=lambda i: min(place[id(r.layer.node)] for r, _, _ in curves[i].readers))


def _probe(model: Model, curve: Curve, removed: Array) -> Model:
    """A clone whose readers of the family do without the removed units and have compensated."""
    clone = model.clone()
    nodes = {_first_output(n): n for n in clone.graph.nodes}
    for reading, consumer, mean in curve.readers:
        layers = layers_of(nodes[_first_output(reading.layer.node)])
        layer = next(lay for lay in layers if lay.half == reading.layer.half)
        matrix = layer.matrix()
        weights = compensated(consumer, removed)
        if layer.has_bias:
            matrix[reading.group, -1] += mean @ (consumer.weights - weights)
        matrix[reading.group, :-1] = weights
        layer.assign(clone.graph, matrix)
    return clone


def _first_output(node: Node) -> str:
    return next((t.name for t in node.outputs if not t.is_empty()), "")


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
