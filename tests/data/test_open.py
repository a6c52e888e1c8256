from __future__ import annotations

import numpy as np
import pytest

from graphopt.data.open import open_data
from graphopt.errors import DataError


def test_dict_of_arrays_follows_the_rules_of_npz(interface_of) -> None:
    data = open_data({"x": [[1.0, 2.0]], "labels": [0]}, interface_of("float[N,2] x"))
    assert len(data) == 1
    assert data.labelled


def test_missing_text_empty_and_npy(interface_of, tmp_path) -> None:
    interface = interface_of("float[N] x")
    with pytest.raises(DataError, match="no such file or folder"):
        open_data(tmp_path / "none.npz", interface)
    (tmp_path / "notes.txt").write_text("some text")
    with pytest.raises(DataError, match=r"notes\.txt is not an \.npz file"):
        open_data(tmp_path / "notes.txt", interface)
    (tmp_path / "empty.npz").write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        open_data(tmp_path / "empty.npz", interface)
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"single \.npy"):
        open_data(tmp_path / "a.npy", interface)


def test_folders_without_data_or_with_both_kinds(interface_of, tmp_path) -> None:
    interface = interface_of("float[N] x")
    with pytest.raises(DataError, match=r"no \.npz files and no images"):
        open_data(tmp_path, interface)
    np.savez(tmp_path / "a.npz", x=np.zeros(3, np.float32))
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="both"):
        open_data(tmp_path, interface)


def test_samples_are_drawn_by_seed(interface_of) -> None:
    arrays = {"x": np.arange(100, dtype=np.float32)}
    first = next(iter(open_data(arrays, interface_of("float[N] x"), samples=10, seed=1))).feeds["x"].tolist()
    again = next(iter(open_data(arrays, interface_of("float[N] x"), samples=10, seed=1))).feeds["x"].tolist()
    other = next(iter(open_data(arrays, interface_of("float[N] x"), samples=10, seed=2))).feeds["x"].tolist()
    assert first == again == sorted(first)
    assert first != other
    assert len(set(first)) == 10
    assert len(open_data(arrays, interface_of("float[N] x"), samples=1000)) == 100
    with pytest.raises(DataError, match="--samples 0"):
        open_data(arrays, interface_of("float[N] x"), samples=0)
