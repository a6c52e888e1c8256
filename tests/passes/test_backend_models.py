"""``cleanup`` on every node model of onnx's backend tests: nothing crashes, no result changes."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest

from graphopt import load
from graphopt.pipeline import PassManager, Pipeline, Registry
from tests.passes.numerics import ORT_ERRORS, assert_equal, session

SKIPPED_OPS = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
SHARDS = 8


@cache
def models() -> list[Any]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [c for c in collect_testcases(None) if c.model is not None]


def feeds_of(case: Any) -> dict[str, Any]:
    return dict(zip([i.name for i in case.model.graph.input], case.data_sets[0][0], strict=False))


def run(model: bytes, feeds: dict[str, Any]) -> list[Any] | None:
    """The outputs, or None when ONNX Runtime has no kernel for the model."""
    try:
        return session(model).run(None, feeds)
    except (*ORT_ERRORS, RuntimeError, ValueError, TypeError):
        return None


def check(case: Any, registry: Registry) -> str:
    model = load(case.model)
    PassManager(registry).run(model, Pipeline.parse("cleanup", registry))
    cleaned = model.serialize()
    ops = {n.op_type for n in case.model.graph.node}
    random = ops & SKIPPED_OPS or ("Dropout" in ops and "training" in case.name)
    feeds = feeds_of(case)
    before = None if random else run(case.model.SerializeToString(), feeds)
    if before is None:
        return "not run"
    after = run(cleaned, feeds)
    assert after is not None, f"{case.name}: the cleaned model does not run"
    plain = all(isinstance(v, np.ndarray | np.generic) for v in before)
    if plain:
        assert_equal(before, after, exact=False)
    return "equal" if plain else "ran"


@pytest.mark.parametrize("shard", range(SHARDS))
def test_node_models(shard: int) -> None:
    registry = Registry()
    done = [check(case, registry) for case in models()[shard::SHARDS]]
    assert done.count("equal") > len(done) / 2


def test_inputs_are_not_touched() -> None:
    proto = models()[0].model
    before = onnx.ModelProto.SerializeToString(proto)
    load(proto)
    assert proto.SerializeToString() == before
