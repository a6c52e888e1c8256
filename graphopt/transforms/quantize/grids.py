"""Which tensors are quantized under a plan, which of them share a grid, and their scales and zero points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from graphopt.analysis.statistics import HistogramAccumulator
from graphopt.ir import Tensor, constant_value, is_constant
from graphopt.targets.base import Grid, Target
from graphopt.transforms.quantize.plan import Plan, skip_operands
from graphopt.transforms.quantize.ranges import Method, QuantParams, Range, Wish, find_range, quant_params
from graphopt.transforms.quantize.ranges_transfer import transfer_of
from graphopt.transforms.quantize.units import Unit

_JOIN_TOLERANCE = 2.0


@dataclass(frozen=True)
class QuantizedTensor:
    """A computed tensor that gets Q/DQ.

    ``readers`` are the (unit, operand position) that read it as integers. ``whole``: every reader sees the DQ,
    because the kernel that makes the tensor gives integers only.
    """

    tensor: Tensor
    readers: tuple[tuple[Unit, int], ...]
    whole: bool


def quantized_tensors(plan: Plan, target: Target) -> list[QuantizedTensor]:
    """The tensors that get Q/DQ under a plan, in graph order."""
    readers: dict[int, list[tuple[Unit, int]]] = {}
    tensors: dict[int, Tensor] = {}
    weighted = {id(t) for u in plan.integer if u.rule.kind == "compute" for t in u.variables}
    for unit in plan.integer:
        for position, tensor in unit.operands:
            if is_constant(tensor):
                continue
            if target.placement == "inputs" and unit.rule.kind == "pointwise":
                skips = skip_operands(unit, weighted)
                if not any(tensor is s for s in skips[:1]):
                    continue
            readers.setdefault(id(tensor), []).append((unit, position))
            tensors[id(tensor)] = tensor
    whole = {id(t): t for u in plan.integer if u.rule.output == "required" for t in u.outputs}
    tensors.update(whole)
    return [QuantizedTensor(t, tuple(readers.get(k, ())), k in whole) for k, t in tensors.items()]


@dataclass(frozen=True)
class Grids:
    """Scale and zero point of each quantized tensor by name, and how its range was found."""

    params: Mapping[str, QuantParams]
    ranges: Mapping[str, Range]


def choose_grids(
    plan: Plan,
    tensors: Sequence[QuantizedTensor],
    histograms: Mapping[str, HistogramAccumulator],
    grid: Grid,
    method: Method,
    ends: set[int],
    clipping: float = 1.0,
    trained: Mapping[str, QuantParams] | None = None,
    own: Mapping[str, Wish] | None = None,
) -> Grids:
    """Ranges for all quantized tensors; those that an operator only moves around share one.

    ``ends`` holds the ids of graph outputs, which are used as they are; ``clipping``: see ``find_range``; ``own``:
    what some tensors get instead, by name. ``trained``: grids that are kept, by tensor name; the widest
    where tensors share one.
    """
    method = "minmax" if grid.int_type.floating else method
    groups = _groups(plan, tensors, histograms)
    limits = {u.output.name: u.rule.range for u in plan.integer if u.rule.range is not None}
    nodes = {q.tensor.name: q.tensor for q in tensors}
    params: dict[str, QuantParams] = {}
    ranges: dict[str, Range] = {}
    for members in groups:
        fixed = [limits[n] for n in members if n in limits]
        known = [histograms[n] for n in members]
        bounds = fixed[0] if fixed and len(members) == len(fixed) else None
        function = transfer_of(nodes[members[0]], ends) if len(members) == 1 else None
        wish = max((own[n] for n in members if n in own), default=Wish(clipping)) if own else Wish(clipping)
        found = find_range(known, grid, method, bounds, function, wish.clipping)
        if bounds is None and wish.headroom != 1:
            found = replace(found, low=found.low * wish.headroom, high=found.high * wish.headroom)
        kept = [trained[n] for n in members if n in trained] if trained else []
        values = max(kept, key=lambda p: p.scale) if kept else quant_params(found.low, found.high, grid)
        for name in members:
            params[name], ranges[name] = values, found
    return Grids(params, ranges)


def constant_params(value_of: Tensor, grid: Grid) -> QuantParams:
    """Grid of a constant operand: its extremes."""
    value = constant_value(value_of)
    assert value is not None
    return quant_params(float(value.min()), float(value.max()), grid)


def _groups(
    plan: Plan, tensors: Sequence[QuantizedTensor], histograms: Mapping[str, HistogramAccumulator]
) -> list[list[str]]:
    names = [q.tensor.name for q in tensors]
    parent = {n: n for n in names}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for unit in plan.integer:
        if not unit.rule.shares_grid:
            continue
        for output in unit.outputs:
            for operand in unit.variables:
                if operand.name not in parent or output.name not in parent:
                    continue
                if unit.rule.kind == "join" and not _similar(histograms[operand.name], histograms[output.name]):
                    continue
                parent[root(operand.name)] = root(output.name)
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(root(name), []).append(name)
    return list(groups.values())


def _similar(part: HistogramAccumulator, whole: HistogramAccumulator) -> bool:
    """Whether a joined tensor fills its share of the joint range, so that sharing the grid costs it little."""
    extent = max(part.maximum, 0.0) - min(part.minimum, 0.0)
    joint = max(whole.maximum, 0.0) - min(whole.minimum, 0.0)
    return bool(np.isfinite(extent)) and joint <= _JOIN_TOLERANCE * extent
