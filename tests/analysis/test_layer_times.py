"""Kernels are joined to layers on both sides, nothing is lost, and weights are shown on their own grid."""

from __future__ import annotations

import numpy as np
import pytest
from chain_net import chain, quantized

from graphopt import load
from graphopt.analysis.layer_times import layer_times
from graphopt.analysis.node_profile import profile_model
from graphopt.analysis.weight_histograms import weight_histograms
from graphopt.results import LayerBound


def test_every_microsecond_is_in_one_row():
    before, after = load(chain(4, width=64)), quantized(chain(4, width=64))
    feeds = {"x": np.ones((1, 64, 8, 8), np.float32)}
    times = profile_model(before, feeds), profile_model(after, feeds)
    bounds = [LayerBound("tconv1", "Conv", "int8", 1, 1, 1.0, 1.0, 0.0, 0.0, "compute")]
    rows = layer_times(before.graph, after.graph, times, bounds)
    assert [r.name for r in rows] == ["tconv0", "tconv1", "tconv2", "tconv3", "everything else"]
    assert rows[1].bound == "compute"
    assert all(r.before_us > 0 and r.after_us > 0 for r in rows[:4])
    assert sum(r.before_us for r in rows) == pytest.approx(sum(t.microseconds for t in times[0]))
    assert sum(r.after_us for r in rows) == pytest.approx(sum(t.microseconds for t in times[1]))
    assert layer_times(before.graph, after.graph, ()) == ()


def test_quantized_weights_lie_on_their_grid():
    found = weight_histograms(load(chain(4, width=64)).graph, quantized(chain(4, width=64)).graph)
    integer = [h for h in found if h.step is not None]
    assert integer
    for row in integer:
        assert row.grid[0] <= -128 * row.step < 127 * row.step <= row.grid[1]
        assert row.grid[0] <= row.kept[0] < row.kept[1] <= row.grid[1] + 1e-6
        assert row.low <= row.kept[0] < row.kept[1] <= row.high
        assert sum(row.after) == sum(row.before)
