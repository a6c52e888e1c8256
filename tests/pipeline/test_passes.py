"""The pass base class, contexts, analyses, origins."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.errors import GraphoptError
from graphopt.pipeline import Composite, Options, Pass, PassManager, Pipeline, Rewrite, RewriteOptions, RewritePass
from graphopt.pipeline.analyses import Analyses
from graphopt.pipeline.fingerprint import Fingerprint
from graphopt.pipeline.origin import Origin, Origins
from graphopt.pipeline.passes import weakest

TEXT = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) <float[2] w = {1,1}> { y = Mul(x, w) }'


class RemoveOldThings(Pass):
    """First line.

    Second paragraph.
    """

    def run(self, model, ctx) -> None:
        pass


class Named(RemoveOldThings):
    name = "other"


def test_names_summaries_and_options(sample) -> None:
    assert RemoveOldThings.name == "remove_old_things"
    assert Named.name == "other"
    assert RemoveOldThings.summary() == "First line."
    assert Named.summary() == ""
    assert RemoveOldThings.options_type is Options
    assert sample.Scale.options_type is sample.ScaleOptions
    assert sample.MergeRelu.options_type is RewriteOptions
    assert sample.Tidy.options_type is sample.TidyOptions
    assert sample.Scale(factor=1) == sample.Scale(factor=1) != sample.Scale(factor=2)
    assert len({sample.Scale(factor=1), sample.Scale(factor=1)}) == 1


def test_abstract_passes_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Pass()
    with pytest.raises(TypeError, match="abstract"):
        Composite()


def test_a_composite_is_not_run_by_hand(parse, context, sample) -> None:
    model = parse(TEXT)
    with pytest.raises(NotImplementedError, match="run it through the pass manager"):
        sample.Tidy().run(model, context(model))


def test_weakest() -> None:
    assert weakest([]) == "exact"
    assert weakest(["exact", "equivalent"]) == "equivalent"
    assert weakest(["lossy", "exact"]) == "lossy"


class Counted:
    made = 0

    def __init__(self, model) -> None:
        type(self).made += 1
        self.nodes = len(model.graph.nodes)


class Derived:
    requires = (Counted,)

    def __init__(self, model, counted: Counted) -> None:
        self.double = 2 * counted.nodes


class Loop:
    def __init__(self, model, other) -> None:
        pass


Loop.requires = (Loop,)


def test_analyses_are_cached_and_invalidated(parse) -> None:
    Counted.made = 0
    analyses = Analyses(parse(TEXT))
    assert analyses.get(Derived).double == 2
    assert analyses.get(Counted) is analyses.get(Counted)
    assert Counted.made == 1
    analyses.keep({"*"})
    assert sorted(analyses.cached()) == ["Counted", "Derived"]
    analyses.keep({"Derived"})
    assert analyses.cached() == [], "what it was computed from went"
    analyses.get(Derived)
    analyses.keep({"Counted"})
    assert analyses.cached() == ["Counted"]
    with pytest.raises(GraphoptError, match="in a circle: Loop -> Loop"):
        analyses.get(Loop)


def test_functions_are_analyses_too(parse) -> None:
    def node_count(model) -> int:
        return len(model.graph.nodes)

    analyses = Analyses(parse(TEXT))
    assert analyses.get(node_count) == 1
    assert analyses.cached() == ["node_count"]


class Look(Pass):
    """Asks for an analysis."""

    guarantee = "exact"

    def run(self, model, ctx) -> None:
        ctx.count("nodes", ctx.get(Counted).nodes)


def test_the_manager_drops_what_a_pass_does_not_preserve(parse, registry, sample, monkeypatch) -> None:
    registry.passes.add("look", Look)
    for preserves, changed_runs, made in (
        (frozenset(), "scale", 2),
        ({"Counted"}, "scale", 1),
        (frozenset(), "freeze", 1),
    ):
        monkeypatch.setattr(sample.Scale, "preserves", frozenset(preserves))
        Counted.made = 0
        PassManager(registry).run(parse(TEXT), Pipeline.parse(f"look,{changed_runs},look", registry))
        assert Counted.made == made, (preserves, changed_runs)


def test_contexts(parse, context) -> None:
    model = parse(TEXT)
    model.graph.nodes[0].name = ""
    ctx = context(model, limit=1)
    ctx.did(model.graph.nodes[0], "a")
    ctx.did(model.graph.nodes[0], "a")
    ctx.skipped(model.graph.outputs[0], "b")
    ctx.warn("somewhere", "c")
    ctx.note(None, "d")
    assert [(r.kind, r.source, r.node, r.message) for r in ctx.remarks] == [
        ("did", "test", "y", "a"),
        ("skipped", "test", "y", "b"),
        ("warning", "test", "somewhere", "c"),
        ("note", "test", "", "d"),
    ]
    ctx.count("things")
    ctx.count("things", 2.5)
    assert ctx.statistics == {"things": 3.5}
    assert (ctx.allow("a"), ctx.allow("b")) == (True, False)
    assert ctx.reference is None
    with pytest.raises(GraphoptError, match="before the first lossy pass"):
        ctx.get_reference(Counted)


def test_random_numbers_depend_on_seed_and_pass_only(parse, context) -> None:
    model = parse(TEXT)
    first = context(model, seed=1).rng().random(3)
    assert np.array_equal(first, context(model, seed=1).rng().random(3))
    assert not np.array_equal(first, context(model, seed=2).rng().random(3))
    assert not np.array_equal(first, context(model, seed=1, name="other").rng().random(3))


def test_origins_compose() -> None:
    origins = Origins({"a", "b"})
    assert origins.of("a") == Origin("a")
    assert origins.of("new") is None
    origins.cut("a", 1, [0, 2, 3])
    origins.scale("a", 1, [1, 10, 100])
    origins.cut("a", 1, [2, 0])
    origins.cut("a", 0, [1])
    origin = origins.of("a")
    assert origin is not None
    reference = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)
    assert origin.apply(reference).tolist() == [[800, 5]]
    assert origin.apply(reference).dtype == np.float32
    origins.rename("a", "c")
    assert origins.of("a") is None
    assert origins.of("c") is origin
    origins.copy("c", "d")
    origins.forget("c")
    assert (origins.of("c"), origins.of("d")) == (None, origin)
    origins.cut("c", 0, [0])
    assert origins.of("c") is None, "what has no origin gets none by a cut"
    with pytest.raises(GraphoptError, match="origin of 'b': axis -1 must be counted from the front"):
        origins.cut("b", -1, [0])


def test_origins_roll_back() -> None:
    origins = Origins({"a"})
    saved = origins.snapshot()
    origins.forget("a")
    origins.restore(saved)
    assert origins.of("a") == Origin("a")


def test_rewrites_forget_new_tensors_after_the_reference(parse, registry) -> None:
    from graphopt.pipeline import Op, Var

    class Rebuild(RewritePass):
        """Neg is Abs of Relu, for this test."""

        rewrites = (
            Rewrite("rebuild", Op("Neg", Var("x")), lambda m, b: b.op("Abs", b.op("Relu", m["x"])), "equivalent"),
        )

    registry.passes.add("rebuild", Rebuild)
    model = parse(TEXT.replace("{ y = Mul(x, w) }", "{ a = Mul(x, w) y = Neg(a) }"))
    run = PassManager(registry).run(model, Pipeline.parse("scale,rebuild", registry))
    [relu] = [n for n in model.graph.nodes if n.op == "Relu"]
    assert run.origins.of(relu.outputs[0].name) is None
    assert run.origins.of("a") == Origin("a")
    assert run.origins.of("y") == Origin("y")


def test_fingerprints_see_every_change(parse) -> None:
    model = parse(TEXT)

    def change(action) -> bool:
        before = Fingerprint(model)
        assert before == Fingerprint(model)
        action()
        return before != Fingerprint(model)

    graph = model.graph
    node = graph.nodes[0]
    assert change(lambda: graph.set_weight(graph.initializers[0], np.array([1, 1], np.float32)))
    assert change(lambda: node.attrs.update(axis=[1, 2]))
    assert change(lambda: node.attrs["axis"].append(3))
    assert change(lambda: graph.rename(graph.outputs[0], "z"))
    assert change(lambda: graph.add_node("Relu", [graph.outputs[0]]))
    assert change(lambda: setattr(node, "op", "Div"))
    assert change(lambda: setattr(graph, "opset", 18))
    assert change(lambda: model.metadata_props.update(a="b"))
    assert change(lambda: setattr(graph.inputs[0], "shape", ["N"]))
    assert not change(lambda: node.attrs.update(axis=[1, 2, 3]))
