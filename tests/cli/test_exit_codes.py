"""Damaged input ends with the documented exit code, names the culprit, and leaves no output."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from cli_net import make_net
from onnx import helper


def test_truncated_file(graphopt, net, tmp_path):
    net.write_bytes(net.read_bytes()[:-20])
    done = graphopt("run", net, "--passes", "cleanup", "-o", tmp_path / "out.onnx")
    assert done.code == 3
    assert "net.onnx" in done.err
    assert not (tmp_path / "out.onnx").exists()


def test_text_file(graphopt, tmp_path):
    path = tmp_path / "notes.onnx"
    path.write_text("these are notes\n")
    done = graphopt("inspect", path)
    assert done.code == 3
    assert "notes.onnx" in done.err


def test_folder_and_missing_file(graphopt, tmp_path):
    assert graphopt("inspect", tmp_path).code == 2
    done = graphopt("run", tmp_path / "none.onnx", "-o", tmp_path / "out.onnx")
    assert done.code == 2
    assert "none.onnx" in done.err


def test_empty_graph(graphopt, tmp_path):
    path = tmp_path / "empty.onnx"
    path.write_bytes(helper.make_model(helper.make_graph([], "g", [], [])).SerializeToString())
    done = graphopt("run", path, "-o", tmp_path / "out.onnx")
    assert done.code == 3
    assert "empty graph" in done.err


def test_cyclic_graph(graphopt, tmp_path):
    proto = make_net()
    proto.graph.node[0].input[0] = "b"
    path = tmp_path / "cycle.onnx"
    path.write_bytes(proto.SerializeToString())
    done = graphopt("run", path, "-o", tmp_path / "out.onnx")
    assert done.code == 3
    assert "cycle" in done.err


def test_missing_external_data(graphopt, net, tmp_path):
    onnx.save(make_net(), tmp_path / "e.onnx", save_as_external_data=True, location="e.bin", size_threshold=0)
    (tmp_path / "e.bin").unlink()
    done = graphopt("run", tmp_path / "e.onnx", "-o", tmp_path / "out.onnx")
    assert done.code == 3
    assert "e.bin" in done.err


def test_wrong_types(graphopt, tmp_path):
    proto = make_net()
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    path = tmp_path / "types.onnx"
    path.write_bytes(proto.SerializeToString())
    done = graphopt("run", path, "-o", tmp_path / "out.onnx")
    assert done.code == 3


def test_unknown_operator_domain(graphopt, tmp_path):
    proto = make_net()
    proto.graph.node[1].domain = "com.unknown"
    proto.graph.node[1].op_type = "Magic"
    proto.opset_import.append(helper.make_opsetid("com.unknown", 1))
    path = tmp_path / "magic.onnx"
    path.write_bytes(proto.SerializeToString())
    done = graphopt("run", path, "--passes", "cleanup", "-o", tmp_path / "out.onnx")
    assert done.code == 6
    assert "Magic" in done.err or "com.unknown" in done.err


@pytest.mark.parametrize(
    ("arrays", "culprit"),
    [
        ({"x": np.full((8, 4), np.nan, np.float32)}, "x"),
        ({"x": np.full((8, 4), np.inf, np.float32)}, "x"),
        ({"z": np.zeros((8, 4), np.float32)}, "z"),
        ({"x": np.zeros((8, 5), np.float32)}, "x"),
        ({"x": np.zeros((0, 4), np.float32)}, "x"),
    ],
)
def test_data_that_does_not_fit(graphopt, net, tmp_path, arrays, culprit):
    np.savez(tmp_path / "bad.npz", **arrays)
    done = graphopt("run", net, "--passes", "cleanup", "-o", tmp_path / "out.onnx", "--data", tmp_path / "bad.npz")
    assert done.code == 2
    assert repr(culprit) in done.err or f" {culprit}" in done.err
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--passes", "clenup"], "cleanup"),
        (["--passes", "prune:ratoi=0.5"], "ratio"),
        (["--passes", "prune:ratio=much"], "ratio"),
        (["--passes", "prune:ratio=1.5"], "ratio"),
        (["--passes", "prune:"], "prune"),
        (["--target", "ort-cpx"], "ort-cpu"),
        (["--provider", "cpx"], "cpu"),
        (["--dim", "N"], "NAME=N"),
        (["--plugin", "no_such_plugin.py"], "no_such_plugin"),
        (["--set", "prune.ratio=0.5"], "prune"),
        (["--recipe", "none.toml"], "none.toml"),
        (["--no-such-option"], "no-such-option"),
    ],
)
def test_wrong_usage(graphopt, net, tmp_path, words, message):
    done = graphopt("run", net, "-o", tmp_path / "out.onnx", *words)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "out.onnx").exists()


def test_provider_that_cannot_run_here(graphopt, net, tmp_path):
    done = graphopt("run", net, "-o", tmp_path / "out.onnx", "--provider", "cuda")
    assert done.code == 6
    assert "cuda" in done.err


def test_target_that_cannot_run_here_is_not_timed(graphopt, net, data, tmp_path):
    done = graphopt("run", net, "-o", tmp_path / "out.onnx", "--target", "tensorrt", "--data", data, "--json")
    assert done.code == 0
    assert done.json["timing"] is None
    assert "tensorrt" in done.json["not_timed"]
    strict = graphopt("run", net, "-o", tmp_path / "o2.onnx", "--target", "tensorrt", "--strict")
    assert strict.code == 6


def test_symbolic_dims_without_a_value_are_listed(graphopt, tmp_path):
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,T,4] x) => (float[N,T,4] y) { y = Relu(x) }'
    path = tmp_path / "dims.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    done = graphopt("run", path, "-o", tmp_path / "out.onnx")
    assert done.code == 2
    assert "T" in done.err
    assert graphopt("run", path, "-o", tmp_path / "out.onnx", "--dim", "T=3", "--no-time").code == 0


def test_compare_beyond_tolerance(graphopt, net, data, tmp_path):
    proto = make_net()
    other = onnx.numpy_helper.to_array(proto.graph.initializer[1]) * 2
    proto.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(other, "v"))
    path = tmp_path / "other.onnx"
    onnx.save(proto, path)
    assert graphopt("compare", net, path, "--data", data).code == 0
    assert graphopt("compare", net, path, "--data", data, "--tol", "0.01").code == 4
    assert graphopt("compare", net, net, "--data", data, "--tol", "0").code == 0
