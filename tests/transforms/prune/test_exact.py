"""Exact mode: constant units go into the biases of what reads them, and outputs stay; what cannot be folded stays."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from transforms.pruning import tiny

from graphopt import Model
from graphopt.pipeline import PassManager, Pipeline, Registry
from graphopt.results import PassResult


def run(model: Model, text: str = "prune:mode=exact") -> PassResult:
    registry = Registry()
    return PassManager(registry).run(model, Pipeline.parse(text, registry)).passes[0]


def outputs(model: Model, shape: tuple[int, ...]) -> np.ndarray:
    x = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    return ort.InferenceSession(model.serialize(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def blank(model: Model, name: str, index: object, value: float = 0.0) -> None:
    tensor = model.graph.tensors()[name]
    changed = np.array(tensor.values)
    changed[index] = value
    model.graph.set_weight(tensor, changed)


def shapes(model: Model) -> dict[str, tuple[int, ...]]:
    return {c.name: c.shape for c in model.graph.initializers}


# name: (graph, input, weight and index that make a unit constant, weights that must have lost it)
FOLDED = {
    "gemm_bias": (
        """(float[2,5] x, float[5,8] w1, float[8] b1, float[8,4] w2, float[4] b2) => (float y) {
        a = Gemm(x, w1, b1) r = Relu(a) y = Gemm(r, w2, b2) }""",
        (2, 5),
        ("w1", (slice(None), 3)),
        {"w1": (5, 7), "w2": (7, 4)},
    ),
    "gemm_without_bias": (
        """(float[2,5] x, float[5,8] w1, float[8] b1, float[4,8] w2) => (float y) {
        a = Gemm(x, w1, b1) r = Sigmoid(a) y = Gemm<transB=1, alpha=0.5>(r, w2) }""",
        (2, 5),
        ("w1", (slice(None), 3)),
        {"w1": (5, 7), "w2": (4, 7)},
    ),
    "matmul": (
        """(float[2,5] x, float[5,8] w1, float[8] b1, float[8,4] w2) => (float y) {
        a = MatMul(x, w1) s = Add(a, b1) r = Tanh(s) y = MatMul(r, w2) }""",
        (2, 5),
        ("w1", (slice(None), 3)),
        {"w1": (5, 7), "w2": (7, 4)},
    ),
    "batch_norm_scale": (
        """(float[1,3,6,6] x, float[8,3,3,3] w1, float[8] bs, float[8] bb, float[8] bm, float[8] bv,
        float[4,8,1,1] w2) => (float y) { a = Conv<pads=[1,1,1,1]>(x, w1) n = BatchNormalization(a, bs, bb, bm, bv)
        r = Elu(n) y = Conv(r, w2) }""",
        (1, 3, 6, 6),
        ("bs", 3),
        {"w1": (7, 3, 3, 3), "bs": (7,), "w2": (4, 7, 1, 1)},
    ),
    "pool_flatten": (
        """(float[1,3,6,6] x, float[8,3,3,3] w1, float[8] b1, float[32,4] w2) => (float y) {
        a = Conv(x, w1, b1) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a) f = Flatten(p) y = MatMul(f, w2) }""",
        (1, 3, 6, 6),
        ("w1", 3),
        {"w1": (7, 3, 3, 3), "w2": (28, 4)},
    ),
    "residual": (
        """(float[2,5] x, float[5,8] w1, float[8] b1, float[5,8] w2, float[8] b2, float[8,4] w3) => (float y) {
        a = Gemm(x, w1, b1) c = Gemm(x, w2, b2) s = Add(a, c) r = Gelu(s) y = MatMul(r, w3) }""",
        (2, 5),
        ("w1", (slice(None), 3)),
        None,
    ),
}


@pytest.mark.parametrize("name", FOLDED)
def test_constant_units_become_biases(name: str) -> None:
    text, shape, (weight, index), expected = FOLDED[name]
    model = tiny(text, 20)
    blank(model, weight, index)
    if name == "residual":  # constant on one branch only: it stays
        before = outputs(model, shape)
        assert not run(model).changed
        blank(model, "w2", (slice(None), 3))
        expected = {"w1": (5, 7), "w2": (5, 7), "w3": (7, 4)}
    before = outputs(model, shape)
    result = run(model)
    assert result.guarantee == "equivalent"
    assert result.statistics["constants folded into biases"] == 1
    assert any("outputs are those of the model before" in r.message for r in result.remarks)
    assert {k: shapes(model)[k] for k in expected} == expected
    after = outputs(model, shape)
    assert np.abs(after - before).max() <= 1e-5 * np.ptp(before)


def test_without_amount_or_data_nothing_is_merged_either() -> None:
    """That is the exact mode: what is removed is made up for by constants only."""
    text, shape, (weight, index), _ = FOLDED["gemm_bias"]
    model = tiny(text, 20)
    blank(model, weight, index)
    before = outputs(model, shape)
    result = run(model, "prune")
    assert result.changed
    assert "layers recovered without data" not in result.statistics
    assert np.abs(outputs(model, shape) - before).max() <= 1e-5 * np.ptp(before)


def test_zero_padding_keeps_a_constant_and_says_so() -> None:
    text = """(float[1,3,6,6] x, float[8,3,3,3] w1, float[8] b1, float[4,8,3,3] w2) => (float y) {
        a = Conv(x, w1, b1) y = Conv<pads=[1,1,1,1]>(a, w2) }"""
    model = tiny(text)
    blank(model, "w1", 3)
    result = run(model)
    assert not result.changed
    assert any("pads with zeros" in r.message and "1 of the units" in r.message for r in result.remarks)
    blank(model, "b1", 3)
    before = outputs(model, (1, 3, 6, 6))
    assert run(model).changed, "a unit that is zero goes even so"
    assert np.abs(outputs(model, (1, 3, 6, 6)) - before).max() <= 1e-5 * np.ptp(before)


@pytest.mark.parametrize(
    "body",
    [
        "s = Softmax<axis=1>(a) y = MatMul(s, w2)",
        "s = Mul(a, a2) y = MatMul(s, w2)",
        "s = LayerNormalization(a, b3) y = MatMul(s, w2)",
        "s = Concat<axis=0>(a, a2) y = MatMul(s, w2)",
    ],
)
def test_what_only_looks_constant_stays(body: str) -> None:
    """Normalised with the others, multiplied by a varying value, or a different constant elsewhere on another axis."""
    text = f"""(float[2,5] x, float[5,8] w1, float[8] b1, float[5,8] w3, float[8] b3, float[8,4] w2) => (float y) {{
        a = Gemm(x, w1, b1) a2 = Gemm(x, w3, b3) {body} }}"""
    model = tiny(text)
    blank(model, "w1", (slice(None), 3))
    if "Concat" in body:
        blank(model, "w3", (slice(None), 3))
    before = outputs(model, (2, 5))
    run(model)
    assert shapes(model)["w1"] == (5, 8)
    assert shapes(model)["w2"] == (8, 4)
    assert np.abs(outputs(model, (2, 5)) - before).max() <= 1e-6


def test_exact_manifest_folds_again_on_replay(tmp_path) -> None:
    text, shape, (weight, index), _ = FOLDED["matmul"]
    first, second = tiny(text, 20), tiny(text, 20)
    for model in (first, second):
        blank(model, weight, index)
    before = outputs(first, shape)
    path = tmp_path / "keep.json"
    run(first, f"prune:mode=exact:manifest='{path}'")
    run(second, f"prune:replay='{path}'")
    assert np.abs(outputs(second, shape) - before).max() <= 1e-5 * np.ptp(before)


def test_a_wrong_fold_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.errors import GraphoptError
    from graphopt.transforms.prune.exact_constants import Folding

    monkeypatch.setattr(Folding, "apply", lambda self, graph, keep: 0)
    text, _, (weight, index), _ = FOLDED["gemm_bias"]
    model = tiny(text, 20)
    blank(model, weight, index)
    model.graph.set_weight(model.graph.tensors()["b1"], np.full(8, 2.0, np.float32))
    with pytest.raises(GraphoptError, match="exact mode changed outputs"):
        run(model)
