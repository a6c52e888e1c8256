"""``graphopt check`` and ``graphopt export``: exit codes, what is written, what is said."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import onnx
import pytest
from qdq_net import Flavour, qdq_net

from graphopt.data.shape_profile import DimRange, ShapeProfile
from graphopt.targets import tensorrt_rtx
from graphopt.targets.tensorrt_export import trtexec_command

needs_nvidia = pytest.mark.skipif(not tensorrt_rtx.installed(), reason="the extra tensorrt is not installed")


@pytest.fixture
def model(tmp_path):
    """Write a flavour of the Q/DQ net and give its path."""

    def write(**flavour):
        path = tmp_path / "model.onnx"
        onnx.save(qdq_net(Flavour(**flavour)), path)
        return path

    return write


def test_a_good_model_exits_0(graphopt, model):
    done = graphopt("check", model(), "--target", "tensorrt", "--static")
    assert done.code == 0
    assert "no error found" in done.out


def test_a_bad_model_exits_6_and_names_the_node(graphopt, model):
    done = graphopt("check", model(bias="int32"), "--target", "tensorrt", "--static", "--json")
    assert done.code == 6
    assert "dq_b" in done.err
    (problem,) = done.json["report"]["problems"]
    assert (problem["rule"], problem["node"], problem["fixable"]) == ("int32-bias", "dq_b", True)
    assert problem["fix"]


def test_warnings_are_errors_only_with_strict(graphopt, model):
    words = ("check", model(batch="N"), "--target", "tensorrt", "--static")
    assert graphopt(*words).code == 0
    assert graphopt(*words, "--strict").code == 6


def test_fix_writes_a_model_that_passes(graphopt, model, tmp_path):
    source, out = model(act="uint8", zero=128, bias="int32"), tmp_path / "fixed.onnx"
    before = source.read_bytes()
    done = graphopt("check", source, "--target", "tensorrt", "--static", "--fix", "-o", out, "--json")
    assert done.code == 0
    assert source.read_bytes() == before
    assert done.json["before"]["problems"]
    assert done.json["report"]["problems"] == []
    assert done.json["report"]["fixed"]
    assert done.json["comparison"]["outputs"][0]["max_abs"] == 0
    assert graphopt("check", out, "--target", "tensorrt", "--static").code == 0


def test_what_cannot_be_fixed_exits_6_and_is_named(graphopt, model, tmp_path):
    source, out = model(zero=3), tmp_path / "fixed.onnx"
    done = graphopt("check", source, "--target", "tensorrt", "--static", "--fix", "-o", out, "--no-symmetric")
    assert done.code == 6
    assert "q_x" in done.err
    assert "symmetric=no" in " ".join(done.out.split())


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--fix",), "-o"),
        (("-o", "x.onnx"), "--fix"),
        (("--target", "tensorrtt"), "tensorrt"),
        (("--sm", "90"), "86"),
        (("--dim", "N"), "NAME=N"),
    ],
)
def test_wrong_usage_exits_2(graphopt, model, words, text):
    done = graphopt("check", model(), *words)
    assert done.code == 2
    assert text in done.err


def test_an_existing_file_is_not_overwritten(graphopt, model, tmp_path):
    out = tmp_path / "fixed.onnx"
    out.write_text("mine")
    words = ("check", model(bias="int32"), "--target", "tensorrt", "--static", "--fix", "-o", out)
    assert graphopt(*words).code == 2
    assert out.read_text() == "mine"
    assert graphopt(*words, "--force").code == 0


def test_without_nvidias_code_that_is_said(graphopt, model, monkeypatch):
    monkeypatch.setattr("graphopt.targets.tensorrt_rtx.installed", lambda: False)
    done = graphopt("check", model(), "--target", "tensorrt", "--json")
    assert done.code == 0
    assert "graphopt[tensorrt]" in done.json["report"]["not_checked"][0]


@needs_nvidia
def test_json_lists_the_precision_of_each_layer(graphopt, model):
    done = graphopt("check", model(), "--target", "tensorrt", "--sm", "8.9", "--json")
    (engine,) = done.json["report"]["engines"]
    assert engine["capability"] == "sm89"
    assert [(layer["node"], layer["precision"]) for layer in engine["layers"]] == [("conv", "int8")]


def test_ort_cpu_reports_integer_kernels(graphopt, model):
    done = graphopt("check", model(act="uint8", bias="int32"))
    assert done.code == 0
    assert "1 of 1 quantized layers run in int8" in done.out


# -- export ----------------------------------------------------------------------------------------------------------

FILES = {
    "model.onnx",
    "profile.json",
    "manifest.json",
    "inputs.npz",
    "expected.npz",
    "build.py",
    "build.sh",
    "verify.py",
    "README.md",
}


def script(folder, name):
    """A copied script as a module; it must not need graphopt."""
    spec = importlib.util.spec_from_file_location(f"exported_{name}", folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_export_writes_everything(graphopt, model, tmp_path):
    out = tmp_path / "out"
    done = graphopt("export", model(batch="N"), "-o", out, "--dim", "N=1,4,16", "--json")
    assert done.code == 0
    assert set(done.json["files"]) == FILES == {p.name for p in out.iterdir()}
    text = (out / "build.sh").read_text()
    for flag in ("--minShapes=x:1x16x8x8", "--optShapes=x:4x16x8x8", "--maxShapes=x:16x16x8x8", "--stronglyTyped"):
        assert flag in text
    assert "--int8" not in text.replace("no --int8", "")
    with np.load(out / "inputs.npz") as feeds, np.load(out / "expected.npz") as expected:
        assert feeds["x"].shape == (4, 16, 8, 8)
        assert expected["y"].shape == (4, 16, 8, 8)
    assert (out / "model.onnx").read_bytes()


def test_the_same_export_gives_the_same_bytes(graphopt, model, tmp_path):
    source = model()
    for name in ("a", "b"):
        assert graphopt("export", source, "-o", tmp_path / name).code == 0
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_export_takes_shapes_and_samples_from_data(graphopt, tmp_path):
    source, out = tmp_path / "m.onnx", tmp_path / "out"
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,L] x) => (float[N,L] y) { y = Relu(x) }'
    onnx.save(onnx.parser.parse_model(text), source)
    assert graphopt("export", source, "-o", out).code == 2
    np.savez(tmp_path / "data.npz", x=np.ones((10, 5), np.float32))
    done = graphopt("export", source, "-o", out, "--data", tmp_path / "data.npz", "--batch", 2, "--json")
    assert done.json["dims"] == {"N": {"low": 1, "best": 2, "high": 2}, "L": {"low": 5, "best": 5, "high": 5}}
    assert not done.json["synthetic"]


@pytest.mark.parametrize("value", ["N", "N=0", "N=3,2,1", "N=1,2", "M=4"])
def test_a_wrong_range_exits_2(graphopt, model, tmp_path, value):
    assert graphopt("export", model(batch="N"), "-o", tmp_path / "out", "--dim", value).code == 2


def test_export_refuses_a_full_folder_and_other_targets(graphopt, model, tmp_path):
    source = model()
    assert graphopt("export", source, "-o", tmp_path).code == 2
    assert graphopt("export", source, "-o", tmp_path / "out", "--target", "ort-cpu").code == 6


def test_export_warns_of_a_model_that_tensorrt_refuses(graphopt, model, tmp_path):
    done = graphopt("export", model(bias="int32"), "-o", tmp_path / "out", "--json")
    assert done.code == 0
    assert done.json["errors"][0]["rule"] == "int32-bias"
    assert "dq_b" in done.err


def test_the_verify_script_tells_right_from_wrong(graphopt, model, tmp_path):
    assert graphopt("export", model(), "-o", tmp_path / "out").code == 0
    verify = script(tmp_path / "out", "verify")
    expected = {"y": np.linspace(0, 1, 8, dtype=np.float32)}
    assert verify.compare(expected, {"y": expected["y"] + 0.01}, 0.05)[0]
    assert not verify.compare(expected, {"y": expected["y"] + 0.1}, 0.05)[0]
    assert not verify.compare(expected, {"y": expected["y"][:4]}, 0.05)[0]
    assert not verify.compare(expected, {}, 0.05)[0]
    assert not verify.compare(expected, {"y": np.full(8, np.nan, np.float32)}, 0.05)[0]


@needs_nvidia
def test_the_build_script_builds(graphopt, model, tmp_path, monkeypatch):
    import subprocess

    out = tmp_path / "out"
    assert graphopt("export", model(batch="N"), "-o", out).code == 0
    words = [sys.executable, out / "build.py", "--module", tensorrt_rtx.MODULE, "--capability", "sm86"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-500:]
    assert (out / "model.engine").stat().st_size > 1000


@needs_nvidia
def test_the_build_script_names_what_is_refused(graphopt, model, tmp_path):
    import subprocess

    out = tmp_path / "out"
    assert graphopt("export", model(bias="int32"), "-o", out).code == 0
    words = [sys.executable, out / "build.py", "--module", tensorrt_rtx.MODULE, "--capability", "sm86"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "dq_b" in done.stderr


def test_a_static_model_needs_no_profile():
    assert ShapeProfile().flags() == []
    assert "Shapes" not in trtexec_command(ShapeProfile())
    assert DimRange(1, 2, 3).best == 2
