"""Criteria: how important each unit is. A criterion is a function; a user's one is registered the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from graphopt.errors import UsageError
from graphopt.ir import Array, Node, Tensor, constant_value
from graphopt.transforms.selection_units import Units

Scores: TypeAlias = "npt.NDArray[np.float64]"


class Statistics(Protocol):
    """What activation-based criteria read; the calibration engine provides it."""

    def channel(self, tensor: Tensor, axis: int, kind: str) -> Array | None:
        """One number per position of ``axis``: ``kind`` is ``rms``, ``mean`` or ``variance``."""


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


def _input_statistic(part: Slice, statistics: Statistics | None, kind: str, name: str) -> Scores | None:
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
}
REDUCTIONS: Mapping[str, Callable[..., Any]] = {
    "sum": np.add,
    "mean": np.add,
    "max": np.maximum,
    "prod": np.multiply,
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
        found += [Slice(edges[0][0], edges[0][1], tensor, values, k, c) for k, c in cut]
    return found


def score(
    units: Units,
    criterion: Criterion,
    reduction: str = "sum",
    statistics: Statistics | None = None,
    seed: int = 0,
) -> Scores:
    """The importance of every class: ``criterion`` per weight axis, reduced over all axes that the class lies on.

    What a derived class (of a merged axis) is worth counts for each of its factors.
    """
    solution = units.coupling.solution
    number = len(solution.frozen)
    ufunc = REDUCTIONS.get(reduction)
    if ufunc is None:
        raise UsageError(f"unknown reduction {reduction!r}; choose one of {', '.join(REDUCTIONS)}")
    totals = np.full(number, 1.0 if reduction == "prod" else 0.0)
    counts = np.zeros(number)
    random = np.random.default_rng(seed)
    for part in slices(units):
        values = criterion(part, statistics, random)
        if values is None:
            continue
        own = np.zeros(number)
        np.add.at(own, part.classes, values)
        touched = np.unique(part.classes)
        totals[touched] = ufunc(totals[touched], own[touched])
        counts[touched] += 1
    for grid in solution.grids:
        for k, factor in enumerate(grid.factors):
            others = tuple(i for i in range(grid.merged.ndim) if i != k)
            np.add.at(totals, factor, totals[grid.merged].sum(axis=others))
            np.add.at(counts, factor, np.ones(len(factor)))
    return totals / np.maximum(counts, 1) if reduction == "mean" else totals


def find_criterion(name: str) -> Criterion:
    """A built-in criterion, or one of entry-point group ``graphopt.criteria``.

    Raises:
        UsageError: there is none of this name.
    """
    from importlib.metadata import entry_points

    if name in CRITERIA:
        return CRITERIA[name]
    others = {e.name: e for e in entry_points(group="graphopt.criteria")}
    if name in others:
        loaded: Criterion = others[name].load()
        return loaded
    raise UsageError(f"unknown criterion {name!r}; there are {', '.join([*CRITERIA, *sorted(others)])}")
