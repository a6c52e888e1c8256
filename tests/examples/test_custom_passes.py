"""The example passes, and the same code as the README shows it, loaded as plugins and run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from graphopt import load
from graphopt.pipeline import PassManager, Pipeline, Registry

ROOT = Path(__file__).resolve().parent.parent.parent
HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'
DROPOUT = (
    HEADER + "g (float[4] x) => (float[4] y, float[4] z) { a = Relu(x) [d] b = Dropout(a) y = Neg(b) z = Dropout(x) }"
)
RELUS = HEADER + "g (float[4] x) => (float[4] y) { a = Relu(x) b = Relu(a) y = Relu(b) }"
HARDSWISH = (
    "g (float[4] x) => (float[4] y) <float three = {3}, float low = {0}, float six = {6}> "
    "{ a = Add(three, x) b = Clip(a, low, six) c = Mul(b, x) y = Div(c, six) }"
)


def run(model, plugin: Path, name: str):
    registry = Registry()
    assert registry.load_plugin(str(plugin)) == [name]
    return PassManager(registry).run(model, Pipeline.parse(name, registry))


def sources(name: str) -> list[str]:
    """The example file, and the README's block that defines the same class."""
    example = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    [kind] = re.findall(r"^class \w+", example, re.MULTILINE)
    return [example, *(b for b in blocks if kind in b)]


@pytest.fixture(params=[0, 1], ids=["example", "readme"])
def plugin_of(request, tmp_path):
    def write(name: str) -> Path:
        path = tmp_path / f"{name}.py"
        path.write_text(sources(name)[request.param], encoding="utf-8")
        return path

    return write


def test_remove_dropout(parse, plugin_of) -> None:
    model = parse(DROPOUT)
    result = run(model, plugin_of("remove_dropout"), "remove_dropout")
    assert [n.op for n in model.graph.nodes] == ["Relu", "Neg", "Identity"]
    assert [t.name for t in model.graph.outputs] == ["y", "z"]
    assert [r.message for r in result.passes[0].remarks] == ["removed", "removed"]
    assert result.passes[0].verification == "structure, checker"


def test_remove_dropout_takes_fewer_than_ten_lines() -> None:
    example = sources("remove_dropout")[0]
    body = example[example.index("class ") :]
    code = [line for line in body.splitlines() if line.strip() and '"""' not in line]
    assert len(code) < 10


def test_double_relu(parse, plugin_of) -> None:
    model = parse(RELUS)
    result = run(model, plugin_of("double_relu"), "tidy")
    assert [n.op for n in model.graph.nodes] == ["Relu"]
    assert result.passes[0].guarantee == "exact"
    assert result.passes[0].statistics == {"double_relu": 2}


def test_fuse_hardswish(parse) -> None:
    ort = pytest.importorskip("onnxruntime")
    plugin = ROOT / "examples" / "fuse_hardswish.py"
    model = parse(HEADER + HARDSWISH)
    before = model.serialize()
    assert run(model, plugin, "fuse_hardswish").passes[0].guarantee == "equivalent"
    assert [n.op for n in load(model.serialize()).graph.nodes] == ["HardSwish"]
    assert model.graph.initializers == []
    x = np.array([-4, -1, 1, 4], np.float32)
    one, two = (
        ort.InferenceSession(m, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for m in (before, model.serialize())
    )
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-6)


def test_fuse_hardswish_says_why_not(parse) -> None:
    model = parse('<ir_version: 8, opset_import: ["" : 13]>\n' + HARDSWISH)
    [result] = run(model, ROOT / "examples" / "fuse_hardswish.py", "fuse_hardswish").passes
    assert not result.changed
    [remark] = result.remarks
    assert (remark.kind, remark.message) == ("skipped", "hardswish: HardSwish needs opset 14, the model has 13")
