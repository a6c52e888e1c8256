"""The OpenVINO runtime: the same numbers as ONNX Runtime, timed by the same timer; a clear word where it is missing."""

from __future__ import annotations

import numpy as np
import pytest
from chain_net import chain

from graphopt.errors import ProviderError
from graphopt.runtime import openvino_session
from graphopt.runtime.openvino_session import OpenVinoSession, openvino_installed
from graphopt.runtime.session import Session
from graphopt.runtime.timing import Contender, TimingPlan, time_models

needs_openvino = pytest.mark.skipif(not openvino_installed(), reason="the extra openvino is not installed")
FEEDS = {"x": np.random.default_rng(0).normal(size=(2, 16, 8, 8)).astype(np.float32)}


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(openvino_session, "openvino_installed", lambda: False)
    with pytest.raises(ProviderError, match=r"pip install 'graphopt\[openvino\]'"):
        OpenVinoSession(chain().SerializeToString())


@needs_openvino
def test_numbers_are_those_of_onnxruntime(tmp_path):
    data = chain().SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data)
    expected = Session(data).run(FEEDS)["y"]
    for model in (data, tmp_path / "m.onnx"):
        np.testing.assert_allclose(OpenVinoSession(model).run(FEEDS)["y"], expected, atol=1e-4)


@needs_openvino
def test_it_is_timed_by_the_same_timer():
    small, large = chain(1).SerializeToString(), chain(8).SerializeToString()
    contenders = [Contender(n, OpenVinoSession(m), FEEDS, 2) for n, m in (("large", large), ("small", small))]
    report = time_models(contenders, TimingPlan(rounds=9, round_ms=5, warmup_ms=5, sessions=3))
    assert report.provider == "openvino runtime"
    assert report.timings[1].speedup.value > 1
