"""Elementwise functions behind a tensor, in one node or several."""

import numpy as np
import pytest
from onnx import parser

import graphopt
from graphopt.runtime.session import Session
from graphopt.transforms.recover.responses import response_of

CASES = {
    "Relu": "y = Relu(a)",
    "relu6": "y = Clip(a, zero, six)",
    "gelu": "d = Div(a, root) e = Erf(d) f = Add(e, one) g = Mul(a, f) y = Mul(g, half)",
    "silu": "s = Sigmoid(a) y = Mul(a, s)",
    "hard swish": "c = Add(a, three) d = Clip(c, zero, six) e = Mul(a, d) y = Div(e, six)",
    "tanh": "y = Tanh(a)",
}
CONSTANTS = {"root": 2**0.5, "one": 1.0, "half": 0.5, "zero": 0.0, "six": 6.0, "three": 3.0}


def build(body, tail="z = Neg(y)", outputs="float[N, 4] z"):
    held = ", ".join(f"float {n} = {{{v}}}" for n, v in CONSTANTS.items())
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x) => ({outputs}) <{held}>
    {{ a = Identity(x) {body} {tail} }}"""
    return graphopt.load(parser.parse_model(text))


@pytest.mark.parametrize("body", CASES.values(), ids=CASES.keys())
def test_function_equals_the_runtime(body):
    model = build(body, "z = Softmax(y)", "float[N, 4] y")
    found = response_of(model.graph.tensors()["a"], {id(t) for t in model.graph.outputs})
    x = np.random.default_rng(0).normal(scale=3, size=(50, 4)).astype(np.float32)
    np.testing.assert_allclose(found.apply(x), Session(model.serialize()).run({"x": x})["y"], atol=1e-5)
    assert found.end.name == "y"


def test_stops_where_something_else_comes_in():
    model = build("y = Relu(a)", "b = Relu(x) z = Add(y, b)")
    assert response_of(model.graph.tensors()["a"], set()).end.name == "y"


@pytest.mark.parametrize(
    "body",
    ["y = Softmax(a)", "y = Relu(a) q = MatMul(a, x)", "y = Mul(a, six)", "y = Add(a, x)", "y = Neg(a) v = Relu(a)"],
)
def test_no_response(body):
    model = build(body)
    outputs = {id(t) for t in model.graph.outputs}
    assert response_of(model.graph.tensors()["a"], outputs) is None
