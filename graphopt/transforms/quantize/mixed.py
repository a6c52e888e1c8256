"""Mixed precision: which layers go back to float so that the outputs are good enough, at the least loss of speed.

The noise that each layer makes alone is counted against it as time, at a growing price, and the plan is made anew at
each price: a minimum cut finds the cheapest mix, Q/DQ at the borders included (the Lagrangian of "least time under a
bound on the noise"). Noise only adds up nearly, so mixes are built and measured on held-back samples before one is
taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, TypeVar

from graphopt.transforms.quantize.plan import Plan
from graphopt.transforms.quantize.sensitivity import Sensitivity

T = TypeVar("T")

_PRICES = 24
_TRIALS = 8
_ALL = 1e9
_WORTH_KEEPING = 0.5
_STEP = 0.01


@dataclass(frozen=True)
class Mix:
    """Penalties in microseconds by node id, and the share of the time saved by the fastest plan that is still saved."""

    penalties: Mapping[int, float]
    kept: float


@dataclass(frozen=True)
class Tried(Generic[T]):
    """A mix that was built and measured: signal to noise at the outputs, and before a Softmax, in dB.

    ``changed``: share of decisions that change; see ``decisions``.
    """

    mix: Mix
    built: T
    outputs_db: float
    inner_db: float
    changed: float = 0.0

    @property
    def sqnr_db(self) -> float:
        """The lower one."""
        return min(self.outputs_db, self.inner_db)


def mixes(ranking: Sequence[Sensitivity], fastest: Plan, planned: Callable[[Mapping[int, float]], Plan]) -> list[Mix]:
    """Mixes from the fastest to all float; ``planned`` makes the plan for given penalties."""
    thresholds = sorted(
        max(fastest.gains.get(s.node_id, 0.0), 1e-3) / s.noise for s in ranking if s.noise > 0
    )  # fmt: skip
    chosen = [thresholds[i * (len(thresholds) - 1) // (_PRICES - 1)] for i in range(_PRICES)] if thresholds else []
    saved = max(fastest.float_us - fastest.planned_us, 1e-9)
    found = {frozenset(u.node.id for u in fastest.integer): Mix({}, 1.0)}

    def add(penalties: Mapping[int, float]) -> None:
        plan = planned(penalties)
        units = frozenset(u.node.id for u in plan.integer)
        if units:
            found.setdefault(units, Mix(penalties, (plan.float_us - plan.planned_us) / saved))

    for price in dict.fromkeys(chosen):
        add({s.node_id: 1.01 * price * s.noise for s in ranking})
    _fill(found, ranking, fastest.gains, add)
    ordered = sorted(found.values(), key=lambda m: -m.kept)
    return [*ordered, Mix({s.node_id: _ALL for s in ranking}, 0.0)]


def _fill(
    found: Mapping[frozenset[int], Mix],
    ranking: Sequence[Sensitivity],
    gains: Mapping[int, float],
    add: Callable[[Mapping[int, float]], None],
) -> None:
    """Mixes in the gaps that no price reaches, since several layers go at the same one: a part of those layers."""
    noisiest = sorted(ranking, key=lambda s: -s.noise / max(gains.get(s.node_id, 0.0), 1e-3))
    for (fast, one), (slow, two) in list(pairwise(found.items())):
        if one.kept - two.kept <= 1 / _TRIALS:
            continue
        between = [s.node_id for s in noisiest if s.node_id in fast - slow]
        gone = {s.node_id for s in ranking} - fast
        for share in (1, 2, 3):
            add(dict.fromkeys({*gone, *between[: len(between) * share // 4]}, _ALL))


def first_good(found: Sequence[Mix], attempt: Callable[[Mix], Tried[T]], wanted_db: float) -> Tried[T]:
    """The fastest mix whose measured noise is low enough, by bisection; the last one when none is."""
    low, high = 0, len(found) - 1
    best: Tried[T] | None = None
    while low < high:
        middle = (low + high) // 2
        tried = attempt(found[middle])
        if tried.sqnr_db >= wanted_db:
            best, high = tried, middle
        else:
            low = middle + 1
    return best if best is not None and best.mix is found[low] else attempt(found[low])


def best_trade(found: Sequence[Mix], first: Tried[T], attempt: Callable[[Mix], Tried[T]], wanted_db: float) -> Tried[T]:
    """The knee of the curve of noise over time (Satopaa et al. 2011, "Finding a kneedle in a haystack").

    The share of the way to ``wanted_db`` that a mix goes, less the share of the saved time that it gives up, is largest
    there. Both are shares of what the fastest mix has to win and to lose, so that no constant is set. Few samples make
    the noise at the outputs uncertain; since it falls from mix to mix, an isotonic fit evens it out.
    """
    tried = [first]
    way = wanted_db - first.sqnr_db

    def scores() -> list[float]:
        smooth = isotonic([t.outputs_db for t in tried])
        levels = [min(level, t.inner_db, wanted_db) for level, t in zip(smooth, tried, strict=True)]
        return [(level - levels[0]) / way - (1.0 - t.mix.kept) for level, t in zip(levels, tried, strict=True)]

    for mix in _thinned(found[1:-1]):
        if mix.kept <= max(scores()):
            break
        tried.append(attempt(mix))
    return max(zip(scores(), tried, strict=True), key=lambda pair: pair[0])[1]


def deciding(found: Sequence[Mix], start: Tried[T], attempt: Callable[[Mix], Tried[T]], allowed: float) -> Tried[T]:
    """The fastest mix that changes few enough decisions, from ``start`` on; ``start`` when that costs too much."""
    tried = start
    for mix in found:
        if mix.kept < _WORTH_KEEPING or tried.changed <= allowed:
            break
        if mix.kept <= tried.mix.kept - _STEP:
            tried = attempt(mix)
    return tried if tried.changed <= allowed else start


def isotonic(values: Sequence[float]) -> list[float]:
    """The nearest sequence that never falls, by pooling adjacent violators (Ayer et al. 1955)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        pools.append((value, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (b, m), (a, n) = pools.pop(), pools.pop()
            pools.append(((a * n + b * m) / (n + m), n + m))
    return [value for value, count in pools for _ in range(count)]


def _thinned(found: Sequence[Mix]) -> list[Mix]:
    """At most a handful of mixes, spread evenly over what they give up."""
    if len(found) <= _TRIALS:
        return list(found)
    ends = [found[0].kept + (found[-1].kept - found[0].kept) * i / (_TRIALS - 1) for i in range(_TRIALS)]
    nearest = [min(range(len(found)), key=lambda i: abs(found[i].kept - e)) for e in ends]
    return [found[i] for i in dict.fromkeys(nearest)]
