"""The search driver: bisection on knobs, verification, the best result kept, memory."""

from __future__ import annotations

import gc
import weakref

import pytest

from graphopt.errors import UsageError
from graphopt.pipeline import Pass, PassManager, Pipeline, Tunable, option
from graphopt.pipeline.options import Options
from graphopt.pipeline.search import open_knobs, search, turned

TEXT = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) <float[2] w = {1,1}> { y = Mul(x, w) }'


class Built:
    def __init__(self, pipeline: Pipeline) -> None:
        self.values = [getattr(p.options, "factor", None) for p in pipeline]
        self.count = [getattr(p.options, "count", None) for p in pipeline]


def factor(built: Built) -> float:
    return built.values[0]


def test_the_strong_end_is_tried_first(registry) -> None:
    result = search(Pipeline.parse("scale", registry), Built, lambda b: 0.0, 0.01)
    assert factor(result.best) == 0.0
    assert [t.pipeline for t in result.trials] == ["scale:factor=0.0"]
    assert result.met


@pytest.mark.parametrize("threshold", [0.13, 0.4, 0.77])
def test_bisection_stops_at_the_edge(registry, threshold) -> None:
    result = search(
        Pipeline.parse("scale", registry), Built, lambda b: float(factor(b) < threshold), 0.5, max_trials=20
    )
    assert result.met
    assert threshold <= factor(result.best) <= threshold + 0.05
    assert result.drop == 0
    assert len(result.trials) <= 8


def test_the_number_of_trials_is_bounded(registry) -> None:
    result = search(Pipeline.parse("scale", registry), Built, lambda b: float(factor(b) < 0.501), 0.5, max_trials=4)
    assert len(result.trials) == 4
    assert factor(result.best) == 0.75


def test_a_budget_that_cannot_be_met_gives_the_least_bad(registry) -> None:
    result = search(Pipeline.parse("scale", registry), Built, lambda b: 2.0 - factor(b), 0.5)
    assert not result.met
    assert factor(result.best) == 1.0
    assert result.drop == 1.0
    assert [t.accepted for t in result.trials] == [False, False]


def test_nan_is_never_accepted(registry) -> None:
    result = search(Pipeline.parse("scale", registry), Built, lambda b: float("nan") if factor(b) < 1 else 0.0, 0.5)
    assert factor(result.best) == 1.0
    assert result.met


def test_what_is_not_monotone_still_keeps_an_accepted_model(registry) -> None:
    drops = {0.0: 1.0, 1.0: 0.0, 0.5: 0.0, 0.25: 1.0, 0.375: 1.0, 0.4375: 1.0, 0.46875: 1.0}
    result = search(Pipeline.parse("scale", registry), Built, lambda b: drops[factor(b)], 0.5)
    assert factor(result.best) == 0.5
    assert result.met


def test_a_given_option_is_left_alone(registry) -> None:
    pipeline = Pipeline.parse("scale:factor=0.3", registry)
    assert open_knobs(pipeline) == ()
    result = search(pipeline, Built, lambda b: 1.0, 0.5)
    assert (str(result.pipeline), result.met, len(result.trials)) == ("scale:factor=0.3", False, 1)


class CountOptions(Options):
    count: int | None = option(None, "How many.", tunable=Tunable(0, 10))


class Count(Pass[CountOptions]):
    """Counts."""

    def run(self, model, ctx) -> None:
        pass


def test_whole_numbers_and_two_knobs_in_turn(registry) -> None:
    registry.passes.add("count", Count)
    pipeline = Pipeline.parse("scale,count", registry)
    assert [k.whole for k in open_knobs(pipeline)] == [False, True]

    def drop(built: Built) -> float:
        return (1 - factor(built)) * 0.5 + built.count[1] * 0.1

    result = search(pipeline, Built, drop, 0.75, max_trials=20)
    assert (factor(result.best), result.best.count[1]) == (0.0, 2), "0.5 for the first knob leaves 0.25"
    assert result.drop == pytest.approx(0.7)


def test_only_the_best_is_kept_alive(registry) -> None:
    alive: list[weakref.ref] = []
    most = 0

    def build(pipeline: Pipeline) -> Built:
        nonlocal most
        gc.collect()
        most = max(most, sum(ref() is not None for ref in alive))
        built = Built(pipeline)
        alive.append(weakref.ref(built))
        return built

    search(Pipeline.parse("scale", registry), build, lambda b: float(factor(b) < 0.4), 0.5, max_trials=12)
    assert len(alive) > 4
    assert most <= 1


def test_on_models(parse, registry) -> None:
    source = parse(TEXT)

    def build(pipeline: Pipeline):
        return PassManager(registry).run(source.clone(), pipeline)

    def drop(run) -> float:
        return float(1 - run.model.graph.initializers[0].values[0])

    result = search(Pipeline.parse("scale", registry), build, drop, 0.25, max_trials=20)
    assert result.met
    assert 0.2 <= result.drop <= 0.25
    assert str(result.pipeline) == result.best.model.metadata_props["graphopt.pipeline"]


def test_wrong_use(registry) -> None:
    pipeline = Pipeline.parse("scale", registry)
    with pytest.raises(UsageError, match="--max-drop must be 0 or more, not -1"):
        search(pipeline, Built, factor, -1)
    with pytest.raises(UsageError, match="--max-drop must be 0 or more, not nan"):
        search(pipeline, Built, factor, float("nan"))
    with pytest.raises(UsageError, match="a search needs 3 trials or more, not 2"):
        search(pipeline, Built, factor, 1, max_trials=2)


def test_turning_keeps_the_other_options(registry) -> None:
    pipeline = Pipeline.parse("scale:loud=true", registry)
    [knob] = open_knobs(pipeline)
    assert str(turned(pipeline, knob, 0.25)) == "scale:factor=0.75:loud=true"
