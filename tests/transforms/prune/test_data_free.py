"""Recovery from weights alone."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.pipeline.context import Settings
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.pipeline import Pipeline
from graphopt.pipeline.registry import Registry
from graphopt.runtime.session import Session


def build(nodes, weights):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in weights.items()],
    )
    return graphopt.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def outputs(model, x):
    return Session(model.serialize()).run({"x": x})["y"]


def prune(model, text):
    changed = model.clone()
    run = PassManager(Registry(), Settings()).run(changed, Pipeline.parse(text, Registry()))
    return changed, run.passes[-1]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def network(rng, activation="Relu", norm=False):
    w1, b1 = rng.standard_normal((6, 3, 3, 3)), 0.5 * rng.standard_normal(6)
    w1[4], b1[4] = 0.25 * w1[1], 0.25 * b1[1]
    weights = {"w1": w1, "b1": b1, "w2": rng.standard_normal((5, 6, 3, 3)), "b2": rng.standard_normal(5)}
    nodes = [helper.make_node("Conv", ["x", "w1", "b1"], ["c"], name="first", pads=[1, 1, 1, 1])]
    last = "c"
    if norm:
        for name, values in (("g", [0.5] * 6), ("s", [3.0] * 6), ("m", b1), ("v", np.square(w1).sum(axis=(1, 2, 3)))):
            weights[name] = values
        nodes.append(helper.make_node("BatchNormalization", ["c", "g", "s", "m", "v"], ["n"], name="norm"))
        last = "n"
    nodes.append(helper.make_node(activation, [last], ["r"], name="act"))
    nodes.append(helper.make_node("Conv", ["r", "w2", "b2"], ["y"], name="second", pads=[1, 1, 1, 1]))
    return build(nodes, weights)


def test_scaled_duplicate_merges_with_zero_loss_and_is_marked_data_free(rng):
    model = network(rng)
    x = rng.standard_normal((4, 3, 8, 8)).astype(np.float32)
    without, _ = prune(model, "prune:ratio=0.17:align=1:recover=false")
    merged, done = prune(model, "prune:ratio=0.17:align=1")
    wanted = outputs(model, x)
    assert np.abs(outputs(without, x) - wanted).max() > 0.5
    np.testing.assert_allclose(outputs(merged, x), wanted, atol=0.05 * np.abs(wanted).max())
    error = np.square(outputs(merged, x) - wanted).sum() / np.square(outputs(without, x) - wanted).sum()
    assert error < 1e-4
    assert any("data-free" in r.message for r in done.remarks)
    assert done.statistics["layers recovered without data"] == 1


def test_batchnorm_gives_the_mean_of_what_is_gone(rng):
    model = network(rng, norm=True)
    x = rng.standard_normal((64, 3, 8, 8)).astype(np.float32)
    without, _ = prune(model, "prune:ratio=0.5:align=1:recover=false")
    merged, _ = prune(model, "prune:ratio=0.5:align=1")
    wanted = outputs(model, x)[:, :, 1:-1, 1:-1].mean(axis=(0, 2, 3))
    before, after = (np.abs(outputs(m, x)[:, :, 1:-1, 1:-1].mean(axis=(0, 2, 3)) - wanted) for m in (without, merged))
    assert after.max() < 0.05 * before.max()


def test_what_is_not_homogeneous_is_left_alone(rng):
    _, done = prune(network(rng, "Sigmoid"), "prune:ratio=0.17:align=1")
    assert "layers recovered without data" not in done.statistics
