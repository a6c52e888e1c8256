"""Channel shuffles: found by what they do, rewritten only when more can be pruned, outputs bit for bit the same."""

from __future__ import annotations

import pytest
from transforms.pruning import prune_and_check, random_keep, tiny, units_of

from graphopt.analysis.labels import analyse
from graphopt.pipeline import PassManager, Pipeline, Registry
from graphopt.transforms.prune.equivalence import identical
from graphopt.transforms.prune.seeded import seeded_feeds
from graphopt.transforms.prune.selection_units import find_units
from graphopt.transforms.prune.shuffles import find_shuffles, opened

UNIT = """(float[1,8,6,6] x, float[12,8,1,1] w0, float[6,6,1,1] w1, float[6,6,1,1] w2, float[4,12,1,1] w3) => (float y)
    <int64[5] i1 = {1,2,6,6,6}, int64[4] i2 = {1,-1,6,6}> {
    a = Conv(x, w0) p, q = Split<axis=1>(a) b = Conv(q, w1) r = Relu(b) c = Conv(r, w2) d = Concat<axis=1>(p, c)
    s = Reshape(d, i1) t = Transpose<perm=[0,2,1,3,4]>(s) u = Reshape(t, i2)
    p2, q2 = Split<axis=1>(u) e = Relu(q2) f = Concat<axis=1>(p2, e) y = Conv(f, w3) }"""
WINDOWS = """(float[2,8,5] x, float[5,6] w1, float[6,4] w2) => (float y)
    <int64[4] i1 = {2,4,2,6}, int64[3] i2 = {2,8,6}> {
    a = MatMul(x, w1) r = Reshape(a, i1) t = Transpose<perm=[0,2,1,3]>(r) u = Reshape(t, i2) y = MatMul(u, w2) }"""


def test_a_shuffle_is_found_and_opened() -> None:
    model, before = tiny(UNIT), tiny(UNIT)
    first = analyse(model.graph)
    [shuffle] = find_shuffles(model.graph, first.facts)
    assert shuffle.axis == 1
    assert shuffle.order.tolist() == [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]
    coupling, snapshot = opened(model.graph, first, lambda: analyse(model.graph))
    assert snapshot is not None
    assert sum(len(f) for f in find_units(coupling).families) > sum(len(f) for f in find_units(first).families)
    assert [n.op for n in model.graph.nodes].count("Gather") == 1
    assert identical(before, model, seeded_feeds(model.graph, coupling.facts))


@pytest.mark.parametrize("seed", range(4))
def test_the_opened_graph_is_proven(seed: int) -> None:
    model = tiny(UNIT, seed=seed)
    coupling, _ = opened(model.graph, analyse(model.graph), lambda: analyse(model.graph))
    units = find_units(coupling)
    found = prune_and_check(model, random_keep(units, 0.5, seed=seed), units, seed)
    assert found.passed, found
    assert not found.inconclusive


def test_what_gains_nothing_stays() -> None:
    """A permutation of another axis ties no channels; the graph comes back as it was."""
    model = tiny(WINDOWS)
    before = model.serialize()
    first = analyse(model.graph)
    assert find_shuffles(model.graph, first.facts)
    _, snapshot = opened(model.graph, first, lambda: analyse(model.graph))
    assert snapshot is None
    assert model.serialize() == before


def test_prune_says_so_and_can_be_told_not_to() -> None:
    registry = Registry()
    removed = []
    for text in ("prune:ratio=0.5:align=1", "prune:ratio=0.5:align=1:shuffles=false"):
        model = tiny(UNIT)
        done = PassManager(registry).run(model, Pipeline.parse(text, registry)).passes[0]
        removed.append(1 - done.statistics["macs kept"])
        assert done.statistics["masked error"] <= 1e-5
        assert any("Gather" in r.message for r in done.remarks) == ("shuffles" not in text)
    assert removed[0] > removed[1]
    model, plain = tiny(UNIT), tiny(UNIT)
    PassManager(registry).run(model, Pipeline.parse("prune:ratio=0", registry))
    assert model.serialize() == plain.serialize()


def test_a_part_of_a_chain_that_is_read_elsewhere_is_no_shuffle() -> None:
    text = UNIT.replace("y = Conv(f, w3)", "y = Conv(f, w3) z = Relu(t)").replace("(float y)", "(float y, float z)")
    model = tiny(text)
    assert not find_shuffles(model.graph, units_of(model).coupling.facts)
