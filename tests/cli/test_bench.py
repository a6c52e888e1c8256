"""``bench`` on the command line: batch sizes, threads, runtimes, and the profile."""

from __future__ import annotations

import pytest

from graphopt.runtime.openvino_session import openvino_installed

QUICK = ("--no-footprint", "--rounds", 9, "--sessions", 3)


def test_batch_sizes_and_threads(graphopt, net, data):
    found = graphopt("bench", net, net, "--data", data, "--batch", "1,64", "--threads", "1,2", *QUICK, "--json").json
    points = [(p["batch"], p["threads"]) for p in found["sweep"]]
    assert points == [(1, 1), (64, 1), (1, 2), (64, 2)]
    for point in found["sweep"]:
        for timing in point["timing"]["timings"]:
            assert timing["rows"] == point["batch"]
            assert timing["throughput"] == pytest.approx(point["batch"] * 1000 / timing["wall_ms"])
    done = graphopt("bench", net, "--batch", "1,8", *QUICK)
    assert "Throughput" in done.out


def test_profile_names_the_nodes_of_the_file(graphopt, net, data):
    found = graphopt("bench", net, "--data", data, "--profile", *QUICK, "--json").json
    nodes = [name for kernel in found["nodes"]["net.onnx"] for name in kernel["nodes"]]
    assert len(nodes) == 4
    assert sum(kernel["macs"] for kernel in found["nodes"]["net.onnx"]) == 4 * 8 + 8 * 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--batch", "1,x"), "it must be a whole number"),
        (("--threads", "0"), "it must be a whole number"),
        (("--runtime", "other"), "onnxruntime or openvino"),
        (("--runtime", "openvino", "--provider", "cpu"), "--provider belongs to onnxruntime"),
        (("--provider-option", "x"), "it must be KEY=VALUE"),
        (("--sessions", "2"), "at least 3 sessions"),
    ],
)
def test_wrong_use(graphopt, net, words, message):
    done = graphopt("bench", net, *words)
    assert done.code == 2
    assert message in done.err


def test_openvino_runs_or_says_that_it_is_not_installed(graphopt, net, data):
    done = graphopt("bench", net, net, "--runtime", "openvino", "--data", data, *QUICK, "--json")
    if not openvino_installed():
        assert done.code == 6
        assert "pip install 'graphopt[openvino]'" in done.err
        return
    assert done.json["timing"]["provider"] == "openvino runtime"
    assert "OpenVINO" in done.json["timing"]["timings"][0]["providers"][0]


def test_a_model_with_a_fixed_batch(graphopt, net, tmp_path):
    import onnx
    from cli_net import make_net

    model = make_net()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, tmp_path / "fixed.onnx")
    assert graphopt("bench", tmp_path / "fixed.onnx", "--batch", "2", *QUICK).code == 0
    done = graphopt("bench", tmp_path / "fixed.onnx", "--batch", "4", *QUICK)
    assert done.code == 2
    assert "fixes the first extents of its inputs (2)" in done.err
