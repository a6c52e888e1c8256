"""Each case of tests/cases: the pass leaves the graph that the case shows, which computes the same."""

from __future__ import annotations

import onnx
import pytest

from graphopt.pipeline import PassManager, Pipeline, Registry
from tests.passes.cases import CASES, Case, all_cases, structure
from tests.passes.numerics import compare

REGISTRY = Registry()
RANDOM = {"fold_constants/random", "eliminate_common/random", "fold_constants/dropout_training"}
DROPOUT = {"eliminate_identity/dropout_training"}


def cleaned(case: Case, model):
    return PassManager(REGISTRY, check_reports=True).run(model, Pipeline.parse(case.step, REGISTRY))


@pytest.mark.parametrize("case", all_cases(), ids=lambda c: c.name)
def test_case(case: Case) -> None:
    model = case.model()
    run = cleaned(case, model)
    assert structure(model) == structure(case.expected())
    assert run.changed == (case.after is not None)
    onnx.checker.check_model(model.to_proto(), full_check=True)
    if case.name not in RANDOM | DROPOUT:
        exact = Pipeline.parse(case.step, REGISTRY).passes[0].effective_guarantee() == "exact"
        compare(onnx.parser.parse_model(case.before), model.serialize(), exact)


@pytest.mark.parametrize("case", all_cases(), ids=lambda c: c.name)
def test_second_run_changes_nothing(case: Case) -> None:
    model = case.model()
    cleaned(case, model)
    once = model.serialize()
    assert not cleaned(case, model).changed
    assert model.serialize() == once


def test_every_cleaning_pass_has_cases_with_and_without_a_match() -> None:
    passes = {p.name for p in CASES.iterdir()} - {"remove_dead", "cleanup", "inline_functions"}
    inside = REGISTRY.passes.get("cleanup")().pipeline()
    named = {step.partition(":")[0] for step in inside.split(",")} - {"remove_dead", "inline_functions"}
    assert named <= passes
    for name in named:
        kinds = {case.after is None for case in all_cases() if case.name.startswith(f"{name}/")}
        assert kinds == {True, False}, name
