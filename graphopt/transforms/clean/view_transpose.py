"""A Transpose between two views, as one Transpose of the source."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.transforms.clean.facts import SymShape
from graphopt.transforms.clean.symbols import Extent


def transposed_source(source: SymShape, merged: SymShape, perm: Sequence[int]) -> list[int] | None:
    """Where a view of ``source`` only joins axes into ``merged``: the permutation of the axes of ``source`` that
    does what ``perm`` does to the joined ones. None where the view also cuts an axis.

    [B, H, S, D] seen as [B * H, S, D] with perm [0, 2, 1] is [0, 1, 3, 2].
    """
    groups = _groups(source, merged)
    return None if groups is None else [axis for place in perm for axis in groups[place]]


def _groups(source: SymShape, merged: SymShape) -> list[list[int]] | None:
    """The axes of ``source`` that each axis of ``merged`` joins; axes of extent 1 go with their left neighbour."""
    groups: list[list[int]] = []
    place = 0
    for extent in merged:
        group: list[int] = []
        total: Extent = 1
        while total != extent or (place < len(source) and source[place] == 1):
            if place == len(source):
                return None
            total = total * source[place]
            group.append(place)
            place += 1
        groups.append(group)
    return groups if place == len(source) else None
