"""Known answers of weight clipping."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphopt import load
from graphopt.data.interface import read_interface
from graphopt.data.npz import ArrayDataset
from graphopt.errors import UsageError
from graphopt.ir import constant_value
from graphopt.passes.clip import Clip, best_int8_limit
from graphopt.pipeline.context import Settings
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.pipeline import Pipeline
from graphopt.pipeline.registry import Registry

WEIGHT = np.array([[0.05, -0.2, 3.0], [0.01, 0.5, -1.0]], np.float32)


def model(constant_node: bool = False):
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,2] x) => (float[N,3] y) { y = MatMul(x, w) }'
    proto = onnx.parser.parse_model(text)
    tensor = onnx.numpy_helper.from_array(WEIGHT, "w")
    if constant_node:
        proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], value=tensor))
    else:
        proto.graph.initializer.append(tensor)
    return load(proto)


def clip(target=None, **options):
    target = target or model()
    done = PassManager(Registry()).run(target, Pipeline((Clip(**options),)))
    node = next(n for n in target.graph.nodes if n.op == "MatMul")
    return constant_value(node.inputs[1]), done


def test_below_zeroes_small_magnitudes():
    value, done = clip(below="0.3")
    assert value.tolist() == [[0, 0, 3.0], [0, 0.5, -1.0]]
    assert done.passes[0].statistics == {"weights changed": 3, "sparsity": 0.5}


def test_below_relative_to_the_largest():
    assert clip(below="0.1", relative=True)[0].tolist() == [[0, 0, 3.0], [0, 0.5, -1.0]]


def test_below_percentile():
    value, _ = clip(below="p50")
    assert (value == 0).sum() == 3


def test_above_saturates_both_signs():
    value, _ = clip(above="0.75")
    assert np.allclose(value, [[0.05, -0.2, 0.75], [0.01, 0.5, -0.75]])


def test_above_percentile_and_sigma():
    assert clip(above="p100")[0].max() == 3.0
    sigma = float(np.sqrt(np.mean(np.square(WEIGHT, dtype=np.float64))))
    assert np.isclose(clip(above="1sigma")[0].max(), sigma)


def test_per_channel_thresholds():
    value, _ = clip(below="0.5", relative=True, per="channel")
    assert value.tolist() == [[np.float32(0.05), 0, 3.0], [0, 0.5, 0]]


def test_both_at_once():
    assert np.allclose(clip(below="0.1", above="1.0")[0], [[0, -0.2, 1.0], [0, 0.5, -1.0]])


def test_weights_in_constant_nodes():
    value, _ = clip(model(constant_node=True), below="0.3")
    assert value.tolist() == [[0, 0, 3.0], [0, 0.5, -1.0]]


def test_exclude_by_operator():
    value, done = clip(below="0.3", exclude=("op=MatMul",))
    assert value.tolist() == WEIGHT.tolist()
    assert not done.passes[0].changed


def test_best_limit_balances_a_lone_outlier_against_rounding():
    count, outlier = 100_000, 40.0
    bulk = np.abs(np.random.default_rng(0).standard_normal(count)).astype(np.float32)
    slope = count / (127**2 * 12)
    assert best_int8_limit(np.append(bulk, np.float32(outlier))) == pytest.approx(outlier / (1 + slope), rel=0.03)
    assert best_int8_limit(np.zeros(3, np.float32)) == 0.0


@pytest.mark.parametrize(
    "options",
    [{}, {"below": "x"}, {"below": "-1"}, {"above": "p101"}, {"below": "3sigma"}, {"below": "0.1", "fidelity": 20.0}],
)
def test_wrong_options(options):
    with pytest.raises(UsageError, match="clip"):
        clip(**options)


def test_with_data_what_is_left_is_fitted_and_zeros_stay():
    rng = np.random.default_rng(0)
    original = model()
    x = (rng.standard_normal((200, 1)) @ [[1.0, 0.9]] + 0.1 * rng.standard_normal((200, 2))).astype(np.float32)
    data = ArrayDataset({"x": x}, read_interface(original.serialize()), "arrays")

    def error(**options):
        changed = original.clone()
        run = PassManager(Registry(), Settings(data=data)).run(changed, Pipeline((Clip(**options),)))
        weights = constant_value(next(n for n in changed.graph.nodes if n.op == "MatMul").inputs[1])
        left = x @ weights - x @ WEIGHT
        return weights, float(np.square(left).sum() / np.square(x @ WEIGHT).sum()), run.passes[0]

    plain, before, _ = error(below="0.3", recover=False)
    fitted, after, done = error(below="0.3")
    assert np.array_equal(fitted == 0, plain == 0)
    assert after < 0.5 * before
    assert "output error after recovery" in done.statistics
    plain, before, _ = error(above="0.4", recover=False)
    fitted, after, _ = error(above="0.4")
    assert after < before
    assert np.abs(fitted).max() <= np.abs(plain).max()


def test_saturated_weights_stay_within_their_limit_and_the_next_layer_makes_up():
    """Two layers without an activation: what the first may not give, the second one gives."""
    rng = np.random.default_rng(1)
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,8] x) => (float[N,6] y)'
        " { h = MatMul(x, w1) y = MatMul(h, w2) }"
    )
    proto = onnx.parser.parse_model(text)
    first, second = rng.uniform(-1, 1, (8, 8)).astype(np.float32), rng.uniform(-1, 1, (8, 6)).astype(np.float32)
    first[2, 3] = 5.0
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for v, n in ((first, "w1"), (second, "w2")))
    original = load(proto)
    x = rng.standard_normal((200, 8)).astype(np.float32)
    data = ArrayDataset({"x": x}, read_interface(original.serialize()), "arrays")

    def error(**options):
        changed = original.clone()
        PassManager(Registry(), Settings(data=data)).run(changed, Pipeline((Clip(above="3.0", **options),)))
        weights = [constant_value(n.inputs[1]) for n in changed.graph.nodes]
        wanted = x @ first @ second
        return weights, float(np.square(x @ weights[0] @ weights[1] - wanted).sum() / np.square(wanted).sum())

    _, before = error(recover=False)
    weights, after = error()
    assert max(np.abs(w).max() for w in weights) <= 3.0
    assert before > 0.05
    assert after < 1e-3


def test_layers_whose_saturation_the_outputs_cannot_bear_keep_their_outliers():
    """The outlier of the first layer carries the output, that of the second one reads a tensor of zeros."""
    rng = np.random.default_rng(2)
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,8] x) => (float[N,6] y)'
        " { h = MatMul(x, w1) z = Sub(h, h) u = MatMul(z, w2) v = MatMul(h, w3) y = Add(u, v) }"
    )
    proto = onnx.parser.parse_model(text)
    shapes = {"w1": (8, 8), "w2": (8, 6), "w3": (8, 6)}
    weights = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    weights["w1"][0, 0] = weights["w2"][0, 0] = 50
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for n, v in weights.items())
    original = load(proto)
    x = rng.standard_normal((100, 8)).astype(np.float32)
    data = ArrayDataset({"x": x}, read_interface(original.serialize()), "arrays")

    def tops(fidelity: float) -> tuple[list[float], list[str]]:
        changed = original.clone()
        step = Clip(above="5", fidelity=fidelity, recover=False)
        run = PassManager(Registry(), Settings(data=data)).run(changed, Pipeline((step,)))
        tensors = changed.graph.tensors()
        left = [r.message for r in run.passes[0].remarks if "outliers stay" in r.message]
        return [float(np.abs(constant_value(tensors[n])).max()) for n in ("w1", "w2")], left

    assert tops(20.0)[0] == [50.0, 5.0]
    assert len(tops(20.0)[1]) == 1
    assert tops(0.0) == ([5.0, 5.0], [])


def test_a_fidelity_that_cannot_be_measured_is_told():
    changed = model()
    run = PassManager(Registry(), Settings()).run(changed, Pipeline((Clip(above="0.4", fidelity=20.0),)))
    assert any(r.kind == "warning" and "--data" in r.message for r in run.passes[0].remarks)
    assert np.abs(constant_value(changed.graph.nodes[-1].inputs[1])).max() <= np.float32(0.4)
