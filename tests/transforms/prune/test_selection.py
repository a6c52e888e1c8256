"""Which units go: ratios, budgets, alignment, patterns, thresholds, criteria."""

from __future__ import annotations

import numpy as np
import pytest
from transforms.pruning import prune_and_check, tiny, units_of

from graphopt.errors import UsageError
from graphopt.pipeline.values import Pattern
from graphopt.transforms.prune.criteria import CRITERIA, score, score_all
from graphopt.transforms.prune.selection import (
    Policy,
    by_budget,
    by_ratio,
    by_threshold,
    macs,
    parameters,
    removed_count,
    weight_bytes,
)

MLP = """(float[2,5] x, float[5,16] w1, float[16,12] w2, float[12,4] w3) => (float y) {
    a = MatMul(x, w1) r = Relu(a) b = MatMul(r, w2) t = Tanh(b) y = MatMul(t, w3) }"""

BRANCHES = """(float[1,3,8,8] x, float[2,3,3,3] w1, float[14,3,3,3] w2, float[16,2,1,1] w3,
    float[4,16,1,1] w4) => (float y) {
    a = Conv<pads=[1,1,1,1]>(x, w1) b = Conv<pads=[1,1,1,1]>(x, w2) c = Concat<axis=1>(a, b) r = Relu(c)
    g = Conv<group=8>(r, w3) y = Conv(g, w4) }"""


@pytest.mark.parametrize("exchange", [True, False])
def test_a_branch_whose_channels_all_score_low_keeps_one(exchange: bool) -> None:
    model = tiny(BRANCHES)
    tensors = model.graph.tensors()
    for name, low in (("w1", slice(None)), ("w3", slice(0, 2))):
        values = np.array(tensors[name].values)
        values[low] *= 1e-6
        model.graph.set_weight(tensors[name], values)
    units = units_of(model)
    scores = score(units, CRITERIA["l1"])
    keep = by_ratio(units, scores, Policy(0.5)) if exchange else by_threshold(units, 1e-3, Policy())
    branch, joined = (keep.count(units.coupling.record.axes[tensors[n]][0]) for n in ("w1", "w3"))
    assert branch == 2
    assert joined == (8 if exchange else 16)
    assert prune_and_check(model, keep, units).passed


def test_the_smallest_rows_go() -> None:
    model = tiny(MLP)
    weight = model.graph.tensors()["w1"]
    values = np.array(weight.values)
    values[:, [3, 7]] = 1e-6
    model.graph.set_weight(weight, values)
    second = np.array(model.graph.tensors()["w2"].values)
    second[[3, 7]] = 1e-6
    model.graph.set_weight(model.graph.tensors()["w2"], second)
    units = units_of(model)
    keep = by_ratio(units, score(units, CRITERIA["l1"]), Policy(2 / 16))
    assert np.flatnonzero(~keep.mask(units.coupling.record.axes[weight][1])).tolist() == [3, 7]


DATA = {"wanda", "fluctuation", "activation", "mean", "variance", "apoz", "reconstruction"}


@pytest.mark.parametrize("name", sorted(set(CRITERIA) - {"bn_scale"} - DATA))
@pytest.mark.parametrize("reduction", ["sum", "mean", "max", "prod", "union"])
def test_every_criterion_ranks(name: str, reduction: str) -> None:
    units = units_of(tiny(MLP))
    scores = score(units, CRITERIA[name], reduction, seed=3)
    for family in units.families:
        assert np.isfinite(scores[family.classes]).all()
        assert len(np.unique(scores[family.classes])) > len(family) // 2


def test_bn_scale_reads_gamma_only() -> None:
    text = """(float[1,3,6,6] x, float[8,3,3,3] w1, float[8] bs, float[8] bb, float[8] bm, float[8] bv,
        float[4,8,1,1] w2) => (float y) { a = Conv(x, w1) n = BatchNormalization(a, bs, bb, bm, bv) y = Conv(n, w2) }"""
    model = tiny(text)
    units = units_of(model)
    scores = score(units, CRITERIA["bn_scale"])
    assert np.allclose(scores[units.families[0].classes], np.abs(model.graph.tensors()["bs"].values))


def test_missing_data_and_a_wrong_answer_are_explained() -> None:
    with pytest.raises(UsageError, match="one number for each of the 16 positions"):
        score(units_of(tiny(MLP)), lambda part, statistics, random: np.ones(3))
    with pytest.raises(UsageError, match="calibration data"):
        score(units_of(tiny(MLP)), CRITERIA["wanda"])


@pytest.mark.parametrize("kind", ["macs", "params", "bytes"])
@pytest.mark.parametrize("share", [0.7, 0.4])
def test_a_budget_is_met_without_waste(kind: str, share: float) -> None:
    units = units_of(tiny(MLP))
    measure = {"macs": macs, "params": parameters, "bytes": weight_bytes}[kind]
    keep = by_budget(units, score(units, CRITERIA["l1"]), Policy(), kind, share)  # type: ignore[arg-type]
    got = measure(units, keep) / measure(units, None)
    assert share - 0.15 < got <= share


def test_an_impossible_budget_says_what_can_be_reached() -> None:
    units = units_of(tiny(MLP))
    with pytest.raises(UsageError, match="at most"):
        by_budget(units, score(units, CRITERIA["l1"]), Policy(max_ratio=0.2), "macs", 0.1)


@pytest.mark.parametrize(
    ("width", "ratio", "align", "kept"),
    [
        (256, 0.3, 16, 176),
        (256, 0.99, 16, 16),
        (64, 0.3, 16, 48),
        (12, 0.5, 16, 6),
        (40, 0.3, 1, 28),
        (99, 0.0, 16, 99),
    ],
)
def test_alignment(width: int, ratio: float, align: int, kept: int) -> None:
    assert width - removed_count(width, ratio, Policy(ratio, align=align)) == kept


def test_include_exclude_and_global_scope() -> None:
    model = tiny(MLP)
    for node, name in zip(model.graph.nodes, "abcde", strict=True):
        node.name = name
    units = units_of(model)
    scores = score(units, CRITERIA["l1"])
    sizes = [len(f) for f in units.families]
    only = by_ratio(units, scores, Policy(0.5, include=(Pattern("a"),)))
    assert [int(only.removed[f.classes].sum()) for f in units.families] == [sizes[0] // 2, 0]
    without = by_ratio(units, scores, Policy(0.5, exclude=(Pattern("a"),)))
    assert [int(without.removed[f.classes].sum()) for f in units.families] == [0, sizes[1] // 2]
    whole = by_ratio(units, scores, Policy(0.5, scope="global"))
    assert int(whole.removed[units.coupling.solution.leaf].sum()) == pytest.approx(sum(sizes) / 2, abs=2)


def test_threshold_removes_small_units_and_leaves_one() -> None:
    model = tiny(MLP)
    for name in ("w1", "w2"):
        weight = model.graph.tensors()[name]
        values = np.array(weight.values)
        values[:, :3] = 1e-4
        model.graph.set_weight(weight, values)
    units = units_of(model)
    keep = by_threshold(units, 1e-3, Policy())
    assert [int(keep.removed[f.classes].sum()) for f in units.families] == [3, 3]
    everything = by_threshold(units, 1e9, Policy())
    assert [len(f) - int(everything.removed[f.classes].sum()) for f in units.families] == [1, 1]


@pytest.mark.parametrize(("norm", "bound"), [("max", 0.01), ("l1", 0.05), ("l2", 0.01 * 5**0.5)])
def test_threshold_norms(norm: str, bound: float) -> None:
    """A unit whose five weights are all 0.01 is at the bound of each norm."""
    model = tiny(MLP)
    weight = model.graph.tensors()["w1"]
    values = np.array(weight.values)
    values[:, 7] = 0.01
    model.graph.set_weight(weight, values)
    units = units_of(model)
    for factor, gone in ((1.001, 1), (0.999, 0)):
        keep = by_threshold(units, bound * factor, Policy(), norm)  # type: ignore[arg-type]
        assert int(keep.removed[units.families[0].classes].sum()) == gone


def test_union_removes_what_any_weight_would_remove_first() -> None:
    """The smallest column of w1 and the smallest row of w2 go before any other, whatever the other weight says."""
    model = tiny(MLP)
    for name, index in (("w1", (slice(None), 3)), ("w2", (7,))):
        weight = model.graph.tensors()[name]
        values = np.array(weight.values)
        values[index] = 1e-6
        model.graph.set_weight(weight, values)
    units = units_of(model)
    classes = units.families[0].classes
    scores = score(units, CRITERIA["l1"], "union")[classes]
    assert set(np.argsort(scores, kind="stable")[:2].tolist()) == {3, 7}


@pytest.mark.parametrize("name", sorted(DATA))
def test_activation_criteria_read_the_data(name: str) -> None:
    """A hidden unit that never fires ranks last, whatever its weights."""
    from graphopt.data.interface import read_interface
    from graphopt.data.synthetic import SyntheticDataset
    from graphopt.transforms.prune.activations import ActivationStatistics

    model = tiny(MLP)
    weight = model.graph.tensors()["w1"]
    values = np.array(weight.values)
    values[:, 5] = 0
    model.graph.set_weight(weight, values)
    units = units_of(model)
    data = SyntheticDataset(read_interface(model.serialize()), 16)
    scores = score(units, CRITERIA[name], statistics=ActivationStatistics(model, data, units))
    family = units.families[0]
    assert int(np.argmin(scores[family.classes])) == 5
    assert (scores[family.classes] >= 0).all()


BEHIND = """(float[2,5] x, float[16,5] w1, float[4,16] w2) => (float y) {
    u1 = Transpose(w1) a = MatMul(x, u1) r = Relu(a) u2 = Transpose(w2) y = MatMul(r, u2) }"""


def test_weights_behind_a_transpose_are_those_of_the_product() -> None:
    """As exporters leave linear layers before constants are folded."""
    from graphopt.data.interface import read_interface
    from graphopt.data.synthetic import SyntheticDataset
    from graphopt.transforms.prune.activations import ActivationStatistics
    from graphopt.transforms.prune.inspection import prunable

    model = tiny(BEHIND)
    plain = tiny(BEHIND.replace("u1 = Transpose(w1)", "").replace("u2 = Transpose(w2)", "").replace(
        "MatMul(x, u1)", "Gemm<transB=1>(x, w1)").replace("MatMul(r, u2)", "Gemm<transB=1>(r, w2)"))  # fmt: skip
    units = units_of(model)
    assert prunable(units).macs_share == 1.0
    assert {n.op for n in units.families[0].nodes} == {"Transpose", "MatMul"}
    found = []
    for net in (model, plain):
        own = units_of(net)
        data = SyntheticDataset(read_interface(net.serialize()), 8)
        scores = score(own, CRITERIA["wanda"], statistics=ActivationStatistics(net, data, own))
        found.append(scores[own.families[0].classes])
    assert found[0].all()
    assert np.allclose(found[0], found[1], rtol=1e-5)


def test_where_a_criterion_says_nothing_l1_ranks() -> None:
    units = units_of(tiny(MLP))
    scores, silent = score_all(units, CRITERIA["bn_scale"])
    assert [f.number for f in silent] == [f.number for f in units.families]
    assert np.array_equal(scores, score(units, CRITERIA["l1"]))
