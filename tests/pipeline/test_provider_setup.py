"""What a run tells a provider that compiles: shapes from one sample to a batch, and the cache folder."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from chain_net import chain

from graphopt.data.interface import read_interface
from graphopt.pipeline import runner
from graphopt.pipeline.job import Job, JobData, Where
from graphopt.pipeline.job_data import open_run_data
from graphopt.pipeline.place import Place


def test_shapes_and_cache_reach_the_session(tmp_path, monkeypatch):
    onnx.save(chain(), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=np.zeros((40, 16, 8, 8), np.float32))
    job = Job(
        tmp_path / "net.onnx",
        data=JobData(evaluation=str(tmp_path / "data.npz"), batch=16),
        where=Where("tensorrt"),
        cache=tmp_path / "cache",
    )
    seen = []

    class Stop(Exception):
        pass

    def record(model, config, **_):
        seen.append(config)
        raise Stop

    monkeypatch.setattr(runner, "place_of", lambda where: Place("tensorrt", "all"))
    monkeypatch.setattr(runner, "Session", record)
    model = runner.read_input(job)
    with pytest.raises(Stop):
        runner._open(job, model)
    (config,) = seen
    assert config.shapes.texts() == ("x:1x16x8x8", "x:16x16x8x8", "x:16x16x8x8")
    assert config.cache_dir == tmp_path / "cache"
    data = open_run_data(job.data, read_interface(job.model), model, 0)
    assert runner._shapes(job, read_interface(job.model), data) == config.shapes
