from __future__ import annotations

import numpy as np
import pytest

from graphopt.data.npz import ArrayDataset
from graphopt.data.split import split


def _values(data) -> list[float]:
    return [float(v) for batch in data for v in batch.feeds["x"]]


@pytest.mark.parametrize(("count", "scored"), [(100, 20), (10, 2), (5, 1), (3, 1), (2, 1)])
def test_eighty_twenty_without_overlap(interface_of, count: int, scored: int) -> None:
    data = ArrayDataset({"x": np.arange(count, dtype=np.float32)}, interface_of("float[N] x"), "d")
    parts = split(data, seed=3)
    calibration, scoring = _values(parts.calibration), _values(parts.scoring)
    assert len(scoring) == scored
    assert sorted(calibration + scoring) == list(range(count))
    assert not parts.shared
    again = split(data, seed=3)
    assert _values(again.scoring) == scoring
    if count == 100:
        assert _values(split(data, seed=4).scoring) != scoring


def test_one_sample_serves_as_both_and_says_so(interface_of) -> None:
    data = ArrayDataset({"x": np.zeros(1, np.float32)}, interface_of("float[N] x"), "d")
    parts = split(data, seed=0)
    assert parts.shared
    assert len(parts.calibration) == len(parts.scoring) == 1
