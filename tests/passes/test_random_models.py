"""``cleanup`` on random models: equal, idempotent, deterministic, in both guarantees."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings

from graphopt import load
from graphopt.pipeline import PassManager, Pipeline, Registry
from tests.generators import models
from tests.passes.numerics import ORT_ERRORS, assert_equal, draw, session

REGISTRY = Registry()
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def cleaned(proto: onnx.ModelProto, text: str) -> bytes:
    model = load(proto)
    PassManager(REGISTRY, check_reports=True).run(model, Pipeline.parse(text, REGISTRY))
    return model.serialize()


def check(proto: onnx.ModelProto, guarantee: str) -> None:
    """Everything that cleanup promises of one model."""
    text, exact = f"cleanup:guarantee={guarantee}", guarantee == "exact"
    source = proto.SerializeToString()
    once = cleaned(proto, text)
    assert proto.SerializeToString() == source
    assert cleaned(proto, text) == once
    result = onnx.ModelProto.FromString(once)
    onnx.checker.check_model(result, full_check=True)
    again = load(once)
    assert not PassManager(REGISTRY).run(again, Pipeline.parse(text, REGISTRY)).changed
    first, second = session(source), session(once)
    for seed, special in ((0, False), (1, exact)):
        for extent in (2, 3):
            feeds = draw(proto, seed, extent, special)
            try:
                before = first.run(None, feeds)
            except ORT_ERRORS:
                continue
            if not exact and any(not np.isfinite(b).all() or np.abs(b).max(initial=0) > 1e6 for b in before):
                continue
            assert_equal(before, second.run(None, feeds), exact)


@pytest.mark.parametrize("guarantee", ["exact", "equivalent"])
def test_random_models(guarantee: str) -> None:
    @settings(max_examples=100, deadline=None, suppress_health_check=QUIET, derandomize=True)
    @given(models())
    def run(proto: onnx.ModelProto) -> None:
        check(proto, guarantee)

    run()
