from __future__ import annotations

import numpy as np
import pytest

from graphopt.data.synthetic import Bounds, SyntheticDataset
from graphopt.errors import DataError, UsageError


def test_values_by_type(interface_of) -> None:
    interface = interface_of(
        "float[4000] f, int64[500] ids, bool[500] b, int64[3] attention_mask, string[2] s, float16[9] h"
    )
    data = SyntheticDataset(interface, count=3, seed=1, bounds={"ids": Bounds(5, 9)})
    assert data.synthetic
    assert not data.labelled
    feeds = data.sample(0).feeds
    assert abs(float(feeds["f"].mean())) < 0.1
    assert 0.9 < float(feeds["f"].std()) < 1.1
    assert set(feeds["ids"].tolist()) == {5, 6, 7, 8, 9}
    assert set(feeds["b"].tolist()) == {True, False}
    assert feeds["attention_mask"].tolist() == [1, 1, 1]
    assert feeds["s"].tolist() == ["a", "a"]
    assert feeds["h"].dtype == np.float16
    assert {array.dtype for array in feeds.values()} >= {
        np.dtype("float32"),
        np.dtype("int64"),
        np.dtype(bool),
    }


def test_integers_without_bounds_are_zero_or_one(interface_of) -> None:
    assert set(SyntheticDataset(interface_of("int32[200] x")).sample(0).feeds["x"].tolist()) == {0, 1}


def test_floats_within_declared_bounds(interface_of) -> None:
    data = SyntheticDataset(interface_of("float[1000] x"), bounds={"x": Bounds(0, 255)})
    values = data.sample(0).feeds["x"]
    assert 0 <= values.min() < 30
    assert 225 < values.max() <= 255


def test_any_sample_alone_by_seed(interface_of) -> None:
    interface = interface_of("float[4] x, float[4] y")
    one, two = SyntheticDataset(interface, 5, seed=7), SyntheticDataset(interface, 2, seed=7)
    assert np.array_equal(one.sample(1).feeds["x"], two.sample(1).feeds["x"])
    assert not np.array_equal(one.sample(0).feeds["x"], one.sample(1).feeds["x"])
    assert not np.array_equal(one.sample(0).feeds["x"], one.sample(0).feeds["y"])
    assert not np.array_equal(one.sample(0).feeds["x"], SyntheticDataset(interface, seed=8).sample(0).feeds["x"])
    assert [b.feeds["x"].shape for b in two] == [(4,), (4,)]


def test_free_dims_need_values(interface_of) -> None:
    interface = interface_of("float[N,L] x")
    with pytest.raises(UsageError, match=r"N \(x axis 0\); L \(x axis 1\)\. Give --dim N=N --dim L=N"):
        SyntheticDataset(interface)
    assert SyntheticDataset(interface.bind({"L": 3}, batch=2)).sample(0).feeds["x"].shape == (2, 3)


def test_what_cannot_be_made(interface_of) -> None:
    with pytest.raises(DataError, match="sequence"):
        SyntheticDataset(interface_of("seq(float[2]) x"))
    with pytest.raises(DataError, match="are empty"):
        SyntheticDataset(interface_of("int64[2] x"), bounds={"x": Bounds(3, 2)})
    with pytest.raises(DataError, match="no integer"):
        SyntheticDataset(interface_of("int64[2] x"), bounds={"x": Bounds(0.2, 0.8)}).sample(0)
    with pytest.raises(UsageError, match="no input 'z'"):
        SyntheticDataset(interface_of("int64[2] x"), bounds={"z": Bounds(0, 1)})
