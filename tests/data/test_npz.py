from __future__ import annotations

import zipfile

import numpy as np
import pytest

from graphopt.data.feeds import count_samples, fingerprint
from graphopt.data.npz import ArrayDataset
from graphopt.data.open import open_data
from graphopt.errors import DataError


def _save(path, **arrays) -> str:
    np.savez(path, **arrays)
    return str(path)


def test_own_rank_is_cut_into_batches(interface_of, rng, tmp_path) -> None:
    x = rng.standard_normal((10, 3)).astype(np.float32)
    data = open_data(_save(tmp_path / "d.npz", x=x, labels=np.arange(10)), interface_of("float[N,3] x"))
    assert len(data) == 10
    assert data.labelled
    batches = list(data.iter_batches(4))
    assert [b.feeds["x"].shape for b in batches] == [(4, 3), (4, 3), (2, 3)]
    assert [(b.start, b.rows, b.valid) for b in batches] == [(0, 4, 4), (4, 4, 4), (8, 2, 2)]
    assert np.array_equal(np.concatenate([b.feeds["x"] for b in batches]), x)
    assert np.array_equal(np.concatenate([b.labels for b in batches]), np.arange(10))
    assert [b.rows for b in data.iter_batches(4)] == [4, 4, 2]


def test_fixed_batch_of_one_goes_one_at_a_time(interface_of, rng) -> None:
    x = rng.standard_normal((3, 2)).astype(np.float32)
    batches = list(ArrayDataset({"x": x}, interface_of("float[1,2] x"), "d").iter_batches(32))
    assert [b.feeds["x"].shape for b in batches] == [(1, 2)] * 3


def test_fixed_batch_pads_the_remainder_and_trim_drops_it(interface_of, rng) -> None:
    x = rng.standard_normal((5, 2)).astype(np.float32)
    data = ArrayDataset({"x": x, "labels": np.arange(5)}, interface_of("float[4,2] x"), "d")
    first, last = data.iter_batches()
    assert (first.rows, first.valid) == (4, 4)
    assert (last.rows, last.valid) == (4, 1)
    assert last.feeds["x"].shape == (4, 2)
    assert np.array_equal(last.feeds["x"], np.repeat(x[4:], 4, axis=0))
    assert last.labels.tolist() == [4]
    assert last.trim(last.feeds["x"]).shape == (1, 2)
    assert last.trim(np.zeros((7, 2))).shape == (7, 2)
    assert np.shape(last.trim(np.zeros(()))) == ()
    assert count_samples(data) == 5


def test_one_rank_more_is_a_whole_input_per_sample(interface_of, rng) -> None:
    x, state = rng.standard_normal((5, 7, 4)).astype(np.float32), np.zeros((5, 1, 1, 8), np.float32)
    scale = np.arange(5, dtype=np.float32)
    data = ArrayDataset(
        {"x": x, "h": state, "scale": scale},
        interface_of("float[frames,4] x, float[1,1,8] h, float scale"),
        "d",
    )
    batches = list(data.iter_batches(32))
    assert len(batches) == 5
    assert batches[2].feeds["x"].shape == (7, 4)
    assert batches[2].feeds["h"].shape == (1, 1, 8)
    assert batches[2].feeds["scale"].shape == ()
    assert batches[2].feeds["scale"] == 2
    assert np.array_equal(batches[2].feeds["x"], x[2])


def test_rows_beside_whole_inputs(interface_of) -> None:
    x, scale = np.arange(12, dtype=np.float32).reshape(6, 2), np.arange(6, dtype=np.float32)
    batches = list(ArrayDataset({"x": x, "s": scale}, interface_of("float[N,2] x, float s"), "d"))
    assert [b.feeds["x"].tolist() for b in batches[:2]] == [[[0, 1]], [[2, 3]]]
    fixed = list(ArrayDataset({"x": x, "s": scale[:3]}, interface_of("float[2,2] x, float s"), "d"))
    assert [b.feeds["x"].shape for b in fixed] == [(2, 2)] * 3
    assert fixed[1].feeds["x"].tolist() == [[4, 5], [6, 7]]


def test_a_scalar_holds_for_all_samples(interface_of) -> None:
    data = ArrayDataset(
        {"x": np.zeros((6, 2), np.float32), "s": np.float32(3)}, interface_of("float[N,2] x, float s"), "d"
    )
    batches = list(data.iter_batches(4))
    assert [b.feeds["x"].shape[0] for b in batches] == [4, 2]
    assert all(b.feeds["s"].shape == () for b in batches)


def test_label_names(interface_of) -> None:
    interface = interface_of("float[N] labels")
    data = ArrayDataset({"labels": np.zeros(3, np.float32)}, interface, "d")
    assert not data.labelled
    both = ArrayDataset({"labels": np.zeros(3, np.float32), "__labels__": np.arange(3)}, interface, "d")
    assert both.labelled
    assert "__labels__" not in next(iter(both)).feeds


def test_input_with_a_default_may_be_left_out() -> None:
    import onnx.parser

    from graphopt.data.interface import read_interface

    text = """<ir_version: 10, opset_import: ["" : 21]> g (float[N] x, float[1] w) => (float[N] y)
              <float[1] w = {2}> { y = Mul(x, w) }"""
    interface = read_interface(onnx.parser.parse_model(text).SerializeToString())
    assert list(next(iter(ArrayDataset({"x": np.ones(2, np.float32)}, interface, "d"))).feeds) == ["x"]


def test_integers_fed_as_floats_are_told(interface_of) -> None:
    interface = interface_of("float[N,2] x, int64[N,2] y")
    rows = np.zeros((3, 2), np.uint8)
    assert ArrayDataset({"x": rows, "y": rows}, interface, "d").source == "d (x: uint8 fed as float32)"


def test_select_keeps_labels_and_order(interface_of) -> None:
    data = ArrayDataset({"x": np.arange(6, dtype=np.float32), "labels": np.arange(6)}, interface_of("float[N] x"), "d")
    picked = data.select([4, 1])
    batch = next(iter(picked))
    assert batch.feeds["x"].tolist() == [4, 1]
    assert batch.labels.tolist() == [4, 1]
    assert picked.select([1]).sample(0).feeds["x"] == 1


def test_strings_and_bools(interface_of) -> None:
    interface = interface_of("string[N] s, bool[N,2] m")
    batch = next(iter(ArrayDataset({"s": np.array(["a", "bc"]), "m": np.ones((2, 2), bool)}, interface, "d")))
    assert batch.feeds["s"].dtype == object
    assert batch.feeds["s"].tolist() == ["a", "bc"]
    assert batch.feeds["m"].dtype == bool


@pytest.mark.parametrize(
    ("signature", "dtype", "want"),
    [
        ("float[N] x", np.float64, np.float32),
        ("float[N] x", np.uint8, np.float32),
        ("int32[N] x", np.int64, np.int32),
        ("int64[N] x", np.bool_, np.int64),
        ("float16[N] x", np.float32, np.float16),
    ],
)
def test_conversions_that_keep_values(interface_of, signature: str, dtype, want) -> None:
    data = ArrayDataset({"x": np.ones(2, dtype)}, interface_of(signature), "d")
    assert next(iter(data)).feeds["x"].dtype == want


def _bad_cases():
    one = np.ones((4, 3), np.float32)
    nan, inf = one.copy(), one.copy()
    nan[2, 1], inf[0, 2] = np.nan, -np.inf
    return [
        ("float[N,3] x", {"y": one}, r"no array for input 'x'.*x: float32\[N,3\]"),
        ("float[N,3] image", {"imgae": one}, "did you mean 'imgae'"),
        ("float[N,3] x", {"x": one, "z": one}, "'z' is no input"),
        ("float[N,3] x", {"x": np.ones((4, 5), np.float32)}, r"float32\[N,3\] has shape \[4, 5\]"),
        ("float[N,3] x", {"x": np.ones((2, 4, 5), np.float32)}, "has shape"),
        ("float[N,3] x", {"x": np.ones(3, np.float32)}, r"shape \[3\].*takes 2 dims .* or 3"),
        ("float[N,3] x", {"x": nan}, r"'x' holds NaN at index \[2, 1\] \(1 non-finite"),
        ("float[N,3] x", {"x": inf}, r"holds Inf at index \[0, 2\]"),
        ("float[N,3] x", {"x": np.ones((0, 3), np.float32)}, "no samples"),
        ("float[N,3] x", {"x": one, "labels": np.arange(3)}, "3 labels for 4 samples"),
        ("float[N,3] x", {"x": one, "labels": np.array([0, 1, np.nan, 2])}, "labels.*NaN"),
        ("float[N,3] x, float[N,3] y", {"x": one, "y": one[:2]}, "different numbers of samples"),
        ("float[N,L] x, float[N,L] y", {"x": one, "y": one[:, :2]}, "dim 'L' is 3 in 'x' but 2 in 'y'"),
        ("float[1,3] x, float[2,3] y", {"x": one, "y": one}, "one rank more"),
        ("float[2,3] x, float s", {"x": one[:3], "s": np.ones(1, np.float32)}, "not a multiple"),
        ("int64[N,3] x", {"x": one}, "takes int64, the array has float32"),
        ("bool[N,3] x", {"x": one.astype(np.int64)}, "takes bool"),
        ("float[N] x", {"x": np.array(["a"])}, "takes float32"),
        ("string[N] x", {"x": np.ones(2)}, "takes strings"),
        ("float[N] x", {"x": np.ones(2, np.complex64)}, "complex64"),
        ("int8[N] x", {"x": np.array([300])}, "from 300 to 300"),
        ("float16[N] x", {"x": np.array([1e30])}, "converted to float16.*Inf"),
        ("seq(float[2]) x", {"x": one}, "not a plain tensor"),
    ]


@pytest.mark.parametrize(("signature", "arrays", "message"), _bad_cases())
def test_data_that_does_not_fit(interface_of, tmp_path, signature: str, arrays, message: str) -> None:
    path = _save(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=message) as caught:
        open_data(path, interface_of(signature))
    assert caught.value.exit_code == 2
    assert "bad.npz" in str(caught.value)


def test_python_objects_are_never_unpickled(interface_of, tmp_path) -> None:
    np.savez(tmp_path / "o.npz", x=np.array([{}, 1], dtype=object))
    with pytest.raises(DataError, match="'x' holds Python objects"):
        open_data(tmp_path / "o.npz", interface_of("float[N] x"))


def test_truncated_archives(interface_of, tmp_path) -> None:
    path = tmp_path / "t.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32))
    whole = path.read_bytes()
    for end in (10, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"t\.npz"):
            open_data(path, interface_of("float[N,3] x"))


def test_damaged_content(interface_of, tmp_path) -> None:
    path = tmp_path / "t.npz"
    np.savez(path, x=np.ones((50, 3), np.float32))
    data = bytearray(path.read_bytes())
    data[300] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"t\.npz"):
        open_data(path, interface_of("float[N,3] x"))


def test_declared_size_is_checked_before_memory_is_taken(interface_of, tmp_path) -> None:
    path = tmp_path / "huge.npz"
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 3), }"
    header += b" " * (117 - len(header)) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 12)
    with pytest.raises(DataError, match="cut short"):
        open_data(path, interface_of("float[N,3] x"))


def test_archive_without_arrays(interface_of, tmp_path) -> None:
    path = tmp_path / "z.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hi")
    with pytest.raises(DataError, match=r"readme\.txt"):
        open_data(path, interface_of("float[N] x"))
    with zipfile.ZipFile(path, "w"):
        pass
    with pytest.raises(DataError, match="no arrays"):
        open_data(path, interface_of("float[N] x"))


def test_fingerprint_sees_values_and_labels(interface_of) -> None:
    def make(value: float, label: int) -> str:
        x = np.array([1, 2, value], np.float32)
        return fingerprint(ArrayDataset({"x": x, "labels": np.array([0, 1, label])}, interface_of("float[N] x"), "d"))

    assert make(3, 0) == make(3, 0)
    assert len({make(3, 0), make(4, 0), make(3, 1)}) == 3
