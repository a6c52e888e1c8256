"""The differential check of a pass."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt import Model
from graphopt.data.interface import read_interface
from graphopt.data.synthetic import SyntheticDataset
from graphopt.errors import ValidationError
from graphopt.pipeline.numerics import Numerics, excess, rounding_noise
from graphopt.results import Comparison, OutputComparison
from graphopt.runtime.session import SessionConfig

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'
BEFORE = "g (float[2,3] x) => (int64[2,1] y) { y = ArgMax <axis = 1> (x) }"
AFTER = "g (float[2,3] x) => (int32[2,1] y) { i = ArgMax <axis = 1> (x) y = Cast <to = 6> (i) }"


def numerics(model: Model) -> Numerics:
    return Numerics(SyntheticDataset(read_interface(model.serialize()), 4, 0))


def test_equal_models_pass(parse) -> None:
    model = parse(HEADER + BEFORE)
    assert numerics(model)(model, model.clone(), "exact") == "outputs exact on 4 samples"


@pytest.mark.parametrize("guarantee", ["exact", "equivalent"])
def test_another_output_type_is_refused(parse, guarantee) -> None:
    before, after = parse(HEADER + BEFORE), parse(HEADER + AFTER)
    assert np.dtype(np.int32) == after.graph.outputs[0].dtype
    with pytest.raises(ValidationError, match="output 'y' is int32, it was int64"):
        numerics(before)(before, after, guarantee)


SUM = "g (float[2,8] x) => (float[2,1] y) <float[8,1] w = {1,1,1,1,1,1,1,1}> { y = MatMul(x, w) }"


def scaled(parse, factor: float) -> Model:
    model = parse(HEADER + SUM)
    weight = model.graph.tensors()["w"]
    model.graph.set_weight(weight, weight.values * np.float32(factor))
    return model


def test_an_equivalent_result_may_be_as_far_as_rounded_weights_are(parse) -> None:
    before = scaled(parse, 1.0)
    noise = rounding_noise(before, SyntheticDataset(read_interface(before.serialize()), 4, 0), SessionConfig())
    assert 0 < noise["y"] < 1e-5
    far = scaled(parse, 1 + 1e-3)
    with pytest.raises(ValidationError, match="output 'y' differs"):
        numerics(before)(before, far, "equivalent")


def test_noise_lifts_the_bound_of_equivalent_results_only() -> None:
    output = OutputComparison("y", "float32", 1.0, 1.0, 2e-5, 1.0, 90.0)
    comparison = Comparison((output,), 4, True, False)
    assert "differs" in excess(comparison, "equivalent")
    assert excess(comparison, "equivalent", {"y": 3e-5}) == ""
    assert "differs" in excess(comparison, "equivalent", {"y": 1e-6})
    assert "differs" in excess(comparison, "exact", {"y": 3e-5})
