"""The prune pass in the manager: amounts, exact mode, proof, remarks, manifest, zoo."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime as ort
import pytest
from transforms.pruning import tiny

from graphopt import Model, load
from graphopt.errors import GraphoptError, PassError, UsageError
from graphopt.pipeline import PassManager, Pipeline, Registry, Settings
from graphopt.results import PassResult
from graphopt.transforms.prune import slicing
from graphopt.transforms.prune.keepset import KeepSet
from graphopt.transforms.prune.slicing_values import SliceConflict

RESIDUAL = """(float[2,5] x, float[5,16] w1, float[16] b1, float[16,12] w2, float[12,16] w3, float[16,4] w4)
    => (float y) { a = MatMul(x, w1) s = Add(a, b1) h = MatMul(s, w2) r = Relu(h) t = MatMul(r, w3) u = Add(s, t)
    y = MatMul(u, w4) }"""


def run(model: Model, text: str) -> PassResult:
    registry = Registry()
    return PassManager(registry, Settings()).run(model, Pipeline.parse(text, registry)).passes[0]


def outputs(model: Model) -> np.ndarray:
    x = np.random.default_rng(3).standard_normal((2, 5)).astype(np.float32)
    return ort.InferenceSession(model.serialize(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def test_ratio_shrinks_proves_and_explains() -> None:
    model = tiny(RESIDUAL)
    result = run(model, "prune:ratio=0.5:align=1")
    shapes = {c.name: c.shape for c in model.graph.initializers}
    assert shapes == {"w1": (5, 8), "b1": (8,), "w2": (8, 6), "w3": (6, 8), "w4": (8, 4)}
    assert result.statistics["masked error"] <= 1e-5
    assert result.statistics["inconclusive"] == 0
    assert result.statistics["macs kept"] < 0.4
    assert any(r.kind == "did" and "8 of 16" in r.message for r in result.remarks)
    assert any(r.kind == "skipped" and r.node == "graph output y" for r in result.remarks)


def test_budget() -> None:
    assert run(tiny(RESIDUAL), "prune:keep_macs=0.6:align=1").statistics["macs kept"] <= 0.6


def test_two_amounts_are_refused() -> None:
    with pytest.raises(GraphoptError, match="one of ratio") as error:
        run(tiny(RESIDUAL), "prune:keep_macs=0.6:ratio=0.5")
    assert isinstance(error.value, (UsageError, PassError))


def test_exact_removes_dead_and_unread_units_only() -> None:
    model = tiny(RESIDUAL)
    tensors = model.graph.tensors()
    w2, w3 = np.array(tensors["w2"].values), np.array(tensors["w3"].values)
    w2[:, 1] = 0  # produced as zero
    w3[4] = 0  # read by nobody
    model.graph.set_weight(tensors["w2"], w2)
    model.graph.set_weight(tensors["w3"], w3)
    before = outputs(model)
    result = run(model, "prune:mode=exact")
    assert result.guarantee == "equivalent"
    assert {c.name: c.shape for c in model.graph.initializers}["w2"] == (16, 10)
    assert np.allclose(outputs(model), before, rtol=0, atol=1e-6)


def test_exact_needs_zeros_on_every_path() -> None:
    model = tiny(RESIDUAL)
    w4 = np.array(model.graph.tensors()["w4"].values)
    w4[2] = 0
    model.graph.set_weight(model.graph.tensors()["w4"], w4)
    before = model.serialize()
    assert not run(model, "prune:mode=exact").changed
    assert model.graph.tensors()["w4"].shape == (16, 4)
    assert len(before)


def test_without_amount_or_data_only_the_exact_mode_runs() -> None:
    model = tiny(RESIDUAL)
    result = run(model, "prune")
    assert not result.changed
    assert any("nothing" in r.message for r in result.remarks)


def test_ratios_by_pattern() -> None:
    model = tiny(RESIDUAL)
    for node in model.graph.nodes:
        if node.outputs[0].name == "h":
            node.name = "inner"
    run(model, "prune:ratio=0.25:align=1:exclude=op=Relu")
    assert model.graph.tensors()["w2"].shape == (12, 9)


def test_manifest_is_written_and_replayed(tmp_path: Path) -> None:
    first, second = tiny(RESIDUAL), tiny(RESIDUAL, seed=5)
    path = tmp_path / "keep.json"
    run(first, f"prune:ratio=0.5:align=1:manifest='{path}'")
    assert json.loads(path.read_text())["format"].startswith("graphopt-keep")
    run(second, f"prune:replay='{path}'")
    assert {c.name: c.shape for c in first.graph.initializers} == {c.name: c.shape for c in second.graph.initializers}


def test_runtime_extents_used_as_data_are_frozen_after_a_conflict() -> None:
    text = """(float[N,5] x, float[5,8] w1, float[8,6] w2, float[6,4] w3) => (float y) {
        a = MatMul(x, w1) s = Size(a) f = Cast<to=1>(s) d = Div(a, f) h = MatMul(d, w2) y = MatMul(h, w3) }"""
    model = tiny(text)
    run(model, "prune:ratio=0.5:align=1")
    assert {c.name: c.shape for c in model.graph.initializers} == {"w1": (5, 8), "w2": (8, 3), "w3": (3, 4)}


ZOO = [
    "lenet.dynamo",
    "mbconv_se.torchscript",
    "glu_shuffle_net.torchscript",
    "hf_bert.dynamo.dyn",
    "hf_llama_gqa.torchscript.dyn",
    "hf_bert.dynamo.opset23",
    "hf_squeezebert.torchscript",
    "bilstm_tagger.torchscript",
    "unet_bilinear.dynamo",
]


@pytest.mark.parametrize("name", ZOO)
def test_zoo(zoo: ModuleType, name: str) -> None:
    from conftest import ZOO as FOLDER

    model = load(zoo.fill(str(FOLDER / f"{name}.onnx.gz")).SerializeToString())
    result = run(model, "prune:ratio=0.5:align=1")
    assert result.statistics["macs kept"] < 0.75
    assert result.statistics["masked error"] <= 1e-5


def test_an_attempt_that_is_given_up_leaves_no_remarks_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[KeepSet] = []
    apply = slicing.apply

    def conflicts_once(keep: KeepSet) -> slicing.SliceReport:
        attempts.append(keep)
        if len(attempts) == 1:
            raise SliceConflict("does not fit", {t for t in keep.coupling.record.axes if t.name == "h"})
        return apply(keep)

    monkeypatch.setattr(slicing, "apply", conflicts_once)
    result = run(tiny(RESIDUAL), "prune:ratio=0.5:align=1")
    assert len(attempts) == 2
    assert [r.message for r in result.remarks if r.kind == "did"] == ["8 of 16 units removed"]
    assert result.statistics["prunable share of macs"] <= 1


INTEGERS = """(float[1,3,6,6] x, int8[8,3,3,3] w1, float[8] bv, int8[4,8,1,1] w2, float[4] bv2) => (float y)
    <float s = {0.05}, uint8 z = {128}> {
    d = DequantizeLinear<axis=0>(w1, bv) a = Conv(x, d) q = QuantizeLinear(a, s, z) e = DequantizeLinear(q, s, z)
    v = DequantizeLinear<axis=0>(w2, bv2) y = Conv(e, v) }"""


@pytest.mark.parametrize("samples", [0, 8])
def test_a_quantized_model_loses_nothing_unless_an_amount_is_given(samples) -> None:
    from graphopt.data.interface import read_interface
    from graphopt.data.open import open_data

    def done(text):
        model, registry = tiny(INTEGERS), Registry()
        images = np.random.default_rng(0).standard_normal((samples, 1, 3, 6, 6)).astype(np.float32)
        data = open_data([{"x": x} for x in images], read_interface(model.serialize())) if samples else None
        return model, PassManager(registry, Settings(data=data)).run(model, Pipeline.parse(text, registry)).passes[0]

    model, result = done("prune")
    assert {c.shape[0] for c in model.graph.initializers if c.dtype == np.int8} == {8, 4}
    assert any("layers of integers (2): only what provably changes nothing" in r.message for r in result.remarks)
    for text in ("prune:ratio=0.5:align=1", "prune:keep_macs=0.6:align=1"):
        model, result = done(text)
        assert {c.shape[0] for c in model.graph.initializers if c.dtype == np.int8} == {4}
        assert result.statistics["masked error"] <= 1e-5
        assert any(r.kind == "warning" and "prune that and quantize it then" in r.message for r in result.remarks)


def test_in_a_pipeline_only_exact_pruning_may_follow_quantize() -> None:
    registry = Registry()
    with pytest.raises(UsageError, match="move it before quantize_weights"):
        PassManager(registry, Settings()).plan(Pipeline.parse("quantize_weights,prune", registry))
    PassManager(registry, Settings()).plan(Pipeline.parse("quantize_weights,prune:mode=exact", registry))


def test_amounts_are_refused_in_exact_mode() -> None:
    with pytest.raises(GraphoptError, match="leave out ratio"):
        run(tiny(RESIDUAL), "prune:mode=exact:ratio=0.5")


def test_an_unknown_criterion_is_refused_although_nothing_would_be_ranked() -> None:
    with pytest.raises(GraphoptError, match="foo"):
        run(tiny(RESIDUAL), "prune:criterion=foo")


def test_a_prune_that_had_nothing_to_go_by_warns() -> None:
    assert any(r.kind == "warning" and "give an amount" in r.message for r in run(tiny(RESIDUAL), "prune").remarks)
    assert not any(r.kind == "warning" for r in run(tiny(RESIDUAL), "prune:mode=exact").remarks)
