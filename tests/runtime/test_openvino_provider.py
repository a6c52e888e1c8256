"""ONNX Runtime's OpenVINO execution provider, where it is installed (package onnxruntime-openvino) and runs.

``make test-openvino-provider`` runs this file in an environment that has it.
"""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from cli_net import make_net

from graphopt.cli.main import main
from graphopt.runtime.providers import availability, require
from graphopt.runtime.session import Session, SessionConfig

pytestmark = pytest.mark.skipif(not availability("openvino").usable, reason=availability("openvino").reason)


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(make_net(), path)
    return path


def test_it_ran_here_in_a_fresh_process():
    assert "ran MatMul and Relu on OpenVINOExecutionProvider" in availability("openvino").evidence
    assert require("openvino").name == "openvino"


def test_every_node_runs_there_and_gives_the_cpus_numbers(net):
    feeds = {"x": np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)}
    there = Session(net, SessionConfig("openvino", strict=True))
    assert there.providers[0] == "OpenVINOExecutionProvider"
    np.testing.assert_allclose(there.run(feeds)["y"], Session(net).run(feeds)["y"], rtol=1e-4, atol=1e-5)
    parts = there.assignments()
    assert parts is None or {p.provider for p in parts} == {"OpenVINOExecutionProvider"}


def test_a_run_is_validated_and_timed_there(net, tmp_path, monkeypatch, capfd):
    rng = np.random.default_rng(1)
    data = tmp_path / "data.npz"
    np.savez(data, x=rng.standard_normal((64, 4), np.float32), labels=rng.integers(0, 3, 64))
    words = ("run", net, "--passes", "cleanup,quantize", "--provider", "openvino", "--data", data, "--json")
    monkeypatch.setattr("sys.argv", ["graphopt", *map(str, words), "-o", str(tmp_path / "o.onnx")])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    found = json.loads(capfd.readouterr().out)
    assert found["provider"] == found["timing"]["provider"] == "openvino"
    assert all(t["before_us"] or t["after_us"] for t in found["layer_times"])
    assert found["versions"]["onnxruntime"]
