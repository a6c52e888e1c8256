"""How far two models are apart: infinities included."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt import load
from graphopt.data.interface import read_interface
from graphopt.data.open import open_data
from graphopt.transforms.quantize.output_noise import in_words, measured_sqnr

X = np.linspace(-1, 1, 4, dtype=np.float32)[None]


def plus(added):
    """x plus a constant."""
    constants = [numpy_helper.from_array(np.array(added, np.float32), "c")]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "c"], ["y"])], "g", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def measured(one, other):
    first, second = plus(one), plus(other)
    data = open_data([{"x": X}] * 2, read_interface(first.SerializeToString()))
    return measured_sqnr(load(first), load(second), data)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([np.inf, 0, 0, 0], [1, 0, 0, 0]),
        ([0, 0, 0, 0], [np.inf, 0, 0, 0]),
        ([0, -np.inf, 0, 0], [0, np.inf, 0, 0]),
        ([0, -np.inf, 0, 0], [0, np.nan, 0, 0]),
    ],
)
def test_an_infinity_that_is_no_more_or_new_is_all_noise(one, other):
    assert measured(one, other) == -np.inf


def test_the_same_infinities_are_no_noise():
    assert measured([0, -np.inf, 0, 0], [0, -np.inf, 0, 0]) == np.inf
    assert 30 < measured([1, -np.inf, 1, 1], [1.01, -np.inf, 1, 1]) < 60


def test_where_the_original_is_nan_nothing_is_judged():
    assert measured([np.nan, 1, 1, 1], [0, 1, 1, 1]) == np.inf


def test_no_noise_is_said_in_words():
    assert (in_words(np.inf), in_words(31.26)) == ("loses nothing", "keeps 31.3 dB")
