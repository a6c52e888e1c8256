"""From constraints to units: equal labels become classes, grids are closed, what is frozen spreads.

Vectorised: one connected-components call per round, a few rounds. The result satisfies every constraint for every
choice of leaf classes: a leaf is a class that no grid derives, a derived class is removed when one of its factors is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from graphopt.analysis.labels.space import Axis, Frozen, Grid, Labels, Space, blocks, refine
from graphopt.errors import GraphoptError

Bools: TypeAlias = "npt.NDArray[np.bool_]"
Edges: TypeAlias = "list[tuple[Labels, Labels]]"
T = TypeVar("T", bound=np.generic)
_ROUNDS = 60


@dataclass
class Solution:
    """Classes of labels.

    ``class_of[label]`` is a class. ``frozen[class]``: it stays; ``reason_of(class)`` says why. ``leaf[class]``: it
    can be removed on its own. ``grids`` give the derived classes.
    """

    class_of: Labels
    frozen: Bools
    leaf: Bools
    grids: list[Grid]
    _reason: Labels = field(default_factory=lambda: np.zeros(0, np.int64))
    _reasons: list[str] = field(default_factory=list)

    def classes(self, axis: Axis) -> Labels | None:
        """The class at each position, or None for a frozen axis."""
        return None if isinstance(axis, Frozen) else self.class_of[axis]

    def reason_of(self, number: int) -> str:
        """Why a class is frozen ("" when it is not)."""
        index = int(self._reason[number])
        return "" if index < 0 else self._reasons[index]

    def removed(self, leaves: Bools) -> Bools:
        """All classes that are removed when the marked leaf classes are."""
        removed = leaves & self.leaf
        changed = True
        while changed:
            changed = False
            for grid in self.grids:
                hit = removed[grid.merged]
                new = hit | _any_factor(grid, removed)
                if bool((new != hit).any()):
                    removed[grid.merged[new]] = True
                    changed = True
        if bool((removed & self.frozen).any()):
            raise GraphoptError("a frozen class would be removed; this is a bug in an operator's label rule")
        return removed


def _any_factor(grid: Grid, flags: Bools) -> Bools:
    out: Bools = np.zeros(grid.merged.shape, bool)
    for k, factor in enumerate(grid.factors):
        out |= _along(flags[factor], k, grid.merged.ndim)
    return out


def _along(values: npt.NDArray[T], axis: int, rank: int) -> npt.NDArray[T]:
    return values.reshape([-1 if k == axis else 1 for k in range(rank)])


def _live_number(live: Sequence[Bools], shape: tuple[int, ...]) -> Labels:
    """At each position of a grid, how many of its factors are not frozen."""
    number: Labels = np.zeros(shape, np.int64)
    for k, flags in enumerate(live):
        number += _along(flags, k, len(shape))
    return number


def solve(space: Space) -> Solution:
    """The classes of ``space``."""
    return _Solver(space).run()


class _Solver:
    def __init__(self, space: Space) -> None:
        self.edges: Edges = list(space.edges)
        self.freezes = list(space.freezes)
        self.grids = list(space.grids)
        self.count = space.count
        self.reasons: dict[str, int] = {}
        self.dropped: set[int] = set()
        self.classes = np.zeros(0, np.int64)
        self.frozen: Bools = np.zeros(0, bool)
        self.why = np.zeros(0, np.int64)

    def run(self) -> Solution:
        for _ in range(_ROUNDS):
            self._components()
            if self._spread():
                continue
            if not self._unify():
                break
        else:
            self._give_up()
        return self._solution()

    # -- one round -----------------------------------------------------------------------------------------------

    def _components(self) -> None:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        if self.edges:
            a = np.concatenate([e[0].reshape(-1) for e in self.edges])
            b = np.concatenate([e[1].reshape(-1) for e in self.edges])
            self.edges = [(a, b)]
        else:
            a = b = np.zeros(0, np.int64)
        graph = coo_array((np.ones(len(a), np.int8), (a, b)), shape=(self.count, self.count))
        number, classes = connected_components(graph, directed=False) if self.count else (0, np.zeros(0))
        self.classes = classes.astype(np.int64)
        self.frozen = np.zeros(number, bool)
        self.why = np.full(number, np.iinfo(np.int64).max, np.int64)
        for labels, reason in self.freezes:
            found = self.classes[labels]
            self.frozen[found] = True
            index = self.reasons.setdefault(reason, len(self.reasons))
            np.minimum.at(self.why, found, index)

    def _spread(self) -> bool:
        """Freeze factors of what is frozen; a grid with one live factor is an equality. Whether anything is new."""
        names = list(self.reasons)
        edges: Edges = []
        freezes: list[tuple[Labels, str]] = []
        for grid in self.grids:
            merged = self.classes[grid.merged]
            factors = [self.classes[f] for f in grid.factors]
            stuck = self.frozen[merged]
            live = [~self.frozen[f] for f in factors]
            if stuck.any():
                for k, labels in enumerate(grid.factors):
                    others = tuple(i for i in range(merged.ndim) if i != k)
                    hit = stuck.any(axis=others) & live[k]
                    if hit.any():
                        source = merged[stuck][0]
                        freezes.append((labels[hit], names[self.why[source]]))
            number = _live_number(live, merged.shape)
            none = (number == 0) & ~stuck
            if none.any():
                cause = factors[0][0]
                reason = names[self.why[cause]] if self.frozen[cause] else grid.reason
                freezes.append((grid.merged[none], reason))
            single = self._single(factors, live, number, merged.ndim)
            for k, labels in enumerate(grid.factors):
                pick = single & _along(live[k], k, merged.ndim)
                differs = pick & (merged != _along(factors[k], k, merged.ndim))
                if differs.any():
                    spread = np.broadcast_to(_along(labels, k, merged.ndim), merged.shape)
                    edges.append((grid.merged[differs], spread[differs]))
        self.edges += edges
        self.freezes += freezes
        return bool(edges or freezes)

    def _single(self, factors: list[Labels], live: list[Bools], number: Labels, rank: int) -> Bools:
        """Positions whose live factors are all one class."""
        low: Labels = np.full(number.shape, np.iinfo(np.int64).max)
        high: Labels = np.full(number.shape, -1)
        for k, factor in enumerate(factors):
            low = np.minimum(low, _along(np.where(live[k], factor, np.iinfo(np.int64).max), k, rank))
            high = np.maximum(high, _along(np.where(live[k], factor, -1), k, rank))
        single: Bools = (number >= 1) & (low == high)
        return single

    # -- several grids over the same classes -----------------------------------------------------------------------

    def _derived(self, grid: Grid) -> Bools:
        factors = [self.classes[f] for f in grid.factors]
        live = [~self.frozen[f] for f in factors]
        number = _live_number(live, grid.merged.shape)
        return (number >= 1) & ~self._single(factors, live, number, grid.merged.ndim)

    def _keys(self, grid: Grid, salt: Labels) -> Labels:
        """A number per position that depends on the set of live factor classes."""
        key: Labels = np.zeros(grid.merged.shape, np.int64)
        for k, factor in enumerate(grid.factors):
            found = self.classes[factor]
            part = np.where(self.frozen[found], 0, salt[found])
            key = key + _along(part, k, grid.merged.ndim)
        return key

    def _conflicts(self) -> list[tuple[int, int]]:
        """Pairs of grids that derive the same class from different factors."""
        salt = np.random.default_rng(0).integers(1 << 20, 1 << 60, max(len(self.frozen), 1))
        columns: list[tuple[Labels, Labels, Labels]] = []
        for index, grid in enumerate(self.grids):
            where = self._derived(grid)
            if where.any():
                merged = self.classes[grid.merged][where]
                columns.append((merged, self._keys(grid, salt)[where], np.full(len(merged), index)))
        if not columns:
            return []
        classes, keys, owner = (np.concatenate(c) for c in zip(*columns, strict=True))
        order = np.lexsort((owner, classes))
        classes, keys, owner = classes[order], keys[order], owner[order]
        bad = (classes[1:] == classes[:-1]) & (keys[1:] != keys[:-1])
        pairs = np.stack([owner[:-1][bad], owner[1:][bad]], 1)
        return [(int(a), int(b)) for a, b in np.unique(pairs, axis=0)] if len(pairs) else []

    def _unify(self) -> bool:
        pairs = self._conflicts()
        stubborn: list[tuple[int, int]] = []
        done: set[int] = set()
        for first, second in pairs:
            if first in done or second in done:
                continue
            if self._same(first, second) or self._aligned(first, second):
                done |= {first, second}
            else:
                stubborn.append((first, second))
        if self.dropped:
            self.grids = [g for i, g in enumerate(self.grids) if i not in self.dropped]
            self.dropped = set()
        if done:
            return True
        if stubborn:
            self._reduce(sorted({g for pair in stubborn for g in pair}))
        return bool(pairs)

    def _same(self, first: int, second: int) -> bool:
        """Two grids over one and the same axis: both become products of their common factors."""
        a, b = self.grids[first], self.grids[second]
        if first == second or a.merged.size != b.merged.size:
            return False
        if not np.array_equal(self.classes[a.merged].reshape(-1), self.classes[b.merged].reshape(-1)):
            return False
        sizes = refine(a.merged.shape, b.merged.shape)
        if sizes is None:
            return False
        first_blocks, second_blocks = blocks(a.merged.shape, sizes), blocks(b.merged.shape, sizes)
        atoms: list[Labels | None] = [None] * len(sizes)
        for grid, parts in ((a, first_blocks), (b, second_blocks)):
            for factor, block in zip(grid.factors, parts, strict=True):
                if len(block) > 1:
                    continue
                seen = atoms[block[0]]
                if seen is None:
                    atoms[block[0]] = factor
                else:
                    self.edges.append((seen, factor))
        for k, size in enumerate(sizes):
            if atoms[k] is None:
                atoms[k] = np.arange(self.count, self.count + size)
                self.count += size
        known = [x for x in atoms if x is not None]
        for grid, parts in ((a, first_blocks), (b, second_blocks)):
            for factor, block in zip(grid.factors, parts, strict=True):
                if len(block) > 1:
                    shape = [sizes[k] for k in block]
                    self.grids.append(Grid(factor.reshape(shape), tuple(known[k] for k in block), grid.reason))
        fine = Grid(a.merged.reshape(sizes), tuple(known), a.reason)
        self.grids[first] = fine
        self.dropped.add(second)
        self.edges.append((a.merged.reshape(-1), b.merged.reshape(-1)))
        return True

    def _aligned(self, first: int, second: int) -> bool:
        """Grids that share some classes and have the same inner extents, at the same inner places."""
        a, b = self.grids[first], self.grids[second]
        if a.merged.ndim != b.merged.ndim or a.merged.shape[1:] != b.merged.shape[1:]:
            return False
        left, right = self.classes[a.merged].reshape(-1), self.classes[b.merged].reshape(-1)
        common, i, j = np.intersect1d(left, right, return_indices=True)
        inner = int(np.prod(a.merged.shape[1:]))
        if not len(common) or not np.array_equal(i % inner, j % inner) or len(np.unique(left)) != left.size:
            return False
        here, there = np.unravel_index(i, a.merged.shape), np.unravel_index(j, b.merged.shape)
        new: Edges = [(x[p], y[q]) for x, y, p, q in zip(a.factors, b.factors, here, there, strict=True)]
        if all(np.array_equal(self.classes[x], self.classes[y]) for x, y in new):
            return False
        self.edges += new
        return True

    def _reduce(self, indices: Sequence[int]) -> None:
        """Grids that do not fit together keep one factor each; the rest is frozen. Keeps what leaves more units."""
        best: tuple[int, list[tuple[Labels, str]]] | None = None
        for choose_last in (True, False):
            trial = _Solver.__new__(_Solver)
            trial.__dict__.update(self.__dict__)
            frozen = list(self._frozen_by(indices, choose_last))
            trial.edges, trial.freezes = list(self.edges), [*self.freezes, *frozen]
            trial.reasons = dict(self.reasons)
            for _ in range(4):
                trial._components()
                if not trial._spread():
                    break
            labels = np.concatenate([self.grids[i].merged.reshape(-1) for i in indices])
            found = np.unique(trial.classes[labels])
            units = int((~trial.frozen[found]).sum())
            if best is None or units > best[0]:
                best = (units, frozen)
        assert best is not None
        self.freezes += best[1]

    def _frozen_by(self, indices: Sequence[int], choose_last: bool) -> list[tuple[Labels, str]]:
        found: list[tuple[Labels, str]] = []
        for index in indices:
            grid = self.grids[index]
            live = [k for k, f in enumerate(grid.factors) if not self.frozen[self.classes[f]].all()]
            keep = (live[-1] if choose_last else live[0]) if live else -1
            if len(live) == 1:
                keep = -1
            for k in live:
                if k != keep:
                    found.append((grid.factors[k], f"{grid.reason} (its blocks do not fit those of another node)"))
        return found

    def _give_up(self) -> None:
        """No fixed point in the given number of rounds: freeze what the grids touch. Sound, never expected."""
        for grid in self.grids:
            for labels in (grid.merged.reshape(-1), *grid.factors):
                self.freezes.append((labels, f"{grid.reason} (block structure too involved)"))
        self._components()
        while self._spread():
            self._components()

    # -- result ----------------------------------------------------------------------------------------------------

    def _solution(self) -> Solution:
        leaf = ~self.frozen
        grids: list[Grid] = []
        for grid in self.grids:
            where = self._derived(grid)
            if where.any():
                merged = self.classes[grid.merged]
                leaf[merged[where]] = False
                grids.append(Grid(merged, tuple(self.classes[f] for f in grid.factors), grid.reason))
        why = np.where(self.frozen, self.why, -1)
        return Solution(self.classes, self.frozen, leaf, grids, why, list(self.reasons))
