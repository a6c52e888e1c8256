"""Facts that the clean-up passes keep up to date say at least what facts found anew would say."""

from __future__ import annotations

import onnx
from hypothesis import given, settings

from graphopt import load
from graphopt.pipeline import Pipeline, Registry
from graphopt.pipeline.analyses import Analyses
from graphopt.pipeline.budget import Budget
from graphopt.pipeline.context import Context, RunState, Settings
from graphopt.transforms.clean.editing import tensor_facts
from graphopt.transforms.clean.facts import Fact, is_open
from tests.generators import models
from tests.passes.test_random_models import QUIET

REGISTRY = Registry()
STEPS = Pipeline.parse(REGISTRY.passes.get("cleanup")().pipeline(), REGISTRY).passes


def knows_as_much(kept: Fact, anew: Fact) -> bool:
    """Whether nothing in the second fact is news to the first one."""
    if anew.shape is None or kept.shape is None:
        return anew.shape is None
    pairs = zip(kept.shape, anew.shape, strict=True)
    open_dims = any(is_open(a) and not is_open(b) for a, b in pairs)
    return kept.dtype == anew.dtype and not open_dims and (anew.value is None or kept.value is not None)


def check(proto: onnx.ModelProto) -> int:
    """Run the passes of ``cleanup`` twice and compare after each; returns how many tensors were compared."""
    model = load(proto)
    state = RunState(Settings(), Budget(), Analyses(model))
    compared = 0
    for step in (*STEPS, *STEPS):
        ctx = Context(step.name, state)
        step.run(model, ctx)
        if ctx.changed:
            state.analyses.keep(step.preserves)
        kept, anew = state.analyses.get(tensor_facts), tensor_facts(model)
        for graph in model.graph.graphs():
            for tensor in graph.tensors().values():
                known = kept.fact(tensor)
                assert knows_as_much(known, anew.fact(tensor)), (step.name, tensor.name)
                compared += 1
    return compared


def test_random_models() -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=QUIET, derandomize=True)
    @given(models())
    def run(proto: onnx.ModelProto) -> None:
        assert check(proto) > 0

    run()


def test_what_folding_reveals_is_passed_on() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[4,6] x) => (float[A,B] y) <float[2] c = {3.0, 8.0}> {
        s = Cast<to: int = 7>(c) r = Reshape(x, s) y = Relu(r) }"""
    assert check(onnx.parser.parse_model(text)) > 0


def test_a_later_fact_fills_what_is_open() -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[N,2] x) => (y) { y = Relu(x) }'
    model = load(onnx.parser.parse_model(text))
    facts = tensor_facts(model)
    extent = facts.fact(model.graph.inputs[0]).shape
    assert Fact(1, (facts.fresh_extent(), 2)).completed(Fact(1, extent)).shape == extent
    assert Fact(1, (5, 2)).completed(Fact(1, extent)).shape == (5, 2)
