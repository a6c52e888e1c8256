from __future__ import annotations

import sys

import ml_dtypes
import numpy as np
import pytest

from graphopt.errors import UnsupportedError, ValidationError
from graphopt.runtime.footprint import measure_footprint, peak_resident_bytes


def test_a_larger_model_takes_more_memory(mlp, tmp_path) -> None:
    feeds = {"x": np.ones((1, 1024), np.float32)}
    small = measure_footprint(mlp(1024, 1), feeds, processes=1)
    path = tmp_path / "large.onnx"
    path.write_bytes(mlp(1024, 12))
    large = measure_footprint(path, feeds, processes=1)
    assert large.load_ms > 0
    assert large.first_run_ms > 0
    if large.peak_bytes is None:
        pytest.skip("this system does not tell")
    weights = 12 * 1024 * 1024 * 4
    assert large.model_bytes > weights
    assert large.model_bytes - small.model_bytes > weights * 0.7


def test_the_memory_of_the_caller_does_not_count(mlp) -> None:
    """A large parent must not show in the child's peak (getrusage on Linux would count it)."""
    feeds = {"x": np.ones((1, 64), np.float32)}
    ballast = np.ones(60_000_000, np.float32)
    result = measure_footprint(mlp(64, 1), feeds, processes=1)
    if result.peak_bytes is None or not sys.platform.startswith("linux"):
        pytest.skip("Linux only")
    assert result.peak_bytes < ballast.nbytes
    assert peak_resident_bytes() > ballast.nbytes


def test_failures_in_the_child(relu, build) -> None:
    with pytest.raises(ValidationError, match="has shape"):
        measure_footprint(relu, {"x": np.zeros((1, 4), np.float32)}, processes=1)
    exotic = build("(bfloat16[N] x) => (bfloat16[N] y) { y = Identity(x) }")
    with pytest.raises(UnsupportedError, match="bfloat16"):
        measure_footprint(exotic, {"x": np.ones(2, ml_dtypes.bfloat16)})
