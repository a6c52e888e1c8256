import itertools

import numpy as np
import pytest

from graphopt.errors import BudgetError
from graphopt.transforms.recover.allocation import Term, UnitClass, allocate


def curve(full, steepness, step=1):
    widths = np.arange(step, full + 1, step)
    return UnitClass(full, widths, steepness * (1 - widths / full) ** 2)


def cost(terms, classes, widths):
    return sum(t.amount * np.prod([widths[c] / classes[c].full for c in t.classes]) for t in terms)


def test_close_to_the_exhaustive_best():
    classes = [curve(8, 1.0), curve(8, 5.0), curve(6, 0.2)]
    terms = [Term(10.0, (0,)), Term(20.0, (0, 1)), Term(15.0, (1, 2)), Term(5.0, (2,)), Term(1.0)]
    budget = 25.0
    found = allocate(classes, terms, budget)
    assert cost(terms, classes, found) <= budget
    options = itertools.product(*(c.widths for c in classes))

    def error(widths):
        return sum(c.errors[list(c.widths).index(w)] for c, w in zip(classes, widths, strict=True))

    best = min(error(w) for w in options if cost(terms, classes, w) <= budget)
    assert error(found) <= 1.3 * best


def test_sensitive_classes_keep_more():
    classes = [curve(64, 1.0), curve(64, 100.0)]
    found = allocate(classes, [Term(1.0, (0,)), Term(1.0, (1,))], 1.0)
    assert found[0] < found[1]


def test_enough_budget_removes_nothing():
    assert allocate([curve(8, 1.0)], [Term(1.0, (0,))], 1.0) == [8]


def test_impossible_budget_names_the_least():
    with pytest.raises(BudgetError, match=r"5\.125"):
        allocate([curve(8, 1.0)], [Term(1.0, (0,)), Term(5.0)], 2.0)


def test_squared_class():
    found = allocate([curve(100, 1.0)], [Term(1.0, (0, 0))], 0.25)
    assert found == [50]
