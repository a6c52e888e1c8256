"""Criteria: how important each unit is. A criterion is a function; a user's one is registered the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from graphopt.analysis.labels.site import EdgeKey
from graphopt.errors import UsageError
from graphopt.ir import Array, Node, Tensor, constant_value
from graphopt.transforms.prune.selection_units import Family, Units

Scores: TypeAlias = "npt.NDArray[np.float64]"
Kind: TypeAlias = Literal["rms", "mean", "variance", "zeros"]
Reduction: TypeAlias = Literal["sum", "mean", "max", "prod", "union"]


class Statistics(Protocol):
    """What activation-based criteria read; the calibration engine provides it."""

    def channel(self, tensor: Tensor, axis: int, kind: Kind) -> Array | None:
        """One number per position of ``axis``; ``zeros`` is the share of exact zeros."""


@dataclass(frozen=True)
class Slice:
    """One axis of one weight that a family cuts: its values, the axis, and which class lies at each position."""

    node: Node
    index: int
    tensor: Tensor
    values: Array
    axis: int
    classes: Array

    def rows(self) -> Array:
        """The values as [positions of the axis, everything else]."""
        return np.moveaxis(np.asarray(self.values, np.float32), self.axis, 0).reshape(len(self.classes), -1)


Criterion: TypeAlias = "Callable[[Slice, Statistics | None, np.random.Generator], Scores | None]"


def l1(part: Slice, statistics: Statistics | None, random: np.random.Generator) -> Scores:
    """Sum of magnitudes (Li et al. 2017)."""
    return np.asarray(np.abs(part.rows()).sum(1, dtype=np.float64))


def l2(part: Slice, statistics: Statistics | None, random: np.random.Generator) -> Scores:
    """Euclidean norm."""
    return np.asarray(np.sqrt(np.square(part.rows()).sum(1, dtype=np.float64)))


def random_order(part: Slice, statistics: Statistics | None, random: np.random.Generator) -> Scores:
    """Seeded random numbers."""
    return random.random(len(part.classes))


def bn_scale(part: Slice, statistics: Statistics | None, random: np.random.Generator) -> Scores | None:
    """|gamma| of BatchNormalization (Liu et al. 2017); other weights do not count."""
    if part.node.op != "BatchNormalization" or part.index != 1:
        return None
    return np.abs(np.asarray(part.values, np.float64))


def fpgm(part: Slice, statistics: Statistics | None, random: np.random.Generator) -> Scores | None:
    """Sum of distances to the other rows: what is near the geometric median can be replaced (He et al. 2019)."""
    rows = part.rows()
    if rows.shape[1] < 2:
        return None
    square = np.square(rows).sum(1, dtype=np.float64)
    distance = np.maximum(square[:, None] + square[None] - 2.0 * (rows @ rows.T), 0.0)
    return np.asarray(np.sqrt(distance).sum(1))


def lamp(part: Slice, statistics: Statistics | None, random: np.random.Generator) -> Scores:
    """Squared norm over the sum of all that are not smaller (Lee et al. 2021): comparable between layers."""
    square = np.square(part.rows()).sum(1, dtype=np.float64)
    order = np.argsort(square, kind="stable")
    tail = np.cumsum(square[order][::-1])[::-1]
    scores: Scores = np.empty_like(square)
    scores[order] = square[order] / np.maximum(tail, 1e-30)
    return scores


def weight_places(node: Node, rank: int) -> tuple[int, int] | None:
    """(produced, contracted) axis of the second operand of a product, or None for other operators."""
    match node.op:
        case "Conv":
            return 0, 1
        case "ConvTranspose":
            return 1, 0
        case "Gemm":
            return (0, 1) if node.attrs.get("transB") else (1, 0)
        case "MatMul" if rank >= 2:
            return rank - 1, rank - 2
    return None


def contracted_input(node: Node) -> int | None:
    """The axis of the first input that a product sums over."""
    if node.op == "Gemm" and node.attrs.get("transA"):
        return 0
    return {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": -1}.get(node.op)


def _input_statistic(part: Slice, statistics: Statistics | None, kind: Kind, name: str) -> Scores | None:
    """A statistic of the input channels that this slice multiplies, or None when it is no such slice."""
    if statistics is None:
        raise UsageError(f"criterion {name} needs calibration data; give --data or choose l1")
    places, axis = weight_places(part.node, part.values.ndim), contracted_input(part.node)
    if places is None or axis is None or part.index != 1 or part.axis != places[1]:
        return None
    found = statistics.channel(part.node.inputs[0], axis, kind)
    return None if found is None or len(found) != len(part.classes) else np.asarray(found, np.float64)


def wanda(part: Slice, statistics: Statistics | None, random: np.random.Generator) -> Scores | None:
    """|W| times the root mean square of the input channel (Sun et al. 2024), over the consumers of a channel."""
    found = _input_statistic(part, statistics, "rms", "wanda")
    return None if found is None else l1(part, statistics, random) * found


def fluctuation(part: Slice, statistics: Statistics | None, random: np.random.Generator) -> Scores | None:
    """Variance of the input channel times the squared norm of its weights (FLAP, An et al. 2024)."""
    found = _input_statistic(part, statistics, "variance", "fluctuation")
    return None if found is None else l2(part, statistics, random) ** 2 * found


def activation(part: Slice, statistics: Statistics | None, random: np.random.Generator) -> Scores | None:
    """Root mean square of the channel itself."""
    return _input_statistic(part, statistics, "rms", "activation")


def mean_activation(part: Slice, statistics: Statistics | None, random: np.random.Generator) -> Scores | None:
    """Magnitude of the channel's mean."""
    found = _input_statistic(part, statistics, "mean", "mean")
    return None if found is None else np.abs(found)


def variance(part: Slice, statistics: Statistics | None, random: np.random.Generator) -> Scores | None:
    """Variance of the channel: what hardly varies can be replaced by a bias."""
    return _input_statistic(part, statistics, "variance", "variance")


def apoz(part: Slice, statistics: Statistics | None, random: np.random.Generator) -> Scores | None:
    """One minus the average percentage of zeros of the channel (Hu et al. 2016)."""
    found = _input_statistic(part, statistics, "zeros", "apoz")
    return None if found is None else 1.0 - found


def reconstruction(part: Slice, statistics: Statistics | None, random: np.random.Generator) -> Scores | None:
    """Mean squared error of the consumer's output when this channel alone is missing: |W|^2 E[x^2] (as ThiNet, Luo et
    al. 2017, before compensation; ``recovery`` ranks by the error that is left after it)."""
    found = _input_statistic(part, statistics, "rms", "reconstruction")
    return None if found is None else l2(part, statistics, random) ** 2 * found**2


CRITERIA: Mapping[str, Criterion] = {
    "l1": l1,
    "l2": l2,
    "random": random_order,
    "bn_scale": bn_scale,
    "fpgm": fpgm,
    "lamp": lamp,
    "wanda": wanda,
    "fluctuation": fluctuation,
    "activation": activation,
    "mean": mean_activation,
    "variance": variance,
    "apoz": apoz,
    "reconstruction": reconstruction,
}
def slices(units: Units) -> list[Slice]:
    """All axes of float weights that some unit cuts."""
    found: list[Slice] = []
    solution = units.coupling.solution
    for tensor, axes, edges in units.coupling.weight_axes():
        cut = [
            (k, c)
            for k, a in enumerate(axes)
            if (c := solution.classes(a)) is not None and not solution.frozen[c].all()
        ]
        values = constant_value(tensor) if cut else None
        if values is None or values.dtype.kind not in "fV":
            continue
        node, index, order = _product_behind(edges[0], values.ndim)
        turned = values if order is None else np.transpose(values, order)
        found += [Slice(node, index, tensor, turned, k if order is None else order.index(k), c) for k, c in cut]
    return found


def _product_behind(edge: EdgeKey, rank: int) -> tuple[Node, int, list[int] | None]:
    """Behind a Transpose that only turns the weight: who reads it, at which input, and the order of the axes."""
    node, index = edge
    order: list[int] | None = None
    while node.is_op("Transpose", "Identity") and len(node.outputs[0].outputs) == 1:
        if node.op == "Transpose":
            turn = list(node.attrs.get("perm", range(rank)[::-1]))
            order = turn if order is None else [order[p] for p in turn]
        tensor = node.outputs[0]
        node = tensor.outputs[0]
        index = next(i for i, t in enumerate(node.inputs) if t is tensor)
    return node, index, order


def score(
    units: Units,
    criterion: Criterion,
    reduction: Reduction = "sum",
    statistics: Statistics | None = None,
    seed: int = 0,
) -> Scores:
    """The importance of every class: ``criterion`` per weight axis, reduced over all axes that the class lies on.

    ``union`` is the union of decisions: on each axis the classes are ranked, and a class is worth its lowest rank, so
    that what any one axis would remove first goes first. What a derived class (of a merged axis) is worth counts for
    each of its factors.

    Raises:
        UsageError: the criterion answers with something that is not one number per position.
    """
    if reduction not in get_args(Reduction):
        raise UsageError(f"unknown reduction {reduction!r}; choose one of {', '.join(get_args(Reduction))}")
    return _totals(units, criterion, reduction, statistics, seed)[0]


def _totals(
    units: Units, criterion: Criterion, reduction: Reduction, statistics: Statistics | None, seed: int
) -> tuple[Scores, Scores]:
    """The scores, and how many numbers each was made from."""
    number = len(units.coupling.solution.frozen)
    totals = np.full(number, {"prod": 1.0, "union": np.inf}.get(reduction, 0.0))
    counts = np.zeros(number)
    random = np.random.default_rng(seed)
    for part in slices(units):
        values = criterion(part, statistics, random)
        if values is None:
            continue
        own, touched = _per_class(part, np.asarray(values), number)
        if reduction == "union":
            own = _ranks(own[touched])
            totals[touched] = np.minimum(totals[touched], own)
        elif reduction == "max":
            totals[touched] = np.maximum(totals[touched], own[touched])
        elif reduction == "prod":
            totals[touched] *= own[touched]
        else:
            totals[touched] += own[touched]
        counts[touched] += 1
    _to_factors(units, totals, counts, reduction)
    if reduction == "mean":
        totals = totals / np.maximum(counts, 1)
    return np.where(counts > 0, totals, 0.0), counts


def score_all(
    units: Units,
    criterion: Criterion,
    reduction: Reduction = "sum",
    statistics: Statistics | None = None,
    seed: int = 0,
) -> tuple[Scores, list[Family]]:
    """As ``score``, with the families about which the criterion says nothing: those are ranked by ``l1``."""
    totals, counts = _totals(units, criterion, reduction, statistics, seed)
    silent = [f for f in units.families if not counts[f.classes].any()]
    if silent:
        other = score(units, l1, "sum")
        for family in silent:
            totals[family.classes] = other[family.classes]
    return totals, silent


def _per_class(part: Slice, values: Array, number: int) -> tuple[Scores, Array]:
    if values.shape != (len(part.classes),):
        raise UsageError(
            f"the criterion answers {values.shape} for {part.tensor.name!r}, expected one number for each of the "
            f"{len(part.classes)} positions of axis {part.axis}"
        )
    own = np.zeros(number)
    np.add.at(own, part.classes, values)
    return own, np.unique(part.classes)


def _ranks(values: Scores) -> Scores:
    """Ranks from 0 (the smallest) to 1."""
    ranks: Scores = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values)) / max(len(values) - 1, 1)
    return ranks


def _to_factors(units: Units, totals: Scores, counts: Scores, reduction: Reduction) -> None:
    """What the positions of a merged axis are worth counts for each of its factors."""
    for grid in units.coupling.solution.grids:
        for k, factor in enumerate(grid.factors):
            others = tuple(i for i in range(grid.merged.ndim) if i != k)
            values, seen = totals[grid.merged], counts[grid.merged].max(axis=others)
            if reduction == "union":
                np.minimum.at(totals, factor, values.min(axis=others))
            elif reduction == "max":
                np.maximum.at(totals, factor, values.max(axis=others))
            else:
                np.add.at(totals, factor, np.where(counts[grid.merged] > 0, values, 0.0).sum(axis=others))
            np.add.at(counts, factor, (seen > 0).astype(float))
