"""Rewrites on random graphs: valid afterwards, equal outputs, no more than the limit, nothing left to do."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from graphopt import Model, load
from graphopt.pipeline.analyses import Analyses
from graphopt.pipeline.budget import Budget
from graphopt.pipeline.context import Context, RunState, Settings
from graphopt.pipeline.engine import apply_rewrites
from graphopt.pipeline.patterns import Const, Op, Var
from graphopt.pipeline.rewrite import Rewrite
from graphopt.verifier import verify

X = Var("x")
REWRITES = (
    Rewrite("relus", Op("Relu", Op("Relu", X, shared=True)), lambda m, b: b.op("Relu", m["x"])),
    Rewrite("negs", Op("Neg", Op("Neg", X)), lambda m, b: m["x"]),
    Rewrite("identity", Op("Identity", X), lambda m, b: m["x"]),
    Rewrite("add_zero", Op("Add", X, Const("zero", value=0)), lambda m, b: m["x"]),
    Rewrite("twice", Op("Add", X, X), lambda m, b: b.op("Mul", m["x"], b.constant("two", np.float32(2)))),
    Rewrite("abs_neg", Op("Abs", Op("Neg", X)), lambda m, b: b.op("Abs", m["x"])),
)


@st.composite
def graphs(draw) -> str:
    tensors = ["x", "zero"]
    lines = []
    for index in range(draw(st.integers(1, 12))):
        op = draw(st.sampled_from(["Relu", "Relu", "Neg", "Neg", "Identity", "Abs", "Add", "If"]))
        a, b = draw(st.sampled_from(tensors)), draw(st.sampled_from(tensors))
        out = f"t{index}"
        match op:
            case "Add":
                lines.append(f"{out} = Add({a}, {b})")
            case "If":
                branches = (
                    f"then_branch = p () => (float[3] p{index}) {{ q{index} = Neg({a}) p{index} = Neg(q{index}) }}, "
                )
                branches += f"else_branch = e () => (float[3] e{index}) {{ e{index} = Identity({b}) }}"
                lines.append(f"{out} = If(c) <{branches}>")
            case _:
                lines.append(f"{out} = {op}({a})")
        tensors.append(out)
    made = tensors[2:]
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
    signature = ", ".join(f"float[3] {t}" for t in outputs)
    head = '<ir_version: 8, opset_import: ["" : 17]>'
    return f"{head} g (float[3] x, bool c) => ({signature}) <float[3] zero = {{0,0,0}}> {{ {' '.join(lines)} }}"


def outputs_of(model: Model) -> list[np.ndarray]:
    evaluator = ReferenceEvaluator(model.to_proto())
    x = np.array([-1.5, 0, 2], np.float32)
    return [v for c in (True, False) for v in evaluator.run(None, {"x": x, "c": np.array(c)})]


def rewritten(text: str, limit: int | None = None) -> tuple[Model, list[str]]:
    model = load(onnx.parser.parse_model(text))
    budget = Budget(limit)
    apply_rewrites(model.graph, REWRITES, Context("test", RunState(Settings(), budget, Analyses(model))))
    verify(model.graph)
    onnx.checker.check_model(model.to_proto())
    return model, [str(a) for a in budget.applied]


@given(graphs())
def test_equal_outputs_and_a_fixed_point(text) -> None:
    expected = outputs_of(load(onnx.parser.parse_model(text)))
    model, applied = rewritten(text)
    for one, two in zip(expected, outputs_of(model), strict=True):
        np.testing.assert_array_equal(one, two)
    again = Budget()
    apply_rewrites(model.graph, REWRITES, Context("test", RunState(Settings(), again, Analyses(model))))
    assert again.applied == []
    assert rewritten(text)[0].serialize() == model.serialize()
    half, prefix = rewritten(text, len(applied) // 2)
    assert prefix == applied[: len(applied) // 2]
    for one, two in zip(expected, outputs_of(half), strict=True):
        np.testing.assert_array_equal(one, two)
