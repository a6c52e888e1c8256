"""A run for target openvino is timed in the OpenVINO runtime where that is installed, and says so where it is not."""

from __future__ import annotations

from graphopt.runtime.openvino_session import openvino_installed


def test_timed_where_it_runs(graphopt, net, data, tmp_path):
    words = ("run", net, "--passes", "cleanup", "--target", "openvino", "--data", data, "-o", tmp_path / "o.onnx")
    done = graphopt(*words, "--report", tmp_path / "report", "--json")
    assert done.code == 0, done.err
    if openvino_installed():
        assert done.json["timing"]["provider"] == "openvino runtime"
        assert done.json["not_timed"] == ""
        return
    assert done.json["timing"] is None
    assert "pip install 'graphopt[openvino]'" in done.json["not_timed"]
    assert graphopt(*words, "--force", "--strict").code == 6
