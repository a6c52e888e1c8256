"""GatherND and ScatterND. Where the indices are known and run along the axes one by one, as a slice assignment is
exported, each indexed axis is followed like a slice; otherwise it stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from graphopt.analysis.labels.records import Kept
from graphopt.analysis.labels.site import Axes, Rule, Site
from graphopt.analysis.labels.space import Axis, Frozen
from graphopt.ir import Array

_WHY = "(indexed axis)"


@dataclass(frozen=True)
class _Column:
    """Indexed axis number ``column`` of the data: the positions that it takes, along axis ``along`` of the indices
    (None: one position everywhere)."""

    column: int
    along: int | None
    positions: Array


def _columns(indices: Array, extents: tuple[int, ...]) -> list[_Column | None]:
    """Each column that depends on one axis of the indices which no other column depends on; None for the others."""
    lead = indices.ndim - 1
    varies = [
        [j for j in range(lead) if bool((indices[..., c] != indices[..., c].take([0], axis=j)).any())]
        for c in range(indices.shape[-1])
    ]
    found: list[_Column | None] = []
    for c, axes in enumerate(varies):
        alone = len(axes) <= 1 and all(not set(axes) & set(other) for k, other in enumerate(varies) if k != c)
        if not alone:
            found.append(None)
            continue
        line = indices[(*(slice(None) if j in axes else 0 for j in range(lead)), c)]
        positions = np.where(line < 0, line + extents[c], line).reshape(-1).astype(np.int64)
        found.append(_Column(c, axes[0] if axes else None, positions))
    return found


def _known(site: Site, x: Axes) -> list[_Column | None] | None:
    """What is known of the indexed axes; None when nothing is."""
    indices = site.value(1)
    if indices is None or indices.ndim < 1 or indices.size == 0 or site.attr("batch_dims", 0):
        return None
    return _columns(indices, tuple(len(a) for a in x[: indices.shape[-1]]))


def _picked(site: Site, x: Axes, columns: list[_Column | None], lead: int) -> list[Axis | None]:
    """For each leading axis of the indices the labels that it runs over, None where it stays; freezes what must stay,
    and has the indices renumbered."""
    made: list[Axis | None] = [None] * lead
    for place, column in enumerate(columns):
        if column is None:
            site.freeze(x[place], _WHY)
        elif column.along is None:
            site.freeze(site.pick(x[place], column.positions[:1]), "(a single position is indexed)")
        else:
            made[column.along] = site.pick(x[place], column.positions)
            if not site.is_constant(1):
                site.equal(site.axes(1)[column.along], site.pick(x[place], column.positions))
    live = [(c, x[c.column]) for c in columns if c is not None and not isinstance(x[c.column], Frozen)]

    def make(old: Array, kept: Kept) -> Array:
        new = np.where(old < 0, old + np.array([len(a) for a in x[: old.shape[-1]]], old.dtype), old)
        for column, axis in live:
            if kept.changed(axis):
                new[..., column.column] = (np.cumsum(kept.mask(axis)) - 1)[new[..., column.column]]
        for column, axis in live:
            if kept.changed(axis) and column.along is not None:
                new = np.compress(kept.mask(axis)[column.positions], new, axis=column.along)
        return np.ascontiguousarray(new.astype(old.dtype))

    if live:
        site.fix_input(1, make)
    return made


def gather_nd(site: Site) -> None:
    """Trailing axes pass; leading axes of the output are those of the indices."""
    x = site.axes(0)
    depth, batch = site.shape(1)[-1], int(site.attr("batch_dims", 0))
    lead = len(site.shape(1)) - 1
    columns = _known(site, x)
    if columns is None:
        site.freeze_input(1, _WHY)
        for axis in x[: batch + depth]:
            site.freeze(axis, _WHY)
        found: list[Axis | None] = [None] * lead
    else:
        found = _picked(site, x, columns, lead)
        site.ignore(1)
    front = [site.stuck(e, _WHY) if a is None else a for a, e in zip(found, site.out(), strict=False)]
    site.emit([*front, *x[batch + depth :]])


def scatter_nd(site: Site) -> None:
    """Trailing axes go together with the updates; so do indexed ones that are followed."""
    x, updates = site.axes(0), site.axes(2)
    depth = site.shape(1)[-1]
    lead = len(site.shape(1)) - 1
    columns = _known(site, x)
    if columns is None:
        site.freeze_input(1, _WHY)
        for axis in x[:depth]:
            site.freeze(axis, _WHY)
        found: list[Axis | None] = [None] * lead
    else:
        found = _picked(site, x, columns, lead)
        site.ignore(1)
    for axis, mine in zip(updates[:lead], found, strict=True):
        if mine is None:
            site.freeze(axis, _WHY)
        else:
            site.equal(axis, mine)
    for one, other in zip(x[depth:], updates[lead:], strict=True):
        site.equal(one, other)
    site.emit(x)


ROWS: Mapping[str, Rule] = {"GatherND": gather_nd, "ScatterND": scatter_nd}
