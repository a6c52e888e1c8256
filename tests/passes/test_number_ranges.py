"""Clean-up at the ends of a type's range: no weight becomes infinite, no computed shape is assumed that would wrap."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphopt import load
from graphopt.pipeline import PassManager, Pipeline, Registry
from tests.passes.numerics import session

REGISTRY = Registry()
RANDOM = np.random.default_rng(0)


def cleaned(text: str, feeds: dict[str, np.ndarray], **values: np.ndarray | int) -> list[str]:
    """The operators that ``cleanup`` leaves, after a look that the outputs stay and every weight is finite."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in values.items())
    model = load(proto)
    PassManager(REGISTRY, check_reports=True).run(model, Pipeline.parse("cleanup", REGISTRY))
    before, after = session(proto.SerializeToString()).run(None, feeds), session(model.serialize()).run(None, feeds)
    for a, b in zip(before, after, strict=True):
        assert np.isfinite(a).all()
        assert a.shape == b.shape
        np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), rtol=5e-3)
    for constant in model.graph.initializers:
        assert np.isfinite(constant.values).all(), constant.name
    return [n.op for n in model.graph.nodes]


@pytest.mark.parametrize(("factor", "left"), [(4.0, ["MatMul", "Mul"]), (0.5, ["MatMul"])])
def test_half_precision_weights_take_a_factor_only_if_they_stay_finite(factor: float, left: list[str]) -> None:
    x = RANDOM.uniform(0.001, 0.01, (2, 4)).astype(np.float16)
    w, c = np.full((4, 3), 6e4, np.float16), np.full(3, factor, np.float16)
    text = "g (float16[2,4] x) => (float16[2,3] y) { t = MatMul(x, w) y = Mul(t, c) }"
    assert cleaned(text, {"x": x}, w=w, c=c) == left


@pytest.mark.parametrize(("factor", "left"), [(4.0, ["Mul", "BatchNormalization"]), (0.5, ["BatchNormalization"])])
def test_half_precision_batchnorm_too(factor: float, left: list[str]) -> None:
    x = RANDOM.uniform(0.001, 0.01, (2, 3, 4, 4)).astype(np.float16)
    zeros, ones = np.zeros(3), np.ones(3)
    values = {"c": np.full((1, 3, 1, 1), factor), "s": 6e4 * ones, "b": zeros, "m": zeros, "v": ones}
    body = "t = Mul(x, c) y = BatchNormalization(t, s, b, m, v)"
    half = {n: v.astype(np.float16) for n, v in values.items()}
    assert cleaned(f"g (float16[2,3,4,4] x) => (float16[2,3,4,4] y) {{ {body} }}", {"x": x}, **half) == left


@pytest.mark.parametrize(
    "body",
    [
        "q = Cast<to=6>(s) p = Mul(q, big) r = Mul(p, big) y = Add(r, q)",
        "wide = Cast<to=7>(big) p = Mul(s, wide) r = Mul(p, wide) q = Cast<to=6>(r) y = Add(q, big)",
        "q = Cast<to=2>(s) zero = Sub(q, q) less = Sub(zero, q) t = Cast<to=6>(less) y = Add(t, big)",
    ],
)
def test_integers_of_a_shape_that_wrap(body: str) -> None:
    big = np.array([65536, 65536], np.int32)
    x = np.zeros((2, 4), np.float32)
    cleaned(f"g (float[2,4] x) => (int32[2] y) {{ s = Shape(x) {body} }}", {"x": x}, big=big)


def test_a_shape_sliced_backwards_from_before_its_start() -> None:
    x = np.zeros((2, 4), np.float32)
    values = {"start": [-10], "end": [-20], "axis": [0], "step": [-1], "one": [1]}
    text = "g (float[2,4] x) => (int64[n] y) { s = Shape(x) t = Slice(s, start, end, axis, step) y = Add(t, one) }"
    cleaned(text, {"x": x}, **{n: np.array(v) for n, v in values.items()})


def test_squeeze_of_no_axes_is_left_to_the_runtime() -> None:
    text = "g (float[2,4] x) => (float[a] y) { t = Squeeze(c, none) y = Relu(t) }"
    cleaned(text, {"x": np.zeros((2, 4), np.float32)}, c=np.ones((1, 3, 1), np.float32), none=np.zeros(0, np.int64))
