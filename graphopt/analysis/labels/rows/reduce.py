"""Reductions. Over a pruned axis they read the kept positions only; the mask says what a removed one must read as."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.analysis.labels.records import Fill
from graphopt.analysis.labels.site import Rule, Site
from graphopt.analysis.opnames import ops

_FILLS: Mapping[str, Fill] = {
    "ReduceMax": "low",
    "ReduceMin": "high",
    "ReduceProd": "one",
    "ReduceLogSumExp": "low",
}


def reduce(site: Site) -> None:
    """Axes from the attribute or the second input; none means all, unless ``noop_with_empty_axes``."""
    x = site.axes(0)
    axes = site.attr("axes")
    if axes is None and site.has(1):
        found = site.value(1)
        if found is None:
            site.freeze_all("(axes known only at run time)")
            return
        axes = found.tolist()
    if not axes:
        if site.attr("noop_with_empty_axes", 0):
            site.emit(x)
            return
        axes = range(len(x))
    over = {int(a) % len(x) for a in axes}
    for axis in over:
        site.mask(0, axis, _FILLS.get(site.node.op, "zero"))
    if site.node.op == "ReduceMean":
        site.mean([x[a] for a in over])
    keep = bool(site.attr("keepdims", 1))
    site.emit([site.stuck(1) if i in over else a for i, a in enumerate(x) if keep or i not in over])


def arg(site: Site) -> None:
    """ArgMax, ArgMin: the axis is a set of classes and stays."""
    x = site.axes(0)
    axis = int(site.attr("axis", 0)) % len(x)
    site.freeze(x[axis], "(positions on it are the result)")
    keep = bool(site.attr("keepdims", 1))
    site.emit([site.stuck(1) if i == axis else a for i, a in enumerate(x) if keep or i != axis])


def cumsum(site: Site) -> None:
    """A running sum over kept positions differs; the axis stays."""
    x = site.axes(0)
    axis = site.value(1) if site.node.op in ("CumSum", "CumProd") else None
    if axis is None:
        site.freeze_all("(axis known only at run time)")
        return
    site.freeze(x[int(axis.reshape(-1)[0])], "(running sum over it)")
    site.emit(x)


_REDUCE = ops(
    "ReduceMean ReduceSum ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceProd ReduceSumSquare ReduceLogSum ReduceLogSumExp"
)

ROWS: Mapping[str, Rule] = {
    **dict.fromkeys(_REDUCE, reduce),
    "ArgMax": arg,
    "ArgMin": arg,
    "CumSum": cumsum,
    "CumProd": cumsum,
}
