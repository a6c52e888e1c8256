"""Ranges by the noise that they make at the outputs: for the units that hurt most, each way to find them is tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphopt.transforms.quantize.grids import Grids
from graphopt.transforms.quantize.ranges import Wish
from graphopt.transforms.quantize.sensitivity import Alone, Sensitivity


def choose_ranges(
    alone: Alone, ranking: Sequence[Sensitivity], grids: Mapping[Wish, Grids], start: Wish, allowed: float
) -> tuple[dict[str, Wish], list[Sensitivity]]:
    """How to find the ranges of the tensors of the noisiest units, by name, and the ranking with them.

    Args:
        ranking: units with their noise when all tensors get ``start``, the noisiest first.
        grids: those of each wish that is tried.
        allowed: noise of all units together that is good enough; a unit with less than its share of it is left alone.

    A tensor between two units gets what the noisier one wants.
    """
    share = allowed / max(len(ranking), 1)
    wishes: dict[str, Wish] = {}
    found = []
    for item in ranking:
        best, least = start, item.noise
        if item.noise > share:
            for wish in grids:
                if wish != start and (noise := alone.noise({item.node_id}, grids[wish])) < least:
                    best, least = wish, noise
            for name in alone.tensors({item.node_id}, grids[start]):
                wishes.setdefault(name, best)
        found.append(Sensitivity(item.node, item.node_id, least))
    return wishes, sorted(found, key=lambda s: -s.noise)
