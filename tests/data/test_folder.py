from __future__ import annotations

import numpy as np
import pytest

from graphopt.data.open import open_data
from graphopt.errors import DataError


def test_files_make_one_data_set(interface_of, tmp_path) -> None:
    for number, rows in enumerate((3, 1, 4)):
        first = number * 10
        np.savez(
            tmp_path / f"{number}.npz",
            x=np.arange(first, first + rows, dtype=np.float32)[:, None],
            labels=np.arange(first, first + rows),
        )
    data = open_data(tmp_path, interface_of("float[N,1] x"))
    assert len(data) == 8
    batches = list(data.iter_batches(5))
    assert [b.valid for b in batches] == [5, 3]
    fed = np.concatenate([b.feeds["x"] for b in batches])[:, 0]
    assert fed.tolist() == [0, 1, 2, 10, 20, 21, 22, 23]
    assert np.concatenate([b.labels for b in batches]).tolist() == fed.tolist()
    assert next(iter(data.select([7, 3]))).feeds["x"].ravel().tolist() == [23, 10]


def test_samples_of_different_shapes_never_share_a_run(interface_of, tmp_path) -> None:
    for number, width in enumerate((4, 4, 6)):
        np.savez(tmp_path / f"{number}.npz", x=np.full((1, 2, width), number, np.float32))
    data = open_data(tmp_path, interface_of("float[N,2,W] x"))
    assert [b.feeds["x"].shape for b in data] == [(2, 2, 4), (1, 2, 6)]


def test_a_bad_value_names_its_file(interface_of, tmp_path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(2, np.float32))
    np.savez(tmp_path / "b.npz", x=np.array([0, np.nan], np.float32))
    with pytest.raises(DataError, match=r"b\.npz.*NaN at index \[1\]"):
        list(open_data(tmp_path, interface_of("float[N] x")))


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"y": np.zeros(2, np.float32)}, r"b\.npz has no array for input 'x'"),
        ({"x": np.zeros(2, np.float32)}, r"b\.npz has no labels but .*a\.npz has"),
        ({"x": np.zeros((2, 2), np.float32), "labels": np.zeros(2)}, r"b\.npz gives whole inputs"),
        ({"x": np.zeros((2, 2, 2), np.float32)}, r"b\.npz: array 'x' has shape"),
    ],
)
def test_files_that_do_not_fit_are_found_when_opened(interface_of, tmp_path, second, message: str) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(2, np.float32), labels=np.zeros(2))
    np.savez(tmp_path / "b.npz", **second)
    with pytest.raises(DataError, match=message):
        open_data(tmp_path, interface_of("float[N] x"))
