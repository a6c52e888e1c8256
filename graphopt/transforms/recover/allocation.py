"""Spending a budget (MACs, parameters, bytes, time) over unit classes by their error curves.

A knapsack as in OBC (Frantar and Alistarh 2022) and ZipLM (Kurtic et al. 2023), with costs that are products of widths:
a layer between two pruned classes costs in proportion to both. Solved by a Lagrange multiplier: for a given price of
cost, each class in turn takes the width that minimises error + price * cost, until none changes; the price is bisected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.errors import BudgetError
from graphopt.ir import Array

_BISECTIONS = 60
_SWEEPS = 20


@dataclass(frozen=True)
class Term:
    """Part of the total cost: ``amount`` times width / full width of each class named (one entry a power)."""

    amount: float
    classes: tuple[int, ...] = ()


@dataclass(frozen=True)
class UnitClass:
    """Candidate widths, ascending, and the error at each; ``full`` is the width that costs are relative to."""

    full: int
    widths: Array
    errors: Array


def allocate(classes: Sequence[UnitClass], terms: Sequence[Term], budget: float) -> list[int]:
    """Widths with the smallest total error whose cost is at most ``budget``.

    Raises:
        BudgetError: even the smallest widths cost more; the message gives their cost.
    """
    smallest = [int(c.widths[0]) for c in classes]
    costs = _Costs(classes, terms)
    if costs.total(smallest) > budget:
        least = costs.total(smallest)
        raise BudgetError(f"the smallest widths allowed cost {least:.4g}, over the budget of {budget:.4g}")
    widest = [int(c.widths[-1]) for c in classes]
    if costs.total(widest) <= budget:
        return widest
    low, high = 1e-30, 1.0
    while costs.total(_at_price(classes, costs, high)) > budget and high < 1e30:
        high *= 8.0
    for _ in range(_BISECTIONS):
        middle = float(np.sqrt(low * high))
        if costs.total(_at_price(classes, costs, middle)) > budget:
            low = middle
        else:
            high = middle
    widths = _at_price(classes, costs, high)
    if costs.total(widths) > budget:
        widths = smallest
    return _spend_rest(classes, costs, widths, budget)


class _Costs:
    def __init__(self, classes: Sequence[UnitClass], terms: Sequence[Term]) -> None:
        self._full = [c.full for c in classes]
        self._terms = list(terms)
        self._of: dict[int, list[Term]] = {i: [] for i in range(len(classes))}
        for term in terms:
            for index in dict.fromkeys(term.classes):
                self._of[index].append(term)

    def total(self, widths: Sequence[int]) -> float:
        """Cost at these widths."""
        return sum(self._cost(t, widths) for t in self._terms)

    def of(self, index: int, widths: Sequence[int], candidates: Array) -> Array:
        """Cost of the terms that class ``index`` takes part in, at each candidate width."""
        result = np.zeros(len(candidates))
        own = candidates / self._full[index]
        for term in self._of[index]:
            power = term.classes.count(index)
            others = term.amount
            for c in term.classes:
                if c != index:
                    others *= widths[c] / self._full[c]
            result += others * own**power
        return result

    def _cost(self, term: Term, widths: Sequence[int]) -> float:
        cost = term.amount
        for c in term.classes:
            cost *= widths[c] / self._full[c]
        return cost


def _at_price(classes: Sequence[UnitClass], costs: _Costs, price: float) -> list[int]:
    widths = [int(c.widths[-1]) for c in classes]
    for _ in range(_SWEEPS):
        before = list(widths)
        for index, unit_class in enumerate(classes):
            value = unit_class.errors + price * costs.of(index, widths, unit_class.widths)
            widths[index] = int(unit_class.widths[int(np.argmin(value))])
        if widths == before:
            break
    return widths


def _spend_rest(classes: Sequence[UnitClass], costs: _Costs, widths: list[int], budget: float) -> list[int]:
    """Widen, best gain for its cost first, while the budget allows."""
    while True:
        total = costs.total(widths)
        best: tuple[float, int, int] | None = None
        for index, unit_class in enumerate(classes):
            now = int(np.searchsorted(unit_class.widths, widths[index]))
            own = costs.of(index, widths, unit_class.widths)
            for wider in range(now + 1, len(unit_class.widths)):
                extra = float(own[wider] - own[now])
                gain = float(unit_class.errors[now] - unit_class.errors[wider])
                if total + extra <= budget * (1 + 1e-12) and gain > 0:
                    rate = gain / max(extra, 1e-30)
                    if best is None or rate > best[0]:
                        best = (rate, index, int(unit_class.widths[wider]))
        if best is None:
            return widths
        widths[best[1]] = best[2]
