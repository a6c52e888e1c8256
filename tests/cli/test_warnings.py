"""Warnings reach stderr whatever is asked for, and are errors with --strict; user code that fails is named."""

from __future__ import annotations

import numpy as np
import pytest

PLUGIN = '''
from graphopt.pipeline import Pass

class Wary(Pass):
    """Warns."""
    guarantee = "exact"
    def run(self, model, ctx):
        for node in model.graph.nodes:
            ctx.warn(node, "look at this")

class Crash(Pass):
    """Fails."""
    guarantee = "exact"
    def run(self, model, ctx):
        raise KeyError("gone")
'''
FEEDS = """
import numpy as np

def good(interface):
    return [{"x": np.zeros((2, 4), np.float32)}] * 3

def without_argument():
    return []

def breaks(interface):
    yield {"x": np.zeros((2, 4), np.float32)}
    raise KeyError("no such column")
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plug.py").write_text(PLUGIN)
    (tmp_path / "feeds.py").write_text(FEEDS)
    return tmp_path / "plug.py"


def test_quiet_keeps_warnings_on_stderr(graphopt, net, plugin, tmp_path):
    done = graphopt("run", net, "--plugin", plugin, "--passes", "wary", "-o", tmp_path / "o.onnx", "--no-time", "-q")
    assert done.code == 0
    assert "warning: wary:" in done.err
    assert "look at this" in done.err
    assert "synthetic inputs prove nothing" in done.err


def test_strict_makes_the_warnings_of_a_run_errors(graphopt, net, plugin, data, tmp_path):
    words = ("run", net, "--plugin", plugin, "--no-time", "--force", "-o", tmp_path / "o.onnx", "--data", data)
    assert graphopt(*words, "--passes", "cleanup", "--strict").code == 0
    assert graphopt(*words, "--passes", "wary").code == 0
    done = graphopt(*words, "--passes", "wary", "--strict")
    assert done.code == 6
    assert "--strict: 1 warning; the result was saved" in done.err
    assert (tmp_path / "o.onnx").exists()


def test_a_pass_that_crashes_says_how_to_see_more_and_how_to_replay(graphopt, net, plugin, tmp_path):
    done = graphopt("run", net, "--plugin", plugin, "--passes", "crash", "-o", tmp_path / "o.onnx")
    assert done.code == 1
    assert "KeyError: 'gone'" in done.err
    assert "-v shows where" in done.err
    assert f"graphopt replay graphopt-crash.zip --plugin {plugin}" in done.err


def test_a_refusal_of_a_pass_has_no_such_hint(graphopt, net, tmp_path):
    done = graphopt("run", net, "--passes", "prune:ratio=1", "-o", tmp_path / "o.onnx")
    assert done.code == 2
    assert "-v shows" not in done.err
    assert "less than 1" in done.err
    assert "from 0 to 1" not in done.err


def test_a_wrong_guarantee_is_the_users_error(graphopt, net, plugin, tmp_path):
    plugin.write_text(PLUGIN.replace('"exact"', '"bitexact"'))
    done = graphopt("run", net, "--plugin", plugin, "--passes", "wary", "-o", tmp_path / "o.onnx")
    assert done.code == 2
    assert "Wary" in done.err
    assert "exact, equivalent, lossy" in done.err


def test_inspect_looks_for_plugins_first(graphopt, net, tmp_path):
    done = graphopt("inspect", net, "--plugin", tmp_path / "none.py")
    assert done.code == 2
    assert done.out == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("without_argument", "takes 0 positional arguments"),
        ("breaks", "KeyError: 'no such column' (feeds.py, line 12)"),
        ("missing", "has no 'missing'"),
    ],
)
def test_data_from_code_that_fails_names_it(graphopt, net, plugin, name, words):
    assert graphopt("compare", net, net, "--no-tensors", "--data", "feeds.py:good").code == 0
    done = graphopt("compare", net, net, "--no-tensors", "--data", f"feeds.py:{name}")
    assert done.code == 2
    assert f"feeds.py:{name}" in done.err
    assert words in done.err


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.array([0, 1, 7, 1, 0, 1, 0, 1, 0, 1]), "labels run from 0 to 7"),
        (np.array([0, 1, -1, 1, 0, 1, 0, 1, 0, 1]), "labels run from -1 to 1"),
        (np.linspace(0, 1, 10).astype(np.float32), "no whole numbers"),
        (np.zeros(9, np.int64), "9 labels for 10 samples"),
    ],
)
def test_labels_that_fit_no_class_are_bad_data(graphopt, net, tmp_path, labels, words):
    path = tmp_path / "bad.npz"
    np.savez(path, x=np.zeros((10, 4), np.float32), labels=labels)
    done = graphopt("run", net, "--passes", "cleanup", "--no-time", "-o", tmp_path / "o.onnx", "--eval-data", path)
    assert done.code == 2
    assert words in done.err


def test_a_fixed_amount_under_max_drop_is_told(graphopt, net, data, tmp_path):
    words = ("run", net, "--no-time", "--data", data, "--max-drop", "1", "-o", tmp_path / "o.onnx")
    done = graphopt(*words, "--passes", "cleanup")
    assert "--max-drop 1 was only checked" in done.err


def test_a_file_that_grew_is_told(graphopt, net, tmp_path):
    from onnx import TensorProto, helper, save

    shape = helper.make_tensor("s", TensorProto.INT64, [2], [400, 400])
    nodes = [
        helper.make_node("Constant", [], ["shape"], value=shape),
        helper.make_node("ConstantOfShape", ["shape"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4, 400]) for n in "xy"]
    save(helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:])), tmp_path / "light.onnx")
    words = ("run", tmp_path / "light.onnx", "--no-time", "--passes", "cleanup")
    done = graphopt(*words, "-o", tmp_path / "o.onnx")
    assert "the file grew" in done.err
    assert "cleanup:growth_kb=0" in done.err
    capped = graphopt(*words[:-1], "cleanup:growth_kb=0", "-o", tmp_path / "o2.onnx")
    assert "the file grew" not in capped.err
