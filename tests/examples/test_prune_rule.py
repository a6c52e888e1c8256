"""The example rule and criterion, and those that docs/pruning.md shows, loaded as plugins and run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from transforms.pruning import tiny

from graphopt.errors import GraphoptError
from graphopt.pipeline import PassManager, Pipeline, Registry

ROOT = Path(__file__).resolve().parent.parent.parent
NET = """(float[6,5] x, float[5,8] w1, float[8,4] w2) => (float y) <int64[2] i = {-1,8}> {
    a = MatMul(x, w1) u = com.microsoft.UnfoldTensor<dim=0, size=2>(a) t = Transpose<perm=[0,2,1]>(u)
    y = MatMul(t, w2) }"""


def net():
    model = tiny(NET, microsoft=True)
    node = next(n for n in model.graph.nodes if n.op == "UnfoldTensor")
    node.outputs[0].shape = [5, 8, 2]
    node.outputs[0].dtype = np.dtype(np.float32)
    model.graph.outputs[0].shape = [None, None, None]
    return model


def run(model, registry: Registry, text: str):
    return PassManager(registry).run(model, Pipeline.parse(text, registry)).passes[0]


def plugin_files(tmp_path: Path) -> list[Path]:
    """The example, and the python block of docs/pruning.md that registers the same."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "pruning.md").read_text(encoding="utf-8"), re.DOTALL)
    [shown] = [b for b in blocks if "UnfoldTensor" in b]
    path = tmp_path / "shown.py"
    path.write_text(shown, encoding="utf-8")
    return [ROOT / "examples" / "prune_rule.py", path]


@pytest.mark.parametrize("which", [0, 1], ids=["example", "docs"])
def test_a_rule_opens_what_was_frozen_and_the_result_is_proven(which: int, tmp_path: Path) -> None:
    frozen = net()
    result = run(frozen, Registry(), "prune:ratio=0.5:align=1")
    assert not result.changed
    assert any("UnfoldTensor" in str(r.node) for r in result.remarks if r.kind == "skipped")
    registry = Registry()
    registry.load_plugin(str(plugin_files(tmp_path)[which]))
    model = net()
    result = run(model, registry, "prune:ratio=0.5:align=1:criterion=peak")
    weights = {c.name: c for c in model.graph.initializers}
    assert weights["w1"].shape == (5, 4)
    assert result.statistics["masked error"] <= 1e-5
    assert result.statistics["classes exchanged"] == 1
    peaks = np.abs(net().graph.tensors()["w1"].values).max(axis=0)
    peaks = peaks + np.abs(net().graph.tensors()["w2"].values).max(axis=1)
    kept = np.sort(np.argsort(peaks, kind="stable")[4:])
    assert np.array_equal(weights["w1"].values, net().graph.tensors()["w1"].values[:, kept])


def test_an_unknown_criterion_names_the_nearest() -> None:
    registry = Registry()
    registry.load_plugin(str(ROOT / "examples" / "prune_rule.py"))
    with pytest.raises(GraphoptError, match="peak"):
        run(net(), registry, "prune:ratio=0.5:criterion=peek")


def test_marks_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "empty.py"
    path.write_text("x = 1\n")
    with pytest.raises(GraphoptError, match="@rule or @criterion"):
        Registry().load_plugin(str(path))
    path = tmp_path / "wrong.py"
    path.write_text("from graphopt.pipeline import rule\n\n@rule\ndef mine(site):\n    pass\n")
    with pytest.raises(GraphoptError, match="at least one operator"):
        Registry().load_plugin(str(path))


def test_an_operator_that_the_runtime_lacks_is_pruned_but_not_proven(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from graphopt.pipeline import rule\n\n@rule('my.domain:Norm')\ndef norm(site):\n    site.emit(site.axes(0))\n"
    )
    text = """<ir_version: 10, opset_import: ["" : 17, "my.domain" : 1]>
        g (float[2,5] x, float[5,8] w1, float[8,4] w2) => (float[2,4] y) <float[2,8] s> {
        a = MatMul(x, w1) s = my.domain.Norm(a) y = MatMul(s, w2) }"""
    proto = onnx.parser.parse_model(text)
    values = np.random.default_rng(0).standard_normal
    for info in list(proto.graph.input)[1:]:
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values(shape).astype(np.float32), info.name))
        proto.graph.input.remove(info)
    from graphopt import load

    registry = Registry()
    registry.load_plugin(str(path))
    model = load(proto)
    result = run(model, registry, "prune:ratio=0.5:align=1")
    assert {c.name: c.shape for c in model.graph.initializers} == {"w1": (5, 4), "w2": (4, 4)}
    assert any("not proven" in r.message for r in result.remarks if r.kind == "warning"), result.remarks


def test_inspect_takes_plugins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from graphopt.cli.inspect import inspect

    path = tmp_path / "net.onnx"
    path.write_bytes(net().serialize())
    for plugin, share in ((None, 0.0), ([str(ROOT / "examples" / "prune_rule.py")], 1.0)):
        inspect(path, plugin=plugin, json=True)
        assert json.loads(capsys.readouterr().out)["prunable"]["macs_share"] == share
