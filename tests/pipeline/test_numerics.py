"""The differential check of a pass."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt import Model
from graphopt.data.interface import read_interface
from graphopt.data.synthetic import SyntheticDataset
from graphopt.errors import ValidationError
from graphopt.pipeline.numerics import Numerics

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
