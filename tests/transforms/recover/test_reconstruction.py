from dataclasses import dataclass, field

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.analysis.statistics import Gram, Rows
from graphopt.data.interface import read_interface
from graphopt.data.npz import ArrayDataset
from graphopt.ir import constant_value
from graphopt.runtime.session import Session
from graphopt.transforms.recover.layers import layer_of
from graphopt.transforms.recover.reconstruction import ReconstructionOptions, reconstruct


@dataclass(frozen=True)
class Source:
    tensor: str
    kept: dict = field(default_factory=dict)
    scales: dict = field(default_factory=dict)


def build(nodes, weights, inputs, outputs=("y",)):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in weights.items()],
    )
    return graphopt.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def run(model, x):
    return Session(model.serialize()).run({"x": x})["y"]


def cut(model, cuts):
    """Keep positions of constants: {name: (axis, kept)}."""
    changed = model.clone()
    tensors = changed.graph.tensors()
    for name, (axis, kept) in cuts.items():
        changed.graph.set_weight(tensors[name], np.take(constant_value(tensors[name]), kept, axis))
    return changed


def origins(cuts):
    return lambda name: Source(name, {cuts[name][0]: np.array(cuts[name][1])} if name in cuts else {})


def data(model, x):
    return ArrayDataset({"x": x}, read_interface(model.serialize()), "arrays")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def two_layers(rng, pads=(0, 0, 0, 0), bias=True):
    weights = {
        "w1": rng.standard_normal((6, 3, 3, 3)),
        "b1": rng.standard_normal(6),
        "w2": rng.standard_normal((5, 6, 3, 3)),
        "b2": rng.standard_normal(5),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="first"),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", *(["b2"] if bias else [])], ["y"], name="second", pads=pads),
    ]
    if not bias:
        del weights["b2"]
    return nodes, weights


CUTS = {n: (0, [0, 1, 2, 4, 5]) for n in ("w1", "b1")} | {n: (1, [0, 1, 2, 4, 5]) for n in ("c1", "r1", "w2")}
WEIGHT_CUTS = {n: CUTS[n] for n in ("w1", "b1", "w2")}


def test_linearly_dependent_channel_recovers_exactly(rng):
    nodes, weights = two_layers(rng, pads=(1, 1, 1, 1))
    weights["w1"] = np.abs(weights["w1"])
    weights["b1"] = np.abs(weights["b1"])
    weights["w1"][3] = weights["w1"][0] + 2 * weights["w1"][4]
    weights["b1"][3] = weights["b1"][0] + 2 * weights["b1"][4]
    model = build(nodes, weights, {"x": ["N", 3, 8, 8]})
    x = np.abs(rng.standard_normal((64, 3, 8, 8))).astype(np.float32)
    pruned = cut(model, WEIGHT_CUTS)
    before = np.abs(run(pruned, x) - run(model, x)).max()
    (step,) = reconstruct(pruned, model, data(model, x), origins(CUTS))
    assert before > 1
    assert step.method == "least squares"
    assert step.after < 1e-6 < 1e-3 < step.before
    np.testing.assert_allclose(run(pruned, x), run(model, x), rtol=1e-3, atol=2e-2)


def test_duplicated_channel_merges_with_zero_loss(rng):
    nodes, weights = two_layers(rng, pads=(1, 1, 1, 1))
    weights["w1"][3], weights["b1"][3] = weights["w1"][2], weights["b1"][2]
    model = build(nodes, weights, {"x": ["N", 3, 8, 8]})
    x = rng.standard_normal((96, 3, 8, 8)).astype(np.float32)
    pruned = cut(model, WEIGHT_CUTS)
    reconstruct(pruned, model, data(model, x), origins(CUTS))
    merged = pruned.graph.tensors()["w2"].values
    wanted = weights["w2"][:, [0, 1, 2, 4, 5]].copy()
    wanted[:, 2] += weights["w2"][:, 3]
    np.testing.assert_allclose(merged, wanted, atol=5e-3)
    np.testing.assert_allclose(run(pruned, x), run(model, x), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("bias", [True, False])
def test_constant_channel_folds_into_the_bias(rng, bias):
    nodes, weights = two_layers(rng, bias=bias)
    weights["w1"][3], weights["b1"][3] = 0, 2.5
    model = build(nodes, weights, {"x": ["N", 3, 8, 8]})
    x = rng.standard_normal((96, 3, 8, 8)).astype(np.float32)
    pruned = cut(model, WEIGHT_CUTS)
    reconstruct(pruned, model, data(model, x), origins(CUTS))
    second = next(n for n in pruned.graph.nodes if n.name == "second")
    wanted = weights["w2"][:, 3].sum(axis=(1, 2)) * 2.5 + (weights["b2"] if bias else 0)
    np.testing.assert_allclose(second.inputs[2].values, wanted, atol=5e-2)
    np.testing.assert_allclose(run(pruned, x), run(model, x), rtol=1e-3, atol=2e-2)


def test_constant_channel_under_zero_padding_reports_the_border_error(rng):
    nodes, weights = two_layers(rng, pads=(1, 1, 1, 1))
    weights["w1"][3], weights["b1"][3] = 0, 2.5
    model = build(nodes, weights, {"x": ["N", 3, 8, 8]})
    x = rng.standard_normal((96, 3, 8, 8)).astype(np.float32)
    pruned = cut(model, WEIGHT_CUTS)
    (step,) = reconstruct(pruned, model, data(model, x), origins(CUTS), ReconstructionOptions(chains=False))
    assert 1e-4 < step.after < step.before / 5


def test_constant_channel_under_zero_padding_goes_into_another_constant_exactly(rng):
    nodes, weights = two_layers(rng, pads=(1, 1, 1, 1))
    weights["w1"][[2, 3]], weights["b1"][[2, 3]] = 0, (0.5, 2.5)
    model = build(nodes, weights, {"x": ["N", 3, 8, 8]})
    x = rng.standard_normal((96, 3, 8, 8)).astype(np.float32)
    pruned = cut(model, WEIGHT_CUTS)
    (step,) = reconstruct(pruned, model, data(model, x), origins(CUTS), ReconstructionOptions(chains=False))
    assert step.after < 1e-6 < 1e-3 < step.before
    np.testing.assert_allclose(run(pruned, x), run(model, x), rtol=1e-3, atol=1e-2)


def test_residual_sum_is_the_target(rng):
    weights = {n: rng.standard_normal((4, 4, 1, 1)) for n in ("w0", "w1", "w2")}
    weights["w0b"] = rng.standard_normal((4, 4, 1, 1))
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="stem"),
        helper.make_node("Relu", ["a"], ["ar"]),
        helper.make_node("Conv", ["ar", "w0b"], ["s"], name="trunk"),
        helper.make_node("Conv", ["x", "w1"], ["b"], name="inner"),
        helper.make_node("Relu", ["b"], ["br"]),
        helper.make_node("Conv", ["br", "w2"], ["c"], name="outer"),
        helper.make_node("Add", ["c", "s"], ["y"]),
    ]
    model = build(nodes, weights, {"x": ["N", 4, 6, 6]})
    cuts = {"w0": (0, [0, 1, 3]), "a": (1, [0, 1, 3]), "ar": (1, [0, 1, 3]), "w0b": (1, [0, 1, 3])}
    x = rng.standard_normal((80, 4, 6, 6)).astype(np.float32)
    errors = {}
    for residual in (False, True):
        pruned = cut(model, {n: cuts[n] for n in ("w0", "w0b")})
        options = ReconstructionOptions(residual_targets=residual, chains=False)
        steps = reconstruct(pruned, model, data(model, x), origins(cuts), options, touched=frozenset({"inner"}))
        assert [s.node for s in steps] == ["trunk", "inner", "outer"]
        errors[residual] = float(np.square(run(pruned, x) - run(model, x)).mean())
    assert errors[True] < 0.9 * errors[False]


def test_untouched_layers_stay_as_they_are(rng):
    nodes, weights = two_layers(rng)
    model = build(nodes, weights, {"x": ["N", 3, 8, 8]})
    x = rng.standard_normal((32, 3, 8, 8)).astype(np.float32)
    changed = model.clone()
    assert reconstruct(changed, model, data(model, x), origins({})) == ()
    assert changed.serialize() == model.serialize()


def test_useless_step_is_undone(rng):
    nodes, weights = two_layers(rng)
    model = build(nodes, weights, {"x": ["N", 3, 8, 8]})
    x = rng.standard_normal((32, 3, 8, 8)).astype(np.float32)
    changed = model.clone()
    steps = reconstruct(changed, model, data(model, x), origins({}), touched=frozenset({"first"}))
    assert [s.node for s in steps] == ["first", "second"]
    assert all(s.after <= s.before for s in steps)
    np.testing.assert_allclose(run(changed, x), run(model, x), rtol=1e-3, atol=1e-3)


def dense_chain(rng, kind):
    weights = {"w1": rng.standard_normal((5, 8)), "w2": rng.standard_normal((8, 4)), "b2": rng.standard_normal(4)}
    first = [helper.make_node("MatMul", ["x", "w1"], ["h"], name="first"), helper.make_node("Tanh", ["h"], ["t"])]
    if kind == "matmul":
        second = [
            helper.make_node("MatMul", ["t", "w2"], ["m"], name="second"),
            helper.make_node("Add", ["b2", "m"], ["y"]),
        ]
    else:
        weights["w2"] = weights["w2"].T.copy()
        second = [helper.make_node("Gemm", ["t", "w2", "b2"], ["y"], name="second", transB=1, alpha=0.5, beta=2.0)]
    return first + second, weights


@pytest.mark.parametrize("kind", ["matmul", "gemm"])
def test_dense_layers_recover_a_duplicate(rng, kind):
    nodes, weights = dense_chain(rng, kind)
    weights["w1"][:, 7] = weights["w1"][:, 2]
    shape = ["N", 3, 5] if kind == "matmul" else ["N", 5]
    model = build(nodes, weights, {"x": shape})
    kept = list(range(7))
    in_axis = 0 if kind == "matmul" else 1
    last = len(shape) - 1
    cuts = {"w1": (1, kept), "h": (last, kept), "t": (last, kept), "w2": (in_axis, kept)}
    x = rng.standard_normal((200, *shape[1:])).astype(np.float32)
    pruned = cut(model, {n: cuts[n] for n in ("w1", "w2")})
    assert np.abs(run(pruned, x) - run(model, x)).max() > 0.1
    (step,) = reconstruct(pruned, model, data(model, x), origins(cuts))
    assert step.method == "least squares"
    np.testing.assert_allclose(run(pruned, x), run(model, x), atol=5e-3)


CONVOLUTIONS = {
    "plain": ((4, 6, 3, 2), {"strides": [2, 1], "pads": [1, 0, 0, 1], "dilations": [1, 2]}, "Conv"),
    "grouped": ((4, 3, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}, "Conv"),
    "depthwise": ((6, 1, 3, 3), {"group": 6, "strides": [2, 2]}, "Conv"),
    "multiplier": ((12, 1, 3, 3), {"group": 6, "auto_pad": "SAME_UPPER", "strides": [2, 2]}, "Conv"),
    "transposed": ((6, 4, 3, 3), {"strides": [2, 2], "pads": [1, 1, 0, 1], "output_padding": [1, 0]}, "ConvTranspose"),
    "transposed grouped": ((6, 2, 2, 3), {"group": 3, "strides": [2, 1], "dilations": [2, 1]}, "ConvTranspose"),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_layer_matrix_times_features_is_the_layer(rng, case):
    shape, attrs, op = CONVOLUTIONS[case]
    outputs = shape[0] if op == "Conv" else shape[1] * attrs.get("group", 1)
    weights = {"w": rng.standard_normal(shape), "b": rng.standard_normal(outputs)}
    node = helper.make_node(op, ["x", "w", "b"], ["y"], name="layer", **attrs)
    model = build([node], weights, {"x": ["N", 6, 7, 8]})
    layer = layer_of(model.graph.nodes[0])
    x = rng.standard_normal((3, 6, 7, 8)).astype(np.float32)
    y = run(model, x)
    ((_, rows),) = layer.patches.blocks(x, np.arange(3))
    ((_, wanted),) = layer.target.blocks(y, np.arange(3))
    features = np.concatenate([rows, np.ones((*rows.shape[:3], 1))], axis=3)
    got = np.einsum("npgk,gkm->npgm", features, layer.matrix()).reshape(wanted.shape)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    before = model.serialize()
    layer.assign(model.graph, layer.matrix())
    np.testing.assert_allclose(run(model, x), y, rtol=1e-5, atol=1e-5)
    assert len(before) == len(model.serialize())
    accumulator = Gram(layer.patches).create()
    accumulator.update((x,), Rows(3, 3))
    assert accumulator.matrix.shape[0] == layer.matrix().shape[0]


def test_memory_cap_gives_the_same_weights(rng):
    nodes, weights = two_layers(rng, pads=(1, 1, 1, 1))
    model = build(nodes, weights, {"x": ["N", 3, 8, 8]})
    x = rng.standard_normal((50, 3, 8, 8)).astype(np.float32)
    found = []
    for options in (ReconstructionOptions(chains=False), ReconstructionOptions(max_memory=1, batch=7, chains=False)):
        pruned = cut(model, WEIGHT_CUTS)
        reconstruct(pruned, model, data(model, x), origins(CUTS), options)
        found.append(run(pruned, x))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_input_weights_recover_a_duplicate(rng, op, gates):
    hidden = 5
    weights = {
        "w1": rng.standard_normal((3, 6)),
        "w": rng.standard_normal((2, gates * hidden, 6)) * 0.3,
        "r": rng.standard_normal((2, gates * hidden, hidden)) * 0.3,
        "b": rng.standard_normal((2, 2 * gates * hidden)) * 0.3,
    }
    weights["w1"][:, 5] = weights["w1"][:, 1]
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], name="first"),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node(op, ["t", "w", "r", "b"], ["y"], name="second", hidden_size=hidden, direction="bidirectional"),
    ]
    model = build(nodes, weights, {"x": [7, "N", 3]})
    kept = [0, 1, 2, 3, 4]
    cuts = {"w1": (1, kept), "h": (2, kept), "t": (2, kept), "w": (2, kept)}
    x = rng.standard_normal((60, 7, 1, 3)).astype(np.float32)
    pruned = cut(model, {n: cuts[n] for n in ("w1", "w")})
    before = np.abs(run(pruned, x[0]) - run(model, x[0])).max()
    steps = reconstruct(pruned, model, data(model, x), origins(cuts))
    assert steps[0].method == "least squares"
    np.testing.assert_allclose(run(pruned, x[0]), run(model, x[0]), atol=1e-3)
    assert before > 0.02


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_hidden_weights_recover_a_duplicated_unit(rng, op):
    hidden, gates = 5, 4 if op == "LSTM" else 3
    weights = {
        "w": rng.standard_normal((2, gates * hidden, 3)) * 0.5,
        "r": rng.standard_normal((2, gates * hidden, hidden)) * 0.5,
        "b": rng.standard_normal((2, 2 * gates * hidden)) * 0.3,
        "h": rng.standard_normal((hidden, 4)),
    }
    for gate in range(gates):
        for name in ("w", "r"):
            weights[name][:, gate * hidden + 4] = weights[name][:, gate * hidden + 1]
        for half in (0, gates * hidden):
            weights["b"][:, half + gate * hidden + 4] = weights["b"][:, half + gate * hidden + 1]
    nodes = [
        helper.make_node(op, ["x", "w", "r", "b"], ["t"], name="cell", hidden_size=hidden, direction="bidirectional"),
        helper.make_node("MatMul", ["t", "h"], ["y"], name="head"),
    ]
    model = build(nodes, weights, {"x": [7, "N", 3]})
    kept = [0, 1, 2, 3]
    rows = [g * hidden + k for g in range(gates) for k in kept]
    both = rows + [gates * hidden + r for r in rows]
    pruned = model.clone()
    tensors = pruned.graph.tensors()
    for name, value in {
        "w": weights["w"][:, rows],
        "r": weights["r"][:, rows][:, :, kept],
        "b": weights["b"][:, both],
        "h": weights["h"][kept],
    }.items():
        pruned.graph.set_weight(tensors[name], value.astype(np.float32))
    pruned.graph.nodes[0].attrs["hidden_size"] = 4
    x = rng.standard_normal((80, 7, 1, 3)).astype(np.float32)

    def origin(name):
        cuts = {"w": {1: rows}, "r": {1: rows, 2: kept}, "b": {1: both}, "h": {0: kept}, "t": {3: kept}}
        return Source(name, {axis: np.array(k) for axis, k in cuts.get(name, {}).items()})

    before = np.abs(run(pruned, x[0]) - run(model, x[0])).max()
    steps = reconstruct(pruned, model, data(model, x), origin)
    assert [s.node for s in steps] == ["cell", "head"]
    assert before > 0.05
    np.testing.assert_allclose(run(pruned, x[0]), run(model, x[0]), atol=before / 20)


def test_too_many_features_get_a_factor_and_a_bias_a_channel(rng):
    nodes, weights = two_layers(rng, pads=(1, 1, 1, 1))
    model = build(nodes, weights, {"x": ["N", 3, 8, 8]})
    x = rng.standard_normal((96, 3, 8, 8)).astype(np.float32)
    pruned = cut(model, WEIGHT_CUTS)
    before = np.square(run(pruned, x) - run(model, x)).sum()
    (step,) = reconstruct(pruned, model, data(model, x), origins(CUTS), ReconstructionOptions(most_features=20))
    assert step.method == "scale and bias"
    assert step.after < step.before
    assert np.square(run(pruned, x) - run(model, x)).sum() < before
    factors = pruned.graph.tensors()["w2"].values / weights["w2"][:, [0, 1, 2, 4, 5]]
    np.testing.assert_allclose(factors, np.broadcast_to(factors[:, :1, :1, :1], factors.shape), rtol=1e-4)
    np.testing.assert_allclose(run(pruned, x).mean(axis=(0, 2, 3)), run(model, x).mean(axis=(0, 2, 3)), atol=0.2)
