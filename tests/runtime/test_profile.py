from __future__ import annotations

import json

import numpy as np
import pytest

from graphopt.errors import UnsupportedError
from graphopt.runtime.profile import parse_profile, profile_nodes


def test_nodes_of_a_model(mlp) -> None:
    nodes = profile_nodes(mlp(64, 3), {"x": np.ones((4, 64), np.float32)}, runs=5, warmup=2)
    assert {node.op for node in nodes} >= {"MatMul"}
    assert {"mm0", "mm1", "mm2"} <= {node.name for node in nodes}
    assert all(node.provider == "CPUExecutionProvider" for node in nodes)
    assert all(node.calls == 5 for node in nodes)
    assert sum(node.share for node in nodes) == pytest.approx(1)
    assert [node.microseconds for node in nodes] == sorted((node.microseconds for node in nodes), reverse=True)
    first = next(node for node in nodes if node.name == "mm0")
    assert first.inputs[0] == "float[4,64]"
    assert first.outputs == ("float[4,64]",)


def _event(name: str, ts: int, dur: int, cat: str = "Node") -> dict:
    return {"cat": cat, "name": name, "ts": ts, "dur": dur, "args": {"op_name": "Add", "provider": "P"}}


def test_medians_over_runs_and_sums_within_one(tmp_path) -> None:
    events = [
        _event("model_run", 0, 100, "Session"),
        _event("a_kernel_time", 10, 50),
        _event("model_run", 200, 100, "Session"),
        _event("a_kernel_time", 210, 4),
        _event("a_kernel_time", 220, 6),
        _event("b_kernel_time", 230, 30),
        _event("model_run", 400, 100, "Session"),
        _event("a_kernel_time", 410, 20),
        _event("a_fence_before", 410, 20),
        _event("model_run", 600, 100, "Session"),
        _event("a_kernel_time", 610, 30),
    ]
    path = tmp_path / "p.json"
    path.write_text(json.dumps(events))
    nodes = {node.name: node for node in parse_profile(path, warmup=1)}
    assert nodes["a"].microseconds == 20
    assert nodes["a"].calls == 4
    assert nodes["b"].microseconds == 0
    assert set(nodes) == {"a", "b"}
    with pytest.raises(UnsupportedError, match="no finished run"):
        parse_profile(path, warmup=9)
