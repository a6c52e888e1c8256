"""Joint fits of convolutions in a row, and fits behind an activation."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.data.interface import read_interface
from graphopt.data.npz import ArrayDataset
from graphopt.ir import constant_value
from graphopt.pipeline.origin import Origins
from graphopt.runtime.session import Session
from graphopt.transforms.recover.chain import Link, _Conv
from graphopt.transforms.recover.layers import layer_of
from graphopt.transforms.recover.plan import Job
from graphopt.transforms.recover.reconstruction import ReconstructionOptions, reconstruct


def build(nodes, weights, channels=3):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels, 10, 9])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in weights.items()],
    )
    return graphopt.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def run(model, x):
    return Session(model.serialize()).run({"x": x})["y"]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


CASES = [
    ({"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, (5, 4, 3, 3)),
    ({"kernel_shape": [3, 2], "pads": [1, 0, 0, 1], "strides": [2, 1]}, (5, 4, 3, 2)),
    ({"kernel_shape": [3, 3], "dilations": [2, 1]}, (5, 4, 3, 3)),
    ({"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2], "group": 4}, (4, 1, 3, 3)),
]


@pytest.mark.parametrize(("attributes", "shape"), CASES)
def test_maps_run_as_the_convolution_and_go_back_as_its_adjoint(rng, attributes, shape):
    weights = {"w": rng.standard_normal(shape), "b": rng.standard_normal(shape[0])}
    model = build([helper.make_node("Conv", ["x", "w", "b"], ["y"], name="c", **attributes)], weights, channels=4)
    layer = layer_of(model.graph.nodes[0])
    conv = _Conv(Link(Job(layer, "y", None, None, None), None))
    x = rng.standard_normal((2, 4, 10, 9)).astype(np.float32)
    values = np.moveaxis(x, 1, -1)
    found = conv.run(values, conv.start)
    np.testing.assert_allclose(np.moveaxis(found, -1, 1), run(model, x), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(conv.matrix(conv.start), layer.matrix(), rtol=1e-6)
    pull = rng.standard_normal(found.shape).astype(np.float32)
    unbiased = conv.start.copy()
    unbiased[-1] = 0
    back = conv.back(pull, unbiased, values.shape)
    assert np.vdot(conv.run(values, unbiased), pull) == pytest.approx(np.vdot(values, back), rel=1e-4)


def block(rng, activation="Relu", between=()):
    weights = {
        "w1": 0.3 * rng.standard_normal((12, 3, 3, 3)),
        "b1": 0.1 * rng.standard_normal(12),
        "w2": 0.2 * rng.standard_normal((6, 12, 3, 3)),
        "b2": 0.1 * rng.standard_normal(6),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node(activation, ["a"], ["h"], name="act"),
        helper.make_node("Conv", ["h", "w2", "b2"], ["c"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"], name="out"),
    ]
    return build(nodes, weights)


GELU = [
    ("Div", ["a", "root"], "d"), ("Erf", ["d"], "e"), ("Add", ["e", "one"], "f"), ("Mul", ["a", "f"], "g"),
    ("Mul", ["g", "half"], "h"),
]  # fmt: skip


def perceptron(rng):
    """A residual sum of a two-layer perceptron with GELU in several nodes, on [N, 10, 9] with 9 features."""
    weights = {
        "w1": 0.5 * rng.standard_normal((9, 16)),
        "b1": 0.1 * rng.standard_normal(16),
        "w2": 0.4 * rng.standard_normal((16, 9)),
        "b2": 0.1 * rng.standard_normal(9),
        "root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["m"], name="first"),
        helper.make_node("Add", ["m", "b1"], ["a"]),
        *(helper.make_node(op, inputs, [output]) for op, inputs, output in GELU),
        helper.make_node("MatMul", ["h", "w2"], ["n"], name="second"),
        helper.make_node("Add", ["n", "b2"], ["o"]),
        helper.make_node("Add", ["o", "x"], ["y"]),
    ]
    return build(nodes, weights)


def narrowed(model, kept):
    changed = model.clone()
    origins = Origins(tuple(model.graph.tensors()))
    dense = any(n.op == "MatMul" for n in model.graph.nodes)
    for name, axis in (("w1", 1), ("b1", 0), ("w2", 0)) if dense else (("w1", 0), ("b1", 0), ("w2", 1)):
        tensor = changed.graph.tensors()[name]
        changed.graph.set_weight(tensor, np.take(constant_value(tensor), kept, axis))
        origins.cut(name, axis, kept)
    for name in "madefgh" if dense else "ah":
        origins.cut(name, 3 if dense else 1, kept)
    return changed, origins


def left(rng, model, options):
    changed, origins = narrowed(model, [0, 2, 3, 5, 8, 11])
    x = rng.standard_normal((120, 3, 10, 9)).astype(np.float32)
    data = ArrayDataset({"x": x}, read_interface(model.serialize()), "arrays")
    steps = reconstruct(changed, model, data, origins.of, options)
    fresh = rng.standard_normal((40, 3, 10, 9)).astype(np.float32)
    wanted = run(model, fresh)
    return float(np.square(run(changed, fresh) - wanted).sum() / np.square(wanted - wanted.mean()).sum()), steps


def test_products_with_a_function_in_several_nodes_are_fitted_together():
    errors = []
    for chains in (False, True):
        rng = np.random.default_rng(0)
        error, steps = left(rng, perceptron(rng), ReconstructionOptions(chains=chains))
        errors.append(error)
    assert errors[1] < 0.9 * errors[0]
    assert steps[-1].method == "joint fit"


def test_each_refinement_helps_on_fresh_data():
    errors = []
    for responses, chains in ((False, False), (True, False), (True, True)):
        rng = np.random.default_rng(0)
        error, steps = left(rng, block(rng), ReconstructionOptions(responses=responses, chains=chains))
        errors.append(error)
    assert errors[1] < 0.97 * errors[0]
    assert errors[2] < 0.8 * errors[1]
    joint = next(s for s in steps if s.method == "joint fit")
    assert joint.after < joint.before
