"""Masked equivalence of narrow models: proven in float32, whatever the narrow type rounds."""

from __future__ import annotations

import numpy as np
from transforms.pruning import prune_and_check, random_keep, tiny, units_of

from graphopt.transforms.prune.in_float32 import in_float32

HALF = """(float16[2,64] x, float16[64,96] w1, float16[96,80] w2, float16[80,40] w3) => (float16 y) {
    a = MatMul(x, w1) r = Tanh(a) b = MatMul(r, w2) s = Softmax(b) c = Add(b, s) t = Tanh(c) y = MatMul(t, w3) }"""

ROUNDED = """(float16[8,64] x, float16[64,256] w1, float16[256,256] w2, float16[256,64] w3) => (float16 y) {
    a = MatMul(x, w1) p = Mul(a, a) r = Relu(a) b = MatMul(r, w2) t = ReduceMean<axes=[-1]>(b) d = Sub(b, t)
    q = Add(d, p) e = Div(q, a) f = Tanh(e) c = MatMul(f, w3) y = Softmax(c) }"""


def test_a_half_precision_model_is_proven_in_float32() -> None:
    model = tiny(ROUNDED, seed=1)
    units = units_of(model)
    found = prune_and_check(model, random_keep(units), units)
    assert found.passed
    assert not found.ill_conditioned
    assert max(found.error, found.probe_error) < 1e-5


def test_names_stay_and_the_model_is_not_touched() -> None:
    model = tiny(HALF)
    before = model.serialize()
    wide = in_float32(model)
    assert model.serialize() == before
    assert [t.name for t in wide.graph.outputs] == ["y"]
    assert {t.dtype for t in wide.graph.outputs} == {np.dtype(np.float32)}
    assert {t.dtype for t in wide.graph.initializers} == {np.dtype(np.float32)}
    assert {"a", "b", "c"} <= set(wide.graph.tensors())


def test_a_float32_model_is_not_copied() -> None:
    model = tiny(HALF.replace("float16", "float"))
    assert in_float32(model) is model


def test_an_input_that_is_an_output_keeps_its_type() -> None:
    model = tiny(HALF)
    model.graph.outputs = [*model.graph.outputs, model.graph.inputs[0]]
    wide = in_float32(model)
    assert [t.dtype for t in wide.graph.outputs] == [np.dtype(np.float32), np.dtype(np.float16)]
    units = units_of(model)
    assert prune_and_check(model, random_keep(units), units).passed
