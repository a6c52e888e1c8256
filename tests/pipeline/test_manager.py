"""The manager: verification, rollback, results, composites, limits, reference, provenance, determinism."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from graphopt import Model, load
from graphopt.errors import GraphoptError, PassError, UnsupportedError, UsageError, ValidationError
from graphopt.pipeline import Context, Pass, PassManager, Pipeline, Settings
from graphopt.pipeline.fingerprint import Fingerprint
from graphopt.pipeline.instruments import Dump, Instrument, Timing, Verify
from graphopt.pipeline.manager import graph_stats
from graphopt.results import as_json
from graphopt.storage import StoredTensor
from graphopt.verifier import verify

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'
TEXT = (
    HEADER
    + "g (float[N,4] x) => (float[N,4] y) <float[4] w = {1,2,3,4}> "
    + "{ a = Add(x, w) b = Relu(a) c = Identity(b) d = Relu(c) y = Neg(d) }"
)


@pytest.fixture
def model(parse):
    return parse(TEXT)


def run(model, registry, text: str, **kwargs):
    return PassManager(registry, **kwargs).run(model, Pipeline.parse(text, registry))


def test_a_composite_runs_to_a_fixed_point(model, registry) -> None:
    names = [n.name or n.outputs[0].name for n in model.graph.nodes]
    result = run(model, registry, "tidy")
    [tidy] = result.passes
    assert [n.op for n in model.graph.nodes] == ["Add", "Relu", "Neg"]
    assert (tidy.name, tidy.changed, tidy.guarantee) == ("tidy", True, "exact")
    assert tidy.statistics == {"rounds": 3, "identity": 1, "double_relu": 1}
    assert (tidy.before.nodes, tidy.after.nodes) == (5, 3)
    assert tidy.before.parameters == 4
    assert tidy.before.weight_bytes == 16
    assert [(i.name, i.changed) for i in tidy.inner] == [("merge_relu", True), ("drop_identity", True)]
    assert {r.source for r in tidy.remarks} == {"merge_relu", "drop_identity"}
    assert tidy.verification == "structure, checker"
    assert [str(a) for a in result.applied] == [
        f"drop_identity (identity) at {names[2]}",
        f"merge_relu (double_relu) at {names[3]}",
    ]
    json.dumps(as_json(result.passes))


def test_options_reach_the_inner_passes(model, registry) -> None:
    result = run(model, registry, "tidy:guarantee=exact")
    assert result.passes[0].options == "guarantee=exact"
    assert result.passes[0].inner[0].options == "guarantee=exact"


def test_a_fixed_point_that_is_none_stops_with_a_warning(model, registry) -> None:
    [result] = run(model, registry, "forever").passes
    assert [r.message for r in result.remarks if r.kind == "warning"] == [
        "stopped after 3 rounds, and the last one still changed the model"
    ]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("crash", PassError, "pass 'crash' failed: RuntimeError: boom"),
        ("outer", PassError, "^pass 'outer': pass 'crash' failed: RuntimeError: boom$"),
        ("dangle", PassError, "pass 'dangle': the pass left an invalid graph: .*reads 'a'"),
        (
            "bad_attribute",
            PassError,
            "pass 'bad_attribute': the pass left a model that the ONNX checker refuses: .*nonsense",
        ),
    ],
)
def test_a_failing_pass_leaves_the_model_as_it_was(model, registry, text, error, message) -> None:
    before = model.serialize()
    with pytest.raises(error, match=message):
        run(model, registry, text)
    assert model.serialize() == before
    verify(model.graph)


def test_a_pass_that_names_itself_is_named_once(model, registry) -> None:
    class Shy(Pass):
        """Refuses."""

        def run(self, model, ctx) -> None:
            raise UsageError("shy: not today")

    registry.passes.add("shy", Shy)
    with pytest.raises(UsageError, match=r"^pass 'shy': not today$"):
        run(model, registry, "shy")


def test_earlier_passes_stand_when_a_later_one_fails(model, registry) -> None:
    with pytest.raises(PassError):
        run(model, registry, "tidy,crash")
    assert [n.op for n in model.graph.nodes] == ["Add", "Relu", "Neg"]


def test_an_interrupt_rolls_back(model, registry, monkeypatch, sample) -> None:
    def interrupted(self, model, ctx) -> None:
        model.graph.nodes[0].op = "Sub"
        raise KeyboardInterrupt

    monkeypatch.setattr(sample.Flip, "run", interrupted)
    before = model.serialize()
    with pytest.raises(KeyboardInterrupt):
        run(model, registry, "flip")
    assert model.serialize() == before


def test_a_model_that_the_checker_refused_before_is_not_blamed_on_a_pass(parse, registry) -> None:
    model = parse(TEXT)
    model.graph.nodes[-1].attrs["nonsense"] = 1
    [result] = run(model, registry, "merge_relu,drop_identity").passes[1:]
    assert result.verification == "structure, checker skipped: it refused the input model"


def test_numerics_are_checked_for_promises_only(model, registry) -> None:
    seen: list[str] = []

    def numerics(before, after, guarantee) -> str:
        seen.append(guarantee)
        if [n.op for n in after.graph.nodes][-1] == "Abs":
            raise ValidationError("output 'y' differs")
        assert len(before.graph.nodes) > len(after.graph.nodes)
        return "equal on 3 inputs"

    instruments = [Verify(numerics)]
    results = run(model, registry, "tidy,scale,tidy", instruments=instruments).passes
    assert seen == ["exact"], "lossy passes promise nothing, and the second tidy changes nothing"
    assert results[0].verification == "structure, checker, equal on 3 inputs"
    assert results[2].verification == "unchanged"
    with pytest.raises(ValidationError, match="pass 'wrong': output 'y' differs"):
        run(model, registry, "wrong", instruments=instruments)
    assert [n.op for n in model.graph.nodes][-1] == "Neg"


def test_order_and_requirements_are_checked_before_anything_runs(model, registry) -> None:
    with pytest.raises(
        UsageError, match="'scale' rewrites float weights and stands after 'freeze'; move it before freeze"
    ):
        run(model, registry, "tidy,freeze,scale")
    assert len(model.graph.nodes) == 5
    with pytest.raises(UsageError, match="'needs_data' needs calibration data; give it with --data"):
        run(model, registry, "needs_data")
    with pytest.raises(UsageError, match="'endless' contains itself: endless -> endless"):
        run(model, registry, "endless")


def test_training_information_is_refused(model, registry) -> None:
    import onnx

    model.training_info.append(onnx.TrainingInfoProto())
    with pytest.raises(UnsupportedError, match="training information"):
        run(model, registry, "tidy")


def test_plan_names_what_would_run(registry) -> None:
    plans = PassManager(registry).plan(Pipeline.parse("tidy,scale:factor=0.1", registry))
    assert [[str(p.step()) for p in plan.leaves()] for plan in plans] == [
        ["merge_relu:guarantee=equivalent", "drop_identity"],
        ["scale:factor=0.1"],
    ]


def test_limit_applies_a_prefix_and_lists_the_rest(registry, parse) -> None:
    full = run(parse(TEXT), registry, "tidy,scale")
    assert len(full.applied) == 3
    for limit in range(4):
        result = run(parse(TEXT), registry, "tidy,scale", limit=limit)
        assert result.applied == full.applied[:limit]
        assert bool(result.denied) == (limit < 3)


def test_a_pass_that_never_asks_counts_as_one_rewrite(model, registry) -> None:
    before = model.serialize()
    result = run(model, registry, "silent", limit=0)
    assert model.serialize() == before
    assert not result.changed
    assert [str(a) for a in result.denied] == ["silent at the whole model"]
    assert [str(a) for a in run(model, registry, "silent", limit=1).applied] == ["silent at the whole model"]
    assert model.graph.name == "renamed"


def test_the_reference_enters_the_first_lossy_pass(model, registry) -> None:
    result = run(model, registry, "tidy,scale:factor=0.5,quantile,scale:factor=0.5")
    assert result.reference is not None
    assert len(result.reference.graph.nodes) == 3, "cleaned"
    assert result.reference.graph.initializers[0].values.tolist() == [1, 2, 3, 4], "not scaled"
    assert result.model.graph.initializers[0].values.tolist() == [0.25, 0.5, 0.75, 1]
    assert result.passes[2].statistics == {"reference maximum": 4}
    origin = result.origins.of("a")
    assert origin is not None
    assert origin.tensor == "a"
    assert result.origins.of("made up") is None


def test_no_lossy_pass_no_reference(model, registry) -> None:
    assert run(model, registry, "tidy").reference is None


def test_provenance_lists_what_changed_the_model(model, registry) -> None:
    run(model, registry, "freeze,tidy")
    assert model.metadata_props["graphopt.pipeline"] == "tidy"
    assert set(model.metadata_props) == {"graphopt.version", "graphopt.pipeline", "graphopt.target", "graphopt.seed"}
    run(model, registry, "tidy,scale:factor=0.5", settings=Settings(seed=3))
    assert model.metadata_props["graphopt.pipeline"] == "tidy,scale:factor=0.5"
    assert model.metadata_props["graphopt.seed"] == "3"


def test_changing_nothing_gives_the_same_bytes(parse, registry) -> None:
    untouched, run_over = parse(TEXT), parse(TEXT)
    run(run_over, registry, "freeze")
    assert run_over.serialize() == untouched.serialize()


def test_the_same_run_gives_the_same_bytes(parse, registry) -> None:
    outputs = set()
    for _ in range(2):
        model = load(parse(TEXT).serialize())
        run(model, registry, "tidy,scale")
        outputs.add(model.serialize())
    assert len(outputs) == 1


def test_dumps_show_each_change(model, registry, tmp_path) -> None:
    run(model, registry, "tidy,merge_relu,scale", instruments=[Dump(tmp_path / "dump")])
    assert sorted(p.name for p in (tmp_path / "dump").iterdir()) == ["00-input.onnx", "01-tidy.onnx", "03-scale.onnx"]
    assert len(load(tmp_path / "dump" / "00-input.onnx").graph.nodes) == 5
    assert len(load(tmp_path / "dump" / "01-tidy.onnx").graph.nodes) == 3


def test_timing_forms_a_tree(model, registry) -> None:
    timing = Timing()
    run(model, registry, "tidy", instruments=[timing])
    assert [(t.name, t.depth) for t in timing.times[:3]] == [("tidy", 0), ("merge_relu", 1), ("drop_identity", 1)]
    assert timing.times[0].wall >= timing.times[1].wall > 0
    with pytest.raises(PassError):
        run(model, registry, "crash", instruments=[timing])
    assert timing.times[-1].name == "crash"


def test_instruments_hear_of_failures_with_the_model_restored(model, registry) -> None:
    heard: list[tuple[str, str, int]] = []

    class Listen(Instrument):
        def on_failure(self, event, error) -> str:
            heard.append((event.step.name, str(error), len(event.model.graph.nodes)))
            return "heard"

    with pytest.raises(PassError):
        run(model, registry, "crash", instruments=[Listen()])
    assert heard == [("crash", "boom", 5)]


def test_seconds_and_settings(model, registry) -> None:
    def measure(model):
        from graphopt.results import GraphStats

        return GraphStats(len(model.graph.nodes), 0, 0, macs=7)

    [result] = run(model, registry, "tidy", measure=measure).passes
    assert result.after.macs == 7
    assert 0 < result.seconds < 60


def test_results_compute_the_same(parse, registry, execute) -> None:
    x = np.array([[-1, 2, -3, 4]], np.float32)
    model = parse(TEXT)
    before = execute(model, x=x)
    run(model, registry, "tidy")
    assert np.array_equal(before[0], execute(model, x=x)[0])


def test_a_settled_pass_is_not_run_again(model, registry) -> None:
    timing = Timing()
    run(model, registry, "tidy", instruments=[timing])
    assert [t.name for t in timing.times] == [
        "tidy",
        "merge_relu",
        "drop_identity",
        "merge_relu",
        "drop_identity",
        "merge_relu",
    ], "drop_identity found nothing in round 2, and merge_relu nothing in round 3"


def test_the_model_is_measured_once_a_state(model, registry) -> None:
    states: list[int] = []

    def measure(model):
        states.append(len(model.graph.nodes))
        return graph_stats(model)

    run(model, registry, "freeze,tidy,freeze,merge_relu", measure=measure)
    assert states == [5, 3]


def test_an_error_class_with_more_arguments_is_passed_on(model, registry) -> None:
    class Conflict(GraphoptError):
        def __init__(self, message: str, tensors: tuple[str, ...]) -> None:
            super().__init__(message)
            self.tensors = tensors

    class Conflicting(Pass):
        """Raise it."""

        name = "conflicting"

        def run(self, model: Model, ctx: Context) -> None:
            raise Conflict("does not fit", ("a",))

    with pytest.raises(Conflict, match="pass 'conflicting': does not fit") as caught:
        PassManager(registry).run(model, Pipeline((Conflicting(),)))
    assert caught.value.tensors == ("a",)


def test_a_new_default_of_an_input_counts_as_a_change(parse) -> None:
    model = parse(HEADER + "g (float[4] x, float[4] w = {1,2,3,4}) => (float[4] y) { y = Add(x, w) }")
    before = Fingerprint(model)
    model.graph.inputs[1].default = StoredTensor(onnx.numpy_helper.from_array(np.zeros(4, np.float32), "w"))
    assert Fingerprint(model) != before


def test_the_sign_of_a_zero_attribute_counts_as_a_change(parse) -> None:
    model = parse(HEADER + "g (float[4] x) => (float[4] y) { y = Elu <alpha = 0.0> (x) }")
    before = Fingerprint(model)
    model.graph.nodes[0].attrs["alpha"] = -0.0
    assert Fingerprint(model) != before


def test_a_pattern_that_picks_nothing_is_told(model, registry) -> None:
    remarks = run(model, registry, "scale:skip=Nope*+op=Add:factors=gone@0.5").passes[0].remarks
    told = [r.message for r in remarks if r.kind == "warning"]
    assert told == ["factors: 'gone' picks no node of the model", "skip: 'Nope*' picks no node of the model"]
