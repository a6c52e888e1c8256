"""The check must be able to fail: a wrongly sliced graph and a weak exchange are seen."""

from __future__ import annotations

import numpy as np
from transforms.pruning import random_keep, tiny, units_of

from graphopt import Model
from graphopt.transforms.prune import masking, slicing
from graphopt.transforms.prune.equivalence import _session, check
from graphopt.transforms.prune.keepset import KeepSet
from graphopt.transforms.prune.masking import Oracle
from graphopt.transforms.prune.seeded import seeded_feeds
from graphopt.transforms.prune.selection_units import Units

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


def test_an_output_that_nearly_cancels_is_judged_by_its_range_over_inputs() -> None:
    """One number close to zero, the sum of thousands of terms: its own size says nothing about its rounding."""
    text = """(float[1,64] x, float[64,4096] w1, float[4096,1] w2, float[1] b) => (float y) {
        a = MatMul(x, w1) r = Relu(a) s = MatMul(r, w2) y = Add(s, b) }"""

    def net() -> tuple[Model, Units, KeepSet, dict[str, np.ndarray], Oracle]:
        model = tiny(text)
        units = units_of(model)
        keep = random_keep(units)
        feeds = seeded_feeds(model.graph, units.coupling.facts)
        oracle = masking.build(model, units.coupling, keep)
        reached = _session(oracle.model, []).run(None, {**feeds, **oracle.feeds(keep)})[0]
        model.graph.set_weight(model.graph.tensors()["b"], model.graph.tensors()["b"].values - reached.reshape(-1))
        return model, units, keep, feeds, masking.build(model, units.coupling, keep)

    model, units, keep, feeds, oracle = net()
    slicing.apply(keep)
    found = check(model, oracle, units.coupling, keep, feeds, units.families)
    assert found.passed
    assert not found.ill_conditioned
    model, units, keep, feeds, oracle = net()
    slicing.apply(keep)
    weight = model.graph.tensors()["w2"]
    wrong = np.array(weight.values)
    wrong[:2] = wrong[1::-1]
    model.graph.set_weight(weight, wrong)
    assert not check(model, oracle, units.coupling, keep, feeds, units.families).passed
