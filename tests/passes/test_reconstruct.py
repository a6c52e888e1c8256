"""The recovery of ``prune`` and ``reconstruct``, run through the pass manager."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.data.interface import read_interface
from graphopt.data.npz import ArrayDataset
from graphopt.pipeline.context import Settings
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.pipeline import Pipeline
from graphopt.pipeline.registry import Registry
from graphopt.runtime.session import Session


@pytest.fixture
def model():
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((4, 12))
    weights = {
        "w1": np.einsum("ic,io->oc", rng.standard_normal((4, 3)), mixing)[:, :, None, None],
        "b1": rng.standard_normal(12),
        "w2": rng.standard_normal((6, 12, 3, 3)) * 0.3,
        "w3": rng.standard_normal((5, 6)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="first"),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3"], ["y"], name="head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in weights.items()],
    )
    return graphopt.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def images(count, seed):
    return np.random.default_rng(seed).standard_normal((count, 3, 6, 6)).astype(np.float32)


def optimise(model, text, data=True):
    registry = Registry()
    dataset = ArrayDataset({"x": images(200, 1)}, read_interface(model.serialize()), "arrays") if data else None
    changed = model.clone()
    run = PassManager(registry, Settings(data=dataset)).run(changed, Pipeline.parse(text, registry))
    return changed, run


def error(model, changed):
    x = images(100, 2)
    wanted, got = (Session(m.serialize()).run({"x": x})["y"] for m in (model, changed))
    return float(np.square(wanted - got).sum() / np.square(wanted - wanted.mean(axis=0)).sum())


def test_prune_recovers_when_data_is_given(model):
    plain, _ = optimise(model, "prune:ratio=0.5:align=1:recover=false:criterion=l2")
    recovered, run = optimise(model, "prune:ratio=0.5:align=1")
    assert error(model, recovered) < 0.5 * error(model, plain)
    statistics = run.passes[0].statistics
    assert statistics["output error after recovery"] < statistics["output error before recovery"]
    assert any("held-back" in r.message for r in run.passes[0].remarks)


def test_reconstruct_after_prune_equals_recovery_inside_it(model):
    inside, _ = optimise(model, "prune:ratio=0.5:align=1")
    after, run = optimise(model, "prune:ratio=0.5:align=1:recover=false,reconstruct")
    x = images(20, 3)
    left, right = (Session(m.serialize()).run({"x": x})["y"] for m in (inside, after))
    np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)
    assert run.passes[1].statistics["layers recovered"] == 2


def test_matching_helps_less_than_least_squares(model):
    start = "prune:ratio=0.5:align=1:recover=false:criterion=l2"
    plain, _ = optimise(model, start)
    matched, _ = optimise(model, f"{start},reconstruct:method=match")
    fitted, _ = optimise(model, f"{start},reconstruct")
    assert error(model, fitted) < error(model, matched) < error(model, plain)


def test_reconstruct_alone_does_nothing(model):
    changed, run = optimise(model, "reconstruct")
    assert not run.passes[0].changed
    assert any("nothing to recover" in r.message for r in run.passes[0].remarks)
    assert error(model, changed) == 0


def test_without_data_synthetic_inputs_are_used_and_said(model):
    start = "prune:ratio=0.5:align=1:criterion=l2"
    plain, _ = optimise(model, start, data=False)
    changed, run = optimise(model, f"{start},reconstruct", data=False)
    assert any(r.kind == "warning" and "data-free" in r.message for r in run.passes[1].remarks)
    assert error(model, changed) < error(model, plain)


def test_results_repeat_byte_for_byte(model):
    first, _ = optimise(model, "prune:keep_macs=0.5:align=1")
    second, _ = optimise(model, "prune:keep_macs=0.5:align=1")
    assert first.serialize() == second.serialize()


def test_a_budget_that_only_unread_layers_can_meet_is_met_by_magnitude(model):
    """An export that was not folded: the weights behind the first layer are computed from constants."""
    graph = model.graph
    for name in ("w2", "w3"):
        weight = graph.tensors()[name]
        kept = graph.new_constant(f"{name}_kept", np.array(weight.values))
        (made,) = graph.add_node("Neg", [kept]).outputs
        graph.replace_uses(weight, made)
    graph.sort()
    changed, run = optimise(model, "prune:keep_macs=0.5:align=1")
    assert changed.graph.tensors()["w1"].shape[0] < 12
    assert any(r.kind == "warning" and "Run cleanup" in r.message for r in run.passes[0].remarks)
    folded, clean = optimise(model, "cleanup,prune:keep_macs=0.5:align=1")
    assert not any(r.kind == "warning" and "Run cleanup" in r.message for r in clean.passes[-1].remarks)
    assert error(model, folded) < error(model, changed)
