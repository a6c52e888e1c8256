"""Rewrites: patterns, conditions, replacement, names, subgraphs, budget, fixed point."""

from __future__ import annotations

import time

import numpy as np
import pytest

from graphopt.errors import GraphoptError
from graphopt.pipeline.engine import apply_rewrites
from graphopt.pipeline.matching import Match
from graphopt.pipeline.patterns import Const, Op, Out, Rest, Var
from graphopt.pipeline.rewrite import Builder, Rewrite, RewriteOptions, RewritePass, rewrite
from graphopt.verifier import verify

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


@rewrite(Op("Relu", Op("Relu", Var("x"))), guarantee="exact")
def double_relu(match: Match, build: Builder):
    """Relu of Relu is Relu."""
    return build.op("Relu", match["x"])


@rewrite(Op("Identity", Var("x")), guarantee="exact")
def identity(match: Match, build: Builder):
    return match["x"]


def ops(model) -> list[str]:
    return [n.op for n in model.graph.nodes]


def apply(model, ctx, *rewrites: Rewrite) -> int:
    count = apply_rewrites(model.graph, rewrites, ctx)
    verify(model.graph)
    return count


def test_a_chain_collapses_and_keeps_place_and_names(parse, context, execute) -> None:
    model = parse(
        HEADER + "g (float[4] x) => (float[4] z) { a = Neg(x) b = Relu(a) c = Relu(b) d = Relu(c) z = Neg(d) }"
    )
    ctx = context(model)
    assert apply(model, ctx, double_relu) == 2
    assert ops(model) == ["Neg", "Relu", "Neg"]
    assert model.graph.nodes[1].outputs[0].name == "d"
    assert ctx.statistics == {"double_relu": 2}
    assert ctx.remarks[0].message == "double_relu: Relu of Relu is Relu."
    [z] = execute(model, x=np.array([-1, 2, -3, 4], np.float32))
    assert z.tolist() == [-1, 0, -3, 0]


def test_a_graph_output_keeps_its_name(parse, context) -> None:
    model = parse(HEADER + "g (float[4] x) => (float[4] y) { a = Relu(x) y = Relu(a) }")
    apply(model, context(model), double_relu)
    assert [t.name for t in model.graph.outputs] == ["y"]
    assert ops(model) == ["Relu"]


def test_the_name_of_a_node_goes_to_its_successor(parse, context) -> None:
    model = parse(HEADER + "g (float[4] x) => (float[4] y) { a = Relu(x) y = Relu(a) }")
    model.graph.nodes[0].name, model.graph.nodes[1].name = "inner", "outer"
    apply(model, context(model), double_relu)
    assert [n.name for n in model.graph.nodes] == ["outer"]


def test_a_shared_inner_node_blocks(parse, context) -> None:
    text = HEADER + "g (float[4] x) => (float[4] y, float[4] z) { a = Relu(x) y = Relu(a) z = Neg(a) }"
    model = parse(text)
    assert apply(model, context(model), double_relu) == 0
    lenient = Rewrite("lenient", Op("Relu", Op("Relu", Var("x"), shared=True)), lambda m, b: b.op("Relu", m["x"]))
    assert apply(model, context(model), lenient) == 1
    assert sorted(ops(model)) == ["Neg", "Relu", "Relu"]


def test_an_inner_graph_output_blocks(parse, context) -> None:
    model = parse(HEADER + "g (float[4] x) => (float[4] y, float[4] a) { a = Relu(x) y = Relu(a) }")
    assert apply(model, context(model), double_relu) == 0


def test_a_use_in_a_nested_graph_blocks(parse, context) -> None:
    model = parse(
        HEADER
        + """g (float[4] x, bool c) => (float[4] y, float[4] z) {
            a = Relu(x) y = Relu(a)
            z = If(c) <then_branch = t () => (float[4] p) { p = Neg(a) },
                       else_branch = e () => (float[4] q) { q = Neg(x) }>
        }"""
    )
    assert apply(model, context(model), double_relu) == 0


def test_matches_inside_nested_graphs_with_captures(parse, context, execute) -> None:
    model = parse(
        HEADER
        + """g (float[4] x, bool c) => (float[4] z) {
            a = Relu(x)
            z = If(c) <then_branch = t () => (float[4] p) { r = Relu(a) s = Relu(r) p = Neg(s) },
                       else_branch = e () => (float[4] q) { q = Relu(a) }>
        }"""
    )
    ctx = context(model)
    assert apply(model, ctx, double_relu) == 1
    inner = next(iter(model.graph.nodes[1].attrs.values()))
    assert [n.op for n in inner.nodes] == ["Relu", "Neg"], "the outer Relu is not part of the inner match"
    [z] = execute(model, x=np.array([-1, 2, -3, 4], np.float32), c=np.array(True))
    assert z.tolist() == [0, -2, 0, -4]


def test_identity_at_the_ends(parse, context) -> None:
    through = parse(HEADER + "g (float[4] x) => (float[4] y) { y = Identity(x) }")
    assert apply(through, context(through), identity) == 0
    assert ops(through) == ["Identity"]
    model = parse(
        HEADER + "g (float[4] x) => (float[4] y) { a = Identity(x) b = Neg(a) c = Identity(b) y = Identity(c) }"
    )
    assert apply(model, context(model), identity) == 3
    assert ops(model) == ["Neg"]
    assert model.graph.outputs[0].name == "y"


def test_two_outputs_of_one_tensor_keep_an_identity(parse, context, execute) -> None:
    model = parse(HEADER + "g (float[4] x) => (float[4] y, float[4] z) { y = Neg(x) z = Identity(y) }")
    assert apply(model, context(model), identity) == 0
    assert len(execute(model, x=np.zeros(4, np.float32))) == 2


def test_an_output_that_becomes_an_input_gets_an_identity(parse, context, execute) -> None:
    drop = Rewrite("drop", Op("Dropout", Var("x"), Rest("_")), lambda m, b: m["x"])
    model = parse(HEADER + "g (float[4] x) => (float[4] y) { y = Dropout(x) }")
    assert apply(model, context(model), drop, identity) == 1
    assert ops(model) == ["Identity"]
    assert execute(model, x=np.ones(4, np.float32))[0].tolist() == [1, 1, 1, 1]


def test_constants_commute_and_are_released(parse, context) -> None:
    mul_one = Rewrite("mul_one", Op("Mul", Var("x"), Const("one", value=1.0)), lambda m, b: m["x"], "exact")
    model = parse(
        HEADER
        + "g (float[4] x) => (float[4] y) <float[1] w = {1}, float[1] keep = {5}> "
        + "{ a = Mul(w, x) k = Constant <value = float {1}> () b = Mul(a, k) y = Neg(b) }"
    )
    assert apply(model, context(model), mul_one) == 2
    assert ops(model) == ["Neg"], "the Constant node went with its only user"
    assert [c.name for c in model.graph.initializers] == ["keep"], "what was unused before stays"


def test_constant_of_another_value_does_not_match(parse, context) -> None:
    half = Rewrite("half", Op("Mul", Var("x"), Const("c", value=0.5)), lambda m, b: m["x"])
    model = parse(HEADER + "g (int64[4] x) => (int64[4] y) <int64[1] w = {0}> { y = Mul(x, w) }")
    assert apply(model, context(model), half) == 0


def test_one_name_twice_is_one_tensor(parse, context) -> None:
    square = Rewrite("square", Op("Mul", Var("x"), Var("x")), lambda m, b: b.op("Abs", m["x"]))
    model = parse(HEADER + "g (float[4] x, float[4] y) => (float[4] z) { a = Mul(x, y) b = Mul(a, a) z = Neg(b) }")
    assert apply(model, context(model), square) == 1
    assert ops(model) == ["Mul", "Abs", "Neg"]


def test_one_object_twice_is_one_node(parse, context) -> None:
    x = Var("x")
    sigmoid = Op("Sigmoid", x)
    twice = Rewrite("twice", Op("Add", sigmoid, sigmoid), lambda m, b: b.op("Abs", m["x"]))
    model = parse(HEADER + "g (float[4] x) => (float[4] z) { a = Sigmoid(x) z = Add(a, a) }")
    assert apply(model, context(model), twice) == 1
    other = parse(HEADER + "g (float[4] x) => (float[4] z) { a = Sigmoid(x) b = Sigmoid(x) z = Add(a, b) }")
    assert apply(other, context(other), twice) == 0


def test_silu_in_either_order(parse, context) -> None:
    x = Var("x")
    silu = Rewrite("silu", Op("Mul", x, Op("Sigmoid", x)), lambda m, b: b.op("Abs", m["x"]))
    for product in ("Mul(x, s)", "Mul(s, x)"):
        model = parse(HEADER + f"g (float[4] x) => (float[4] z) {{ s = Sigmoid(x) z = {product} }}")
        assert apply(model, context(model), silu) == 1, product


def test_attributes_with_defaults_and_functions(parse, context) -> None:
    first = Rewrite("first", Op("Softmax", Var("x"), attrs={"axis": -1}), lambda m, b: b.op("Abs", m["x"]))
    model = parse(HEADER + "g (float[4] x) => (float[4] z) { z = Softmax(x) }")
    assert apply(model, context(model), first) == 1, "the default of opset 13 is -1"
    over = Rewrite("over", Op("Softmax", Var("x"), attrs={"axis": lambda a: a > 0}), lambda m, b: b.op("Abs", m["x"]))
    model = parse(HEADER + "g (float[2,2] x) => (float[2,2] z) { a = Softmax <axis=0> (x) z = Softmax <axis=1> (a) }")
    assert apply(model, context(model), over) == 1
    assert ops(model) == ["Softmax", "Abs"]


def test_optional_inputs(parse, context) -> None:
    pattern = Op("Clip", Var("x"), Const("low", optional=True), Const("high", optional=True), name="clip")
    seen: list[tuple[bool, bool]] = []

    def note(match: Match) -> bool:
        seen.append(("low" in match, "high" in match))
        return False

    model = parse(
        HEADER
        + "g (float[4] x) => (float[4] a, float[4] b, float[4] c) <float h = {6}> "
        + "{ a = Clip(x) b = Clip(x, , h) c = Clip(x, h, h) }"
    )
    apply(model, context(model), Rewrite("r", pattern, lambda m, b: m["x"], condition=note))
    assert seen == [(False, False), (False, True), (True, True)]


def test_rest_and_other_outputs(parse, context) -> None:
    merge = Rewrite(
        "merge",
        Op("Concat", Op("Concat", Rest("inner"), attrs={"axis": 0}), Rest("outer"), attrs={"axis": 0}),
        lambda m, b: b.op("Concat", *m.tensors("inner"), *m.tensors("outer"), axis=0),
    )
    model = parse(
        HEADER
        + "g (float[1] x, float[1] y, float[1] w) => (float[3] z) "
        + "{ a = Concat <axis=0> (x, y) z = Concat <axis=0> (a, w) }"
    )
    assert apply(model, context(model), merge) == 1
    assert [t.name for t in model.graph.nodes[0].inputs] == ["x", "y", "w"]

    split = Op("Split", Var("x"), outputs=2)
    second = Rewrite("second", Op("Neg", Out(split, 1)), lambda m, b: b.op("Abs", m["x"]))
    model = parse(HEADER + "g (float[4] x) => (float[2] z) { a, b = Split(x) c = Neg(a) z = Neg(b) }")
    assert apply(model, context(model), second) == 0, "the other half is in use"


def test_a_used_second_output_blocks_the_root(parse, context) -> None:
    drop = Rewrite("drop", Op("Dropout", Var("x"), Rest("_")), lambda m, b: m["x"])
    model = parse(HEADER + "g (float[4] x) => (float[4] y, bool[4] m) { a, m = Dropout(x) y = Neg(a) }")
    assert apply(model, context(model), drop) == 0


def test_several_replaced_outputs(parse, context, execute) -> None:
    def halves(match: Match, build: Builder):
        return build.node("Split", [match["x"]], 2)[::-1]

    swap = Rewrite("swap", Op("Split", Op("Neg", Var("x")), outputs=2), halves)
    model = parse(
        HEADER + "g (float[4] x) => (float[2] p, float[2] q) { n = Neg(x) a, b = Split(n) p = Abs(a) q = Abs(b) }"
    )
    assert apply(model, context(model), swap) == 1
    p, q = execute(model, x=np.array([1, 2, 3, 4], np.float32))
    assert (p.tolist(), q.tolist()) == ([3, 4], [1, 2])


def test_conditions_leave_remarks(parse, context) -> None:
    model = parse(HEADER + "g (float[4] x) => (float[4] y) { a = Relu(x) y = Relu(a) }")
    model.graph.nodes[1].name = "outer"
    ctx = context(model)
    because = Rewrite("because", double_relu.pattern, double_relu.replacement, condition=lambda m: "it is Tuesday")
    silent = Rewrite("silent", double_relu.pattern, double_relu.replacement, condition=lambda m: False)
    assert apply(model, ctx, because, silent) == 0
    assert [(r.kind, r.node, r.message) for r in ctx.remarks] == [("skipped", "outer", "because: it is Tuesday")]


def test_limit(parse, context) -> None:
    model = parse(HEADER + "g (float[4] x) => (float[4] y) { a = Relu(x) b = Relu(a) c = Relu(b) y = Relu(c) }")
    assert apply(model, context(model, limit=2), double_relu) == 2
    assert len(model.graph.nodes) == 2
    assert apply(model, context(model, limit=0), double_relu) == 0


def test_rules_that_undo_each_other_stop_with_a_warning(parse, context) -> None:
    there = Rewrite("there", Op("Neg", Var("x")), lambda m, b: b.op("Abs", m["x"]))
    back = Rewrite("back", Op("Abs", Var("x")), lambda m, b: b.op("Neg", m["x"]))
    model = parse(HEADER + "g (float[4] x) => (float[4] y) { y = Neg(x) }")
    ctx = context(model)
    apply(model, ctx, there, back)
    assert [r.message for r in ctx.remarks if r.kind == "warning"] == [
        "stopped after 1010 rewrites; these undo each other: back, there"
    ]


def test_wrong_replacements_are_refused(parse, context) -> None:
    model = parse(HEADER + "g (float[4] x) => (float[4] y) { a = Relu(x) y = Neg(a) }")
    itself = Rewrite("itself", Op("Relu", Var("x"), name="r"), lambda m, b: m.node("r").outputs[0])
    with pytest.raises(GraphoptError, match="'itself' replaces 'a' by itself"):
        apply_rewrites(model.graph, [itself], context(model))
    nothing = Rewrite("nothing", Op("Relu", Var("x")), lambda m, b: [])
    with pytest.raises(GraphoptError, match="'nothing' gives nothing for 'a'"):
        apply_rewrites(model.graph, [nothing], context(model))
    unbound = Rewrite("unbound", Op("Relu", Var("x")), lambda m, b: m["y"])
    with pytest.raises(GraphoptError, match="binds nothing called 'y' here; it binds x"):
        apply_rewrites(model.graph, [unbound], context(model))


def test_rest_must_be_last() -> None:
    with pytest.raises(TypeError, match="Rest must be the last input"):
        Op("Concat", Rest("a"), Var("b"))


def test_a_new_constant_and_a_shared_one(parse, context, execute) -> None:
    def shift(match: Match, build: Builder):
        return build.op("Add", match["x"], build.constant("shift", match.value("c") * np.float32(2)))

    twice = Rewrite("twice", Op("Sub", Var("x"), Const("c"), commutative=False), shift)
    model = parse(
        HEADER + "g (float[2] x) => (float[2] y, float[2] z) <float[2] c = {1,2}> { y = Sub(x, c) z = Mul(x, c) }"
    )
    assert apply(model, context(model), twice) == 1
    y, z = execute(model, x=np.array([1, 1], np.float32))
    assert (y.tolist(), z.tolist()) == ([3, 5], [1, 2])


class Tidy(RewritePass):
    """Merge what follows itself."""

    rewrites = (double_relu, Rewrite("neg", Op("Neg", Op("Neg", Var("x"))), lambda m, b: m["x"], "equivalent"))


def test_a_rewrite_pass_filters_by_guarantee(parse, context) -> None:
    text = HEADER + "g (float[4] x) => (float[4] y) { a = Relu(x) b = Relu(a) c = Neg(b) d = Neg(c) y = Abs(d) }"
    model = parse(text)
    assert Tidy().effective_guarantee() == "equivalent"
    exact = Tidy(RewriteOptions(guarantee="exact"))
    assert exact.effective_guarantee() == "exact"
    exact.run(model, context(model))
    assert ops(model) == ["Relu", "Neg", "Neg", "Abs"]
    Tidy().run(model, context(model))
    assert ops(model) == ["Relu", "Abs"]


def long_chain(parse, nodes: int):
    body = " ".join(f"t{i + 1} = {'Relu' if i % 3 else 'Neg'}(t{i})" for i in range(nodes))
    return parse(HEADER + f"g (float[4] t0) => (float[4] t{nodes}) {{ {body} }}")


def test_time_grows_linearly(parse, context) -> None:
    seconds = []
    for nodes in (1_000, 4_000):
        model = long_chain(parse, nodes)
        start = time.process_time()
        assert apply_rewrites(model.graph, [double_relu, identity], context(model)) == nodes // 3
        seconds.append(time.process_time() - start)
    assert seconds[1] < 12 * seconds[0], seconds
    assert seconds[1] < 10


def test_a_deep_nest_of_replacements(parse, context) -> None:
    body = " ".join(f"t{i + 1} = Relu(t{i})" for i in range(2_500))
    model = parse(HEADER + f"g (float[4] t0) => (float[4] t2500) {{ {body} }}")
    assert apply(model, context(model), double_relu) == 2_499
    assert ops(model) == ["Relu"]


def test_many_consumers(parse, context) -> None:
    body = " ".join(f"u{i} = Neg(a)" for i in range(1_500))
    outs = ", ".join(f"float[4] u{i}" for i in range(1_500))
    model = parse(HEADER + f"g (float[4] x) => ({outs}) {{ b = Identity(x) a = Identity(b) {body} }}")
    assert apply(model, context(model), identity) == 2
    assert all(n.inputs[0].name == "x" for n in model.graph.nodes)
