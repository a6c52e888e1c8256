from __future__ import annotations

import numpy as np
import pytest

from graphopt.data.feeds import Dataset, count_samples
from graphopt.data.open import open_data
from graphopt.errors import DataError, UsageError

SOURCE = """
import numpy as np

def feeds(interface):
    name = interface.inputs[0].name
    return [{name: np.full((n, 2), n, np.float32), "labels": np.full(n, n)} for n in (3, 2, 4)]

def generator(interface):
    yield from feeds(interface)

class Loader:
    def __init__(self, interface):
        self.interface = interface
    def __iter__(self):
        return iter(feeds(self.interface))

def empty(interface):
    return []

def one_dict(interface):
    return {"x": np.zeros((1, 2), np.float32)}

def numbers(interface):
    return [1, 2]

def nan(interface):
    return [{"x": np.zeros((1, 2), np.float32)}, {"x": np.full((1, 2), np.nan, np.float32)}]

value = 3
"""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "my_data.py"
    path.write_text(SOURCE)
    return path


@pytest.mark.parametrize("name", ["feeds", "generator", "Loader"])
def test_feeds_are_runs_and_can_be_read_again(interface_of, source, name: str) -> None:
    data = open_data(f"{source}:{name}", interface_of("float[N,2] x"))
    assert isinstance(data, Dataset)
    assert data.labelled
    assert len(data) == 3
    assert count_samples(data) == 9
    for _ in range(2):
        assert [(b.start, b.valid, b.feeds["x"].shape) for b in data.iter_batches(1)] == [
            (0, 3, (3, 2)),
            (3, 2, (2, 2)),
            (5, 4, (4, 2)),
        ]
    picked = data.select([2, 0])
    assert [b.valid for b in picked] == [3, 4]
    assert [b.labels[0] for b in picked.select([1])] == [4]


def test_module_on_the_path(interface_of, source, monkeypatch) -> None:
    monkeypatch.syspath_prepend(source.parent)
    assert len(open_data("my_data:feeds", interface_of("float[N,2] x"))) == 3


def test_short_feeds_of_a_fixed_batch_are_padded(interface_of, source) -> None:
    data = open_data(f"{source}:feeds", interface_of("float[4,2] x"))
    assert [(b.rows, b.valid, b.feeds["x"].shape) for b in data] == [
        (4, 3, (4, 2)),
        (4, 2, (4, 2)),
        (4, 4, (4, 2)),
    ]


def test_inputs_without_a_shared_axis_are_one_sample(interface_of) -> None:
    feed = {"x": np.zeros((5, 2), np.float32), "h": np.zeros((1, 1, 8), np.float32), "labels": [1, 2, 3]}
    data = open_data([feed], interface_of("float[L,2] x, float[1,1,8] h"))
    batch = next(iter(data))
    assert (batch.rows, batch.valid) == (1, 1)
    assert batch.labels.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("no_such_module_xyz:f", UsageError, "no module 'no_such_module_xyz'"),
        ("{file}:none", UsageError, "has no 'none'"),
        ("{file}:value", UsageError, "no callable"),
        ("{file}:empty", DataError, "yields no feeds"),
        ("{file}:one_dict", DataError, "gave dict"),
        ("{file}:numbers", DataError, "feed 0 is int"),
        ("{file}:nan", DataError, "feed 1: array 'x' holds NaN"),
        ("{folder}/none.py:f", UsageError, "no such file"),
    ],
)
def test_what_goes_wrong(interface_of, source, spec: str, error, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        list(open_data(spec.format(file=source, folder=source.parent), interface_of("float[N,2] x")))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({"y": np.zeros((1, 2))}, "no array for input 'x'"),
        ({"x": np.zeros((1, 3), np.float32)}, r"has shape \[1, 3\]"),
        ({"x": np.zeros(2, np.float32)}, r"has shape \[2\]"),
        ({"x": np.zeros((0, 2), np.float32)}, "no samples"),
        ({"x": [[1, 2], [3]]}, "no array"),
        ({"x": [[None, 2]]}, "Python objects"),
        ({"x": np.zeros((2, 2), np.float32), "labels": [1]}, "1 labels for 2 samples"),
    ],
)
def test_feeds_that_do_not_fit(interface_of, feed, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(open_data([feed], interface_of("float[N,2] x")))


def test_import_errors_of_user_code(interface_of, tmp_path) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('boom')")
    with pytest.raises(UsageError, match="RuntimeError: boom"):
        open_data(f"{tmp_path / 'broken.py'}:f", interface_of("float[N] x"))
    (tmp_path / "needs.py").write_text("import no_such_module_xyz")
    with pytest.raises(UsageError, match="no_such_module_xyz"):
        open_data(f"{tmp_path / 'needs.py'}:f", interface_of("float[N] x"))


def test_one_shot_iterators_are_refused(interface_of) -> None:
    with pytest.raises(DataError, match="only once"):
        open_data(iter([]), interface_of("float[N] x"))
