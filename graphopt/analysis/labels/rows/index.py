"""Gather, scatter, sort: indexed axes stay unless the indices are constants, the others pass."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphopt.analysis.labels.records import Kept
from graphopt.analysis.labels.site import Axes, Rule, Site
from graphopt.analysis.labels.space import Axis, Frozen
from graphopt.ir import Array


def gather(site: Site) -> None:
    """Constant 1-D indices pick labels and are renumbered; other indices keep the axis."""
    x = site.axes(0)
    place = int(site.attr("axis", 0)) % len(x)
    found, axis = site.value(1), x[place]
    rest = x[place + 1 :]
    if isinstance(axis, Frozen) or found is None or found.ndim > 1:
        site.freeze(axis, "(indexed at run time)" if found is None else "(indexed axis)")
        site.emit([*x[:place], *site.axes(1), *rest])
        return
    positions = np.where(found < 0, found + len(axis), found).astype(np.int64)
    picked = axis[positions.reshape(-1)]
    if found.ndim == 0:
        site.freeze(picked, "(a single position is read)")
        site.emit([*x[:place], *rest])
    else:
        made: Axis = picked if len(picked) > 1 else site.stuck(1)
        if len(picked) == 1:
            site.freeze(picked, "(a single position is read)")
        site.emit([*x[:place], made, *rest])

    def make(old: Array, kept: Kept) -> Array:
        mask = kept.mask(axis)
        if not kept.changed(axis):
            return old
        new = (np.cumsum(mask) - 1)[positions]
        return np.asarray(new if positions.ndim == 0 else new[mask[positions]], old.dtype)

    site.fix_input(1, make)


def _aligned(site: Site, others: range, place: int) -> Axes:
    """Axes but ``place`` go together over all inputs when extents agree, else stay."""
    x = site.axes(0)
    made: list[Axis] = []
    for k, axis in enumerate(x):
        if k == place:
            site.freeze(axis, "(indexed axis)")
            for index in others:
                site.freeze(site.axes(index)[k], "(indexed axis)")
            made.append(site.stuck(len(axis), "(indexed axis)"))
            continue
        for index in others:
            site.equal(axis, site.axes(index)[k])
        made.append(axis)
    return tuple(made)


def gather_elements(site: Site) -> None:
    """Output has the shape of the indices."""
    place = int(site.attr("axis", 0)) % len(site.shape(0))
    made = list(_aligned(site, range(1, 2), place))
    made[place] = site.stuck(site.out()[place], "(indexed axis)")
    site.emit(made)


def scatter_elements(site: Site) -> None:
    """Output has the shape of the data."""
    place = int(site.attr("axis", 0)) % len(site.shape(0))
    site.emit(_aligned(site, range(1, 3), place))


def top_k(site: Site) -> None:
    """The sorted axis stays."""
    x = site.axes(0)
    place = int(site.attr("axis", -1)) % len(x)
    site.freeze(x[place], "(sorted axis)")
    for index, tensor in enumerate(site.node.outputs):
        if not tensor.is_empty():
            made = list(x)
            made[place] = site.stuck(site.out(index)[place], "(sorted axis)")
            site.emit(made, index)


def one_hot(site: Site) -> None:
    """A new axis of classes; it stays."""
    place = int(site.attr("axis", -1)) % len(site.out())
    made = list(site.axes(0))
    made.insert(place, site.stuck(site.out()[place], "(classes)"))
    site.emit(made)


def reverse_sequence(site: Site) -> None:
    """Batch and time axes stay."""
    x = site.axes(0)
    for place in (int(site.attr("time_axis", 0)), int(site.attr("batch_axis", 1))):
        site.freeze(x[place], "(time or batch axis)")
    site.emit(x)


ROWS: Mapping[str, Rule] = {
    "Gather": gather,
    "GatherElements": gather_elements,
    "ScatterElements": scatter_elements,
    "Scatter": scatter_elements,
    "TopK": top_k,
    "OneHot": one_hot,
    "ReverseSequence": reverse_sequence,
}
