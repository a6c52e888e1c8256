"""Each subcommand on a small model: output, JSON, files."""

from __future__ import annotations

import json

import onnx
import pytest

from graphopt import __version__

CLEANUP_AND_PRUNE = "cleanup,prune:ratio=0.5:align=1"


def test_help_and_version(graphopt):
    assert "run" in graphopt("--help").out
    assert graphopt("--version").out.strip() == f"graphopt {__version__}"


def test_run_writes_a_valid_smaller_model_and_a_report(graphopt, net, data, tmp_path):
    out = tmp_path / "out.onnx"
    words = ("run", net, "--passes", CLEANUP_AND_PRUNE, "-o", out, "--data", data)
    done = graphopt(*words, "--report", tmp_path / "rep", "--json")
    assert done.code == 0, done.err
    onnx.checker.check_model(onnx.load(out), full_check=True)
    result = done.json
    assert result["output"]["bytes"] < result["input"]["bytes"]
    assert [p["name"] for p in result["passes"]] == ["cleanup", "prune"]
    assert result["timing"]["provider"] == "cpu"
    assert json.loads((tmp_path / "rep" / "report.json").read_text())["pipeline"] == result["pipeline"]
    assert (tmp_path / "rep" / "report.html").is_file()


def test_the_same_run_gives_the_same_bytes(graphopt, net, data, tmp_path):
    for name in ("a.onnx", "b.onnx"):
        words = ("run", net, "--passes", CLEANUP_AND_PRUNE, "-o", tmp_path / name, "--data", data, "--no-time")
        assert graphopt(*words).code == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_the_input_is_not_touched_and_out_equal_in_is_refused(graphopt, net, data):
    before = net.read_bytes()
    assert graphopt("run", net, "--passes", "cleanup", "-o", net, "--force").code == 2
    assert net.read_bytes() == before


def test_existing_output_needs_force(graphopt, net, tmp_path):
    out = tmp_path / "out.onnx"
    out.write_text("precious")
    assert graphopt("run", net, "--passes", "cleanup", "-o", out).code == 2
    assert out.read_text() == "precious"
    assert graphopt("run", net, "--passes", "cleanup", "-o", out, "--force", "--no-time").code == 0


def test_dry_run_shows_the_plan_and_writes_nothing(graphopt, net, tmp_path):
    done = graphopt("run", net, "--passes", CLEANUP_AND_PRUNE, "-o", tmp_path / "out.onnx", "--dry-run")
    assert done.code == 0
    assert "prune" in done.out
    assert not (tmp_path / "out.onnx").exists()


def test_recipe_and_overrides_say_the_same_as_text(graphopt, net, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[[passes]]\npass = "cleanup"\n[[passes]]\npass = "prune"\nratio = 0.3\nalign = 1\n')
    one = graphopt("run", net, "--recipe", recipe, "--set", "prune.ratio=0.5", "--dry-run")
    two = graphopt("run", net, "--passes", CLEANUP_AND_PRUNE, "--dry-run")
    assert one.code == 0, one.err
    assert sorted(one.out.split(":")) == sorted(two.out.split(":"))


def test_empty_pipeline_and_pruning_nothing_give_the_same_bytes(graphopt, net, tmp_path):
    assert graphopt("run", net, "-o", tmp_path / "a.onnx", "--no-time").code == 0
    assert graphopt("run", net, "--passes", "prune:ratio=0", "-o", tmp_path / "b.onnx", "--no-time").code == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_inspect(graphopt, net):
    done = graphopt("inspect", net, "--json")
    assert done.code == 0, done.err
    assert done.json["model"]["macs"] == 4 * 8 + 8 * 3
    assert done.json["prunable"]["units"] == 8


def test_diff(graphopt, net, tmp_path):
    assert graphopt("run", net, "--passes", "cleanup", "-o", tmp_path / "c.onnx", "--no-time").code == 0
    done = graphopt("diff", net, tmp_path / "c.onnx", "--json")
    assert done.json["difference"]["operators"]["Identity"] == [1, 0]
    assert graphopt("diff", net, net, "--json").json["same"] is True


def test_bench_calls_equal_models_noise(graphopt, net, data):
    done = graphopt("bench", net, net, "--data", data, "--no-footprint", "--json")
    assert done.code == 0, done.err
    assert done.json["timing"]["timings"][1]["verdict"] in ("noise", "same")


def test_passes_lists_and_describes(graphopt):
    names = {p["name"] for p in graphopt("passes", "--json").json["passes"]}
    assert {"cleanup", "clip", "prune", "quantize", "reconstruct"} <= names
    assert "ratio" in graphopt("passes", "prune").out
    assert graphopt("passes", "prune", "--schema").json["properties"]["ratio"]
    assert graphopt("passes", "prun").code == 2


def test_plugin_pass_runs(graphopt, net, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from graphopt import Model\n"
        "from graphopt.pipeline import Context, Pass\n\n\n"
        "class DropIdentity(Pass):\n"
        '    """Remove Identity."""\n\n'
        '    guarantee = "exact"\n\n'
        "    def run(self, model: Model, ctx: Context) -> None:\n"
        "        for node in [n for n in model.graph.walk() if n.op == 'Identity']:\n"
        "            model.graph.replace_uses(node.outputs[0], node.inputs[0])\n"
        "        model.graph.remove_dead()\n"
    )
    done = graphopt(
        *("run", net, "--plugin", plugin, "--passes", "drop_identity", "-o", tmp_path / "o.onnx", "--json", "--no-time")
    )
    assert done.code == 0, done.err
    assert done.json["passes"][0]["changed"] is True
    assert "Identity" not in {n.op_type for n in onnx.load(tmp_path / "o.onnx").graph.node}


def test_wrong_exact_pass_is_caught_and_leaves_a_reproducer(graphopt, net, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plugin = tmp_path / "wrong.py"
    plugin.write_text(
        "from graphopt import Model\n"
        "from graphopt.pipeline import Context, Pass\n\n\n"
        "class Wrong(Pass):\n"
        '    """Claims too much."""\n\n'
        '    guarantee = "exact"\n\n'
        "    def run(self, model: Model, ctx: Context) -> None:\n"
        "        for node in [n for n in model.graph.walk() if n.op == 'Relu']:\n"
        "            if ctx.allow(node):\n"
        "                node.op = 'Sigmoid'\n"
    )
    words = ("run", net, "--plugin", plugin, "--passes", "wrong", "-o", tmp_path / "o.onnx")
    done = graphopt(*words, "--data", data)
    assert done.code == 4
    assert "wrong" in done.err
    assert not (tmp_path / "o.onnx").exists()
    (found,) = tmp_path.glob("*.zip")
    assert "--plugin" in done.err
    again = graphopt("replay", found, "--plugin", plugin, "--data", data)
    assert again.code == 4
    assert "exact" in again.err
    assert graphopt("replay", found, "--plugin", plugin).code == 2


def test_bisect_finds_the_rewrite(graphopt, net, tmp_path):
    check = tmp_path / "check.py"
    check.write_text("import sys, onnx\nsys.exit(len(onnx.load(sys.argv[1]).graph.node) < 4)\n")
    import sys

    done = graphopt("bisect", net, "--passes", "cleanup", "--check", f"{sys.executable} {check} {{}}", "--json")
    assert done.code == 0, done.err
    assert done.json["culprit"]["pass_name"]


def test_max_drop_searches_the_amount(graphopt, net, data, tmp_path):
    out = tmp_path / "o.onnx"
    words = ("run", net, "--passes", "prune:criterion=l1:align=1", "--data", data, "-o", out, "--no-time")
    done = graphopt(*words, "--max-drop", "1.0", "--json")
    assert done.code == 0, done.err
    assert "keep_macs" in done.json["pipeline"]
    missed = graphopt(*words, "--force", "--max-drop", "0", "--set", "prune.keep_macs=0.2")
    assert missed.code in (0, 5)


def test_max_drop_needs_labels(graphopt, net, tmp_path):
    done = graphopt("run", net, "--passes", "prune", "--max-drop", "0.1", "-o", tmp_path / "o.onnx")
    assert done.code == 2
    assert "labels" in done.err


def test_a_copy_says_that_nothing_ran(graphopt, net, tmp_path):
    done = graphopt("run", net, "-o", tmp_path / "o.onnx", "--no-time")
    assert "no passes were given" in done.err


def test_report_on_a_file_is_refused(graphopt, net, tmp_path):
    (tmp_path / "rep").write_text("x")
    done = graphopt("run", net, "--passes", "cleanup", "--report", tmp_path / "rep")
    assert done.code == 2
    assert "rep" in done.err


def test_dry_run_notices_a_missing_model_and_target(graphopt, net, tmp_path):
    assert graphopt("run", tmp_path / "none.onnx", "--passes", "cleanup", "--dry-run").code == 2
    assert graphopt("run", net, "--passes", "cleanup", "--target", "tpu", "--dry-run").code == 2


def test_opset_out_of_range(graphopt, net, tmp_path):
    done = graphopt("run", net, "--opset", "9999", "-o", tmp_path / "o.onnx")
    assert done.code == 6
    assert "9999" in done.err


def test_view_names_the_report(graphopt, tmp_path):
    (tmp_path / "report.html").write_text("<html></html>")
    assert "file://" in graphopt("view", tmp_path, "--no-browser").out
    assert graphopt("view", tmp_path / "gone").code == 2


@pytest.mark.parametrize("limit", [0, 1])
def test_limit_applies_only_the_first_rewrites(graphopt, net, tmp_path, limit):
    words = ("run", net, "--passes", "cleanup", "--limit", limit, "-o", tmp_path / "o.onnx", "--no-time")
    assert graphopt(*words).code == 0
    assert len(onnx.load(tmp_path / "o.onnx").graph.node) == 4 - limit


def test_output_of_the_same_name_in_another_folder_is_timed_against_the_input(graphopt, net, tmp_path):
    (tmp_path / "out").mkdir()
    done = graphopt("run", net, "--passes", "cleanup", "-o", tmp_path / "out" / net.name, "--json")
    assert done.code == 0, done.err
    names = [t["name"] for t in done.json["timing"]["timings"]]
    assert names == ["net.onnx (input)", "net.onnx (output)"]
    assert len(done.json["layer_times"]) == 3
    assert set(done.json["footprints"]) == set(names)


def test_a_dry_run_numbers_the_passes_inside_composites(graphopt, net):
    found = graphopt("run", net, "--passes", "cleanup,prune", "--dry-run", "--json").json
    first, second = found["passes"]
    assert (first["number"], first["step"], second["number"]) == ("1", "cleanup", "2")
    assert [p["number"] for p in first["inner"]][:2] == ["1.1", "1.2"]
    assert found["plan"][1].strip().startswith("1.1 ")
    assert found["plan"] == graphopt("run", net, "--passes", "cleanup,prune", "--dry-run").out.splitlines()


def test_a_profile_of_another_target_says_what_to_do_instead(graphopt, tmp_path):
    for target, words in (("openvino", "--runtime openvino"), ("ort-cuda", "--provider cuda"), ("tensorrt", "check")):
        done = graphopt("profile", "--target", target, "-o", tmp_path / "p.json")
        assert done.code == 6
        assert target in done.err
        assert words in done.err
