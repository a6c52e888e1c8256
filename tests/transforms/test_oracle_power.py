"""The check must be able to fail: a wrongly sliced graph and a weak exchange are seen."""

from __future__ import annotations

import numpy as np
from transforms.pruning import random_keep, tiny, units_of

from graphopt.transforms import masking, slicing
from graphopt.transforms.equivalence import check
from graphopt.transforms.seeded import seeded_feeds

MLP = """(float[2,5] x, float[5,12] w1, float[12,8] w2, float[8,4] w3) => (float y) {
    a = MatMul(x, w1) r = Relu(a) b = MatMul(r, w2) t = Tanh(b) y = MatMul(t, w3) }"""


def test_a_wrong_row_of_a_weight_is_seen() -> None:
    model = tiny(MLP)
    units = units_of(model)
    keep = random_keep(units)
    feeds = seeded_feeds(model.graph, units.coupling.facts)
    oracle = masking.build(model, units.coupling, keep)
    slicing.apply(keep)
    weight = model.graph.tensors()["w2"]
    model.graph.set_weight(weight, np.roll(weight.values, 1, axis=0))
    assert not check(model, oracle, units.coupling, keep, feeds, units.families).passed


def test_units_without_any_effect_are_inconclusive() -> None:
    model = tiny(MLP)
    model.graph.set_weight(model.graph.tensors()["w2"], np.zeros((12, 8), np.float32))
    units = units_of(model)
    keep = random_keep(units)
    feeds = seeded_feeds(model.graph, units.coupling.facts)
    oracle = masking.build(model, units.coupling, keep)
    slicing.apply(keep)
    found = check(model, oracle, units.coupling, keep, feeds, units.families)
    assert found.passed
    assert len(found.inconclusive) == 2


def test_the_oracle_leaves_the_model_alone() -> None:
    model = tiny(MLP)
    before = model.serialize()
    units = units_of(model)
    masking.build(model, units.coupling, random_keep(units))
    assert model.serialize() == before
