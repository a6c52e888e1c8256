"""Labels and the constraints between them.

Every position of every tensor axis has a label: a boolean unknown that is true when the position is removed. An axis
that can never change is ``Frozen`` instead. Operators say how labels hang together: two arrays are equal, an array is
frozen, or a *grid* holds: position (i, j, ...) of a merged axis is removed exactly if one of its factors is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Labels: TypeAlias = "npt.NDArray[np.int64]"
Axis: TypeAlias = "Labels | Frozen"


@dataclass(frozen=True, eq=False)
class Frozen:
    """An axis of ``extent`` positions none of which can be removed, and why."""

    extent: int
    reason: str

    def __len__(self) -> int:
        return self.extent


def one() -> Frozen:
    """An axis of extent 1."""
    return Frozen(1, "")


@dataclass(frozen=True, eq=False)
class Grid:
    """``merged[i, j, ...]`` = ``factors[0][i]`` or ``factors[1][j]`` or ...; ``reason`` names the node."""

    merged: Labels
    factors: tuple[Labels, ...]
    reason: str


@dataclass
class Space:
    """All labels made so far and everything that was said about them."""

    count: int = 0
    edges: list[tuple[Labels, Labels]] = field(default_factory=list)
    freezes: list[tuple[Labels, str]] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)

    def fresh(self, extent: int) -> Labels:
        """New labels, related to nothing."""
        labels = np.arange(self.count, self.count + extent, dtype=np.int64)
        self.count += extent
        return labels

    def freeze(self, axis: Axis, reason: str) -> None:
        """No position of ``axis`` may be removed."""
        if not isinstance(axis, Frozen) and len(axis):
            self.freezes.append((axis.reshape(-1), reason))

    def equal(self, first: Axis, second: Axis, reason: str = "") -> None:
        """Position i of both is removed together. Different extents cannot be related and freeze both."""
        if first is second:
            return
        if len(first) != len(second):
            self.freeze(first, reason)
            self.freeze(second, reason)
        elif isinstance(first, Frozen):
            self.freeze(second, first.reason or reason)
        elif isinstance(second, Frozen):
            self.freeze(first, second.reason or reason)
        else:
            self.edges.append((first, second))

    def join(self, first: Axis | None, second: Axis, reason: str = "") -> Axis:
        """Relate both and return the axis that stands for them."""
        if first is None:
            return second
        self.equal(first, second, reason)
        return first if isinstance(first, Frozen) else second if isinstance(second, Frozen) else first

    def merge(self, factors: Sequence[Axis], reason: str) -> Axis:
        """The axis that runs over all combinations of ``factors``, the last one fastest."""
        extents = [len(f) for f in factors]
        free = [k for k, f in enumerate(factors) if not isinstance(f, Frozen)]
        if not free:
            frozen = [f for f in factors if isinstance(f, Frozen)]
            why = next((f.reason for f in frozen if f.reason and f.extent > 1), reason)
            return Frozen(int(np.prod(extents, dtype=np.int64)), why)
        labels = [f for f in factors if not isinstance(f, Frozen)]
        if len(free) == 1:
            core = labels[0]
        else:
            core = self.fresh(int(np.prod([len(f) for f in labels], dtype=np.int64)))
            self.grids.append(Grid(core.reshape([len(f) for f in labels]), tuple(labels), reason))
        return _spread(core, extents, free)

    def split(self, axis: Axis, extents: Sequence[int], reason: str) -> list[Axis]:
        """The factors of ``axis`` as new axes of the given extents, the last one fastest."""
        if isinstance(axis, Frozen):
            return [one() if e == 1 else Frozen(e, axis.reason) for e in extents]
        factors: list[Axis] = [one() if e == 1 else self.fresh(e) for e in extents]
        self.relate(axis, factors, reason)
        return factors

    def relate(self, axis: Axis, factors: Sequence[Axis], reason: str) -> None:
        """``axis`` runs over all combinations of ``factors``."""
        if isinstance(axis, Frozen):
            for factor in factors:
                self.freeze(factor, axis.reason)
            return
        self.equal(axis, self.merge(factors, reason), reason)


def _spread(core: Labels, extents: Sequence[int], free: Sequence[int]) -> Labels:
    """``core`` (over the free factors) repeated over the frozen ones."""
    shape = [extents[k] if k in free else 1 for k in range(len(extents))]
    return np.ascontiguousarray(np.broadcast_to(core.reshape(shape), extents)).reshape(-1)


def reshape(space: Space, axes: Sequence[Axis], before: Sequence[int], after: Sequence[int], reason: str) -> list[Axis]:
    """The axes after a reshape from extents ``before`` to ``after``, both row-major.

    Axes are cut into the shortest groups with equal products; inside a group both sides are products of the same
    factors. A group whose extents have no common factors is frozen.
    """
    result: list[Axis | None] = [one() if e == 1 else None for e in after]
    for sources, targets in _groups(before, after):
        _regroup(space, [axes[i] for i in sources], [after[i] for i in targets], reason, result, targets)
    return [one() if axis is None else axis for axis in result]


def _groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    first = [i for i, e in enumerate(before) if e != 1]
    second = [i for i, e in enumerate(after) if e != 1]
    groups: list[tuple[list[int], list[int]]] = []
    while first and second:
        left, right = [first.pop(0)], [second.pop(0)]
        p, q = before[left[0]], after[right[0]]
        while p != q and (first or second):
            if p < q and first:
                left.append(first.pop(0))
                p *= before[left[-1]]
            elif second:
                right.append(second.pop(0))
                q *= after[right[-1]]
            else:
                break
        groups.append((left, right))
    return groups


def refine(first: Sequence[int], second: Sequence[int]) -> list[int] | None:
    """The coarsest list of factors of which both lists are products of neighbours, or None."""
    cuts = sorted(set(_cuts(first)) | set(_cuts(second)))
    if _cuts(first)[-1] != _cuts(second)[-1]:
        return None
    factors = []
    for low, high in zip([1, *cuts], cuts, strict=False):
        if high % low:
            return None
        factors.append(high // low)
    return [f for f in factors[::-1] if f != 1]


def _cuts(extents: Sequence[int]) -> list[int]:
    return [int(c) for c in np.cumprod(np.asarray(extents, np.int64)[::-1])]


def blocks(extents: Sequence[int], factors: Sequence[int]) -> list[list[int]]:
    """Which consecutive factors make up each extent."""
    made: list[list[int]] = []
    place = 0
    for extent in extents:
        block: list[int] = []
        product = 1
        while product < extent:
            product *= factors[place]
            block.append(place)
            place += 1
        made.append(block)
    return made


def _regroup(
    space: Space,
    sources: Sequence[Axis],
    extents: Sequence[int],
    reason: str,
    result: list[Axis | None],
    targets: Sequence[int],
) -> None:
    if len(sources) == len(extents) == 1 and len(sources[0]) == extents[0]:
        result[targets[0]] = sources[0]
        return
    sizes = [len(s) for s in sources]
    factors = refine(sizes, extents)
    if factors is None:
        for source in sources:
            space.freeze(source, f"{reason} (extents {sizes} and {list(extents)} have no common factors)")
        for target, extent in zip(targets, extents, strict=True):
            result[target] = Frozen(extent, reason)
        return
    atoms: list[Axis] = []
    for source, block in zip(sources, blocks(sizes, factors), strict=True):
        atoms += [source] if len(block) == 1 else space.split(source, [factors[k] for k in block], reason)
    for target, block in zip(targets, blocks(extents, factors), strict=True):
        parts = [atoms[k] for k in block]
        result[target] = parts[0] if len(parts) == 1 else space.merge(parts, reason)
