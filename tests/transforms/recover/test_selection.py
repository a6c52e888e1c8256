from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.analysis.labels import analyse
from graphopt.data.interface import read_interface
from graphopt.data.npz import ArrayDataset
from graphopt.errors import BudgetError
from graphopt.transforms.prune.selection import Policy, active_families, macs, parameters
from graphopt.transforms.prune.selection_units import find_units
from graphopt.transforms.recover.consumers import find_readings
from graphopt.transforms.recover.probing import Curve, Prober, fitted_part
from graphopt.transforms.recover.selection import (
    RecoveryOptions,
    allowed_widths,
    by_recovery,
    cost_terms,
    error_curves,
    measured,
    recovery_scores,
)


def build(nodes, weights, shape, outputs=("y",)):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [
            numpy_helper.from_array(np.asarray(v, np.float32 if np.asarray(v).dtype.kind == "f" else None), n)
            for n, v in weights.items()
        ],
    )
    return graphopt.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


@pytest.fixture
def model():
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((8, 3, 3, 3)) * 0.4,
        "wd": rng.standard_normal((8, 1, 3, 3)) * 0.4,
        "w2": rng.standard_normal((6, 8, 1, 1)) * 0.4,
        "w3": rng.standard_normal((6 * 16, 5)) * 0.4,
        "flat": np.array([0, -1], np.int64),
    }
    weights["w1"][5], weights["wd"][5] = weights["w1"][2], weights["wd"][2]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "wd"], ["d1"], name="depthwise", pads=[1, 1, 1, 1], group=8),
        helper.make_node("Relu", ["d1"], ["r2"]),
        helper.make_node("Conv", ["r2", "w2"], ["c2"], name="second"),
        helper.make_node("Relu", ["c2"], ["r3"]),
        helper.make_node("Reshape", ["r3", "flat"], ["f"]),
        helper.make_node("MatMul", ["f", "w3"], ["y"], name="head"),
    ]
    return build(nodes, weights, [1, 3, 4, 4])


@pytest.fixture
def samples(model):
    x = np.random.default_rng(1).standard_normal((120, 3, 4, 4)).astype(np.float32)
    return ArrayDataset({"x": x}, read_interface(model.serialize()), "arrays")


def families_of(model, policy):
    units = find_units(analyse(model.graph))
    return units, active_families(units, policy)


def test_readers_are_those_that_mix_channels(model):
    units, families = families_of(model, Policy())
    found = find_readings(units, families, 10**6)
    names = {f.number: [r.layer.node.name for r in found[f.number]] for f in families}
    assert sorted(map(tuple, names.values())) == [("head",), ("second",)]
    for family in families:
        (reading,) = found[family.number]
        assert reading.blocks.shape == ((8, 1) if reading.layer.node.name == "second" else (6, 16))
        assert sorted(reading.blocks.reshape(-1)) == list(range(reading.blocks.size))


@pytest.mark.parametrize("kind", ["macs", "params"])
def test_terms_give_the_cost_of_any_widths(model, kind):
    units, families = families_of(model, Policy())
    terms = cost_terms(units, families, kind)
    measure = {"macs": macs, "params": parameters}[kind]
    assert sum(t.amount for t in terms) == pytest.approx(measure(units, None))
    from graphopt.transforms.prune.keepset import KeepSet

    leaves = np.zeros(len(units.family_of), bool)
    widths = {}
    for index, family in enumerate(families):
        leaves[family.classes[: index + 2]] = True
        widths[index] = 1 - (index + 2) / len(family)
    keep = KeepSet.removing(units.coupling, leaves)
    predicted = sum(t.amount * np.prod([widths[c] for c in t.classes]) for t in terms)
    assert predicted == pytest.approx(measure(units, keep))


def test_a_duplicate_goes_first_and_costs_nothing(model, samples):
    units, families = families_of(model, Policy())
    curves = error_curves(model, units, families, samples, RecoveryOptions())
    curve = next(c for c in curves if len(c.family) == 8)
    assert int(curve.elimination.order[0]) in (2, 5)
    assert curve.elimination.errors[1] < 1e-3
    assert curve.elimination.errors[-1] == pytest.approx(1.0, rel=0.05)
    assert (np.diff(curve.elimination.errors) >= 0).all()


@pytest.mark.parametrize("keep", [0.8, 0.5, 0.3])
def test_budget_is_kept(model, samples, keep):
    units = find_units(analyse(model.graph))
    before = model.serialize()
    chosen = by_recovery(model, units, Policy(), "macs", keep, samples)
    assert 0.5 * keep < macs(units, chosen) / macs(units, None) <= keep
    assert model.serialize() == before


def test_impossible_budget(model, samples):
    units = find_units(analyse(model.graph))
    with pytest.raises(BudgetError):
        by_recovery(model, units, Policy(minimum=6), "macs", 0.05, samples)


def test_scores_follow_the_elimination_order(model, samples):
    units, families = families_of(model, Policy())
    scores = recovery_scores(model, units, Policy(), samples, np.full(len(units.family_of), -1.0))
    curves = error_curves(model, units, families, samples, RecoveryOptions())
    for curve in curves:
        own = scores[curve.family.classes]
        np.testing.assert_array_equal(np.argsort(own, kind="stable"), curve.elimination.order)


def test_allowed_widths():
    assert list(allowed_widths(64, Policy(align=16, max_ratio=0.9))) == list(range(8, 65, 8))
    assert list(allowed_widths(128, Policy(align=16))) == list(range(16, 129, 16))
    assert list(allowed_widths(6, Policy(minimum=3))) == [3, 4, 5, 6]


def test_error_at_the_outputs_is_the_same_from_a_cut_on(model, samples):
    """Probes run from the first layer that reads a family; with no memory for the values there, from the inputs."""
    units, families = families_of(model, Policy())
    curves = error_curves(model, units, families, samples, RecoveryOptions())
    wide, narrow = (measured(model, units, curves, samples, RecoveryOptions(max_memory=m)) for m in (1 << 30, 0))
    assert len(wide) > 1
    for one, two in zip(wide, narrow, strict=True):
        assert one.errors.max() > 0
        assert np.allclose(one.errors, two.errors, rtol=1e-4, atol=1e-9)


def test_a_product_of_two_constants_reads_no_data():
    """Learned latents projected by a matrix, as exporters leave them: budgets and fits pass them by."""
    rng = np.random.default_rng(3)
    shapes = {"latents": (6, 8), "wq": (8, 8), "w1": (8, 12), "w2": (12, 4)}
    weights = {n: rng.standard_normal(s) for n, s in shapes.items()}
    nodes = [
        helper.make_node("MatMul", ["latents", "wq"], ["q"], name="query"),
        helper.make_node("Add", ["x", "q"], ["s"], name="sum"),
        helper.make_node("MatMul", ["s", "w1"], ["h"], name="up"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"], name="down"),
    ]
    model = build(nodes, weights, [1, 6, 8])
    x = rng.standard_normal((40, 6, 8)).astype(np.float32)
    data = ArrayDataset({"x": x}, read_interface(model.serialize()), "arrays")
    units = find_units(analyse(model.graph))
    assert macs(units, by_recovery(model, units, Policy(align=1), "macs", 0.8, data)) <= 0.8 * macs(units, None)


def test_fitted_and_held_back_samples_are_apart(samples):
    from graphopt.transforms.recover.check import held_back

    fitted = [b.feeds["x"] for b in fitted_part(samples)]
    held = [b.feeds["x"] for b in held_back(samples)]
    values = [{float(v) for x in part for v in x[:, 0, 0, 0]} for part in (fitted, held)]
    assert [len(v) for v in values] == [96, 24]
    assert not values[0] & values[1]


def test_what_the_layers_behind_make_good_costs_nothing():
    """A constant unit, whose reader has no bias to fold it into; the layer behind the reader has one."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((6, 8)),
        "b1": np.zeros(8),
        "w2": rng.standard_normal((8, 8)),
        "w3": rng.standard_normal((8, 3)),
        "b3": np.zeros(3),
    }
    weights["w1"][:, 7], weights["b1"][7] = 0, 0.2
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["a"]),
        helper.make_node("MatMul", ["a", "w2"], ["b"]),
        helper.make_node("Gemm", ["b", "w3", "b3"], ["y"]),
    ]
    chained = build(nodes, weights, ["N", 6])
    x = np.random.default_rng(1).standard_normal((300, 6)).astype(np.float32)
    data = ArrayDataset({"x": x}, read_interface(chained.serialize()), "arrays")
    units, families = families_of(chained, Policy())
    curves = error_curves(chained, units, families, fitted_part(data), RecoveryOptions())
    first = next(c for c in curves if c.readers[0].reading.layer.node.op == "MatMul")
    first = replace(first, elimination=replace(first.elimination, order=np.array([7, *range(7)])))
    alone, behind = (Prober(chained, data, 1e3, refits, None, 1, 1 << 30).errors(first, 1)[1] for refits in (0, 1))
    assert alone > 1e-4
    assert behind < 1e-8


def test_a_width_that_was_not_measured_is_measured_before_it_is_chosen(model, samples, monkeypatch):
    seen = []
    true_errors = Prober.errors

    def errors(self, curve, removed, frontier=None):
        seen.append((len(curve.family), removed))
        return true_errors(self, curve, removed, frontier)

    monkeypatch.setattr(Prober, "errors", errors)
    units, _ = families_of(model, Policy())
    chosen = by_recovery(model, units, Policy(), "macs", 0.35, samples)
    assert macs(units, chosen) <= 0.35 * macs(units, None)
    for family in active_families(units, Policy(ratio=0.65)):
        gone = int(chosen.removed[family.classes].sum())
        places = [n for size, n in seen if size == len(family)]
        assert gone == 0 or min(abs(gone - n) for n in places) <= 1


def test_all_families_together_are_judged_after_every_layer_compensated(model, samples):
    """The duplicate channel of the first family costs nothing; half of everything costs more than half of one."""
    units, families = families_of(model, Policy(ratio=0.5))
    curves = error_curves(model, units, families, samples, RecoveryOptions())
    prober = Prober(model, samples, 1e3, 2, None, 1, 1 << 30)
    first = next(i for i, c in enumerate(curves) if len(c.family) == 8)

    def judged(*removed):
        return prober.error_of_all(curves, removed)

    assert judged(0, 0) == 0
    assert judged(*(int(i == first) for i in range(2))) < 1e-6
    half = [len(c.family) // 2 for c in curves]
    assert judged(*half) > judged(half[0], 0) > 1e-3


def test_widths_by_either_curve_compete(model, samples, monkeypatch):
    """Whichever set of widths is judged better is taken, also when it is not that of the compensated curves."""
    units, families = families_of(model, Policy())
    tried = []

    def error_of_all(self, curves, removed):
        tried.append(tuple(removed))
        return float(removed[0])

    monkeypatch.setattr(Prober, "error_of_all", error_of_all)
    true_between = Curve.between
    monkeypatch.setattr(Curve, "between", lambda c, share: true_between(c, share) * (100 if len(c.family) == 8 else 1))
    chosen = by_recovery(model, units, Policy(), "macs", 0.5, samples)
    assert len(set(tried)) > 1
    (first,) = [f for f in families if f.number == families[0].number]
    assert int(chosen.removed[first.classes].sum()) == min(t[0] for t in tried)
