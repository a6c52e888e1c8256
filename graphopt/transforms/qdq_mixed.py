"""Mixed precision: which layers go back to float so that the outputs are good enough, at the least loss of speed.

The noise that each layer makes alone is counted against it as time, at a growing price, and the plan is made anew at
each price: a minimum cut finds the cheapest mix, Q/DQ at the borders included (the Lagrangian of "least time under a
bound on the noise"). Noise only adds up nearly, so mixes are built and measured on held-back samples before one is
taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from graphopt.transforms.qdq_plan import Plan
from graphopt.transforms.qdq_sensitivity import Sensitivity

T = TypeVar("T")

_PRICES = 24
_TRIALS = 8
_ALL = 1e9


@dataclass(frozen=True)
class Mix:
    """Penalties in microseconds by node id, and the share of the time saved by the fastest plan that is still saved."""

    penalties: Mapping[int, float]
    kept: float


@dataclass(frozen=True)
class Tried(Generic[T]):
    """A mix that was built and measured."""

    mix: Mix
    built: T
    sqnr_db: float


def mixes(ranking: Sequence[Sensitivity], fastest: Plan, planned: Callable[[Mapping[int, float]], Plan]) -> list[Mix]:
    """Mixes from the fastest to all float; ``planned`` makes the plan for given penalties."""
    thresholds = sorted(
        max(fastest.gains.get(s.node_id, 0.0), 1e-3) / s.noise for s in ranking if s.noise > 0
    )  # fmt: skip
    chosen = [thresholds[i * (len(thresholds) - 1) // (_PRICES - 1)] for i in range(_PRICES)] if thresholds else []
    saved = max(fastest.float_us - fastest.planned_us, 1e-9)
    found = [Mix({}, 1.0)]
    seen = {frozenset(u.node.id for u in fastest.integer)}
    for price in dict.fromkeys(chosen):
        penalties = {s.node_id: 1.01 * price * s.noise for s in ranking}
        plan = planned(penalties)
        units = frozenset(u.node.id for u in plan.integer)
        if units not in seen:
            seen.add(units)
            found.append(Mix(penalties, (plan.float_us - plan.planned_us) / saved))
    return [*found, Mix({s.node_id: _ALL for s in ranking}, 0.0)]


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
    there. Both are shares of what the fastest mix has to win and to lose, so that no constant is set.
    """
    best, best_score = first, 0.0
    way = wanted_db - first.sqnr_db
    for mix in _thinned(found[1:-1]):
        if mix.kept <= best_score:
            break
        tried = attempt(mix)
        score = min(1.0, (tried.sqnr_db - first.sqnr_db) / way) - (1.0 - mix.kept)
        if score > best_score:
            best, best_score = tried, score
    return best


def _thinned(found: Sequence[Mix]) -> list[Mix]:
    """At most a handful of mixes, spread evenly over what they give up."""
    if len(found) <= _TRIALS:
        return list(found)
    ends = [found[0].kept + (found[-1].kept - found[0].kept) * i / (_TRIALS - 1) for i in range(_TRIALS)]
    nearest = [min(range(len(found)), key=lambda i: abs(found[i].kept - e)) for e in ends]
    return [found[i] for i in dict.fromkeys(nearest)]
