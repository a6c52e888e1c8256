"""Recognise operators that an exporter took apart, and write them as one standard operator."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from graphopt.ir import Node, Tensor, constant_value
from graphopt.model import Model
from graphopt.pipeline.cleaning import open_editor
from graphopt.pipeline.context import Context
from graphopt.pipeline.matching import Match
from graphopt.pipeline.patterns import Const, Op, Rest, Var
from graphopt.pipeline.rewrite import Builder, RewritePass, rewrite
from graphopt.transforms.clean.attention_pattern import Attention, build, recognise, without_head_axes
from graphopt.transforms.clean.editing import Editor
from graphopt.transforms.clean.editing import Rewrite as EditorRewrite

Condition = Callable[[Match], bool | str]


def _since(opset: int, *further: Condition) -> Condition:
    """The opset that brought the operator, and further conditions."""

    def condition(match: Match) -> bool | str:
        if match.opset < opset:
            return f"needs opset {opset}, the model has {match.opset}"
        for check in further:
            verdict = check(match)
            if verdict is not True:
                return verdict
        return True

    return condition


def _is_last_axis(match: Match, name: str) -> bool:
    """Whether a reduction is over the last axis, which it keeps."""
    node: Node = match.node(name)
    axes = node.attrs.get("axes")
    if len(node.inputs) > 1 and not node.inputs[1].is_empty():
        axes = constant_value(node.inputs[1])
    kept = node.attrs.get("keepdims", 1) == 1
    return kept and axes is not None and [int(a) for a in np.asarray(axes).reshape(-1)] == [-1]


def _normalizes_last_axis(match: Match) -> bool | str:
    if not all(_is_last_axis(match, n) for n in ("mean", "variance") if n in match):
        return "the mean is not over the last axis"
    if match.value("epsilon").size != 1:
        return "epsilon is not one number"
    shapes = [match.value(n).shape for n in ("scale", "bias") if n in match]
    return True if all(len(s) == 1 and s == shapes[0] for s in shapes) else "scale or bias is not one number a place"


def _close(name: str, wanted: float) -> Const:
    """A constant of one number near ``wanted``, as exporters round it."""
    return Const(name, where=lambda v: v.size == 1 and math.isclose(float(v.reshape(-1)[0]), wanted, rel_tol=1e-4))


def _epsilon(match: Match) -> float:
    return float(match.value("epsilon").reshape(-1)[0])


def _layer_norm_core(square: Callable[[Op], Op]) -> Op:
    centered = Op("Sub", Var("x"), Op("ReduceMean", Var("x"), Rest("axes"), name="mean"))
    variance = Op("ReduceMean", square(centered), Rest("axes2"), name="variance")
    return Op("Div", centered, Op("Sqrt", Op("Add", variance, Const("epsilon"))))


def _squared(x: Op) -> Op:
    return Op("Pow", x, Const("two", value=2.0))


def _multiplied(x: Op) -> Op:
    return Op("Mul", x, x)


def _scaled(core: Op) -> Op:
    return Op("Add", Op("Mul", core, Const("scale")), Const("bias"))


@rewrite(_scaled(_layer_norm_core(_squared)), condition=_since(17, _normalizes_last_axis))
def layer_normalization(match: Match, build: Builder) -> Tensor:
    """(x - mean) / sqrt(mean of squares + epsilon) * scale + bias is LayerNormalization."""
    return build.op("LayerNormalization", match["x"], match["scale"], match["bias"], axis=-1, epsilon=_epsilon(match))


@rewrite(_scaled(_layer_norm_core(_multiplied)), condition=_since(17, _normalizes_last_axis))
def layer_normalization_mul(match: Match, build: Builder) -> Tensor:
    """The same with the square written as a product."""
    return build.op("LayerNormalization", match["x"], match["scale"], match["bias"], axis=-1, epsilon=_epsilon(match))


def _root_mean_square() -> Op:
    variance = Op("ReduceMean", Op("Pow", Var("x"), Const("two", value=2.0)), Rest("axes"), name="variance")
    inverse = Op("Reciprocal", Op("Sqrt", Op("Add", variance, Const("epsilon"))))
    return Op("Mul", Op("Mul", Var("x"), inverse), Const("scale"))


def _root_mean_square_div() -> Op:
    variance = Op("ReduceMean", Op("Pow", Var("x"), Const("two", value=2.0)), Rest("axes"), name="variance")
    return Op("Mul", Op("Div", Var("x"), Op("Sqrt", Op("Add", variance, Const("epsilon")))), Const("scale"))


@rewrite(_root_mean_square(), condition=_since(23, _normalizes_last_axis))
def rms_normalization(match: Match, build: Builder) -> Tensor:
    """x / sqrt(mean of squares + epsilon) * scale is RMSNormalization."""
    return build.op("RMSNormalization", match["x"], match["scale"], axis=-1, epsilon=_epsilon(match))


@rewrite(_root_mean_square_div(), condition=_since(23, _normalizes_last_axis))
def rms_normalization_div(match: Match, build: Builder) -> Tensor:
    """The same with a division."""
    return build.op("RMSNormalization", match["x"], match["scale"], axis=-1, epsilon=_epsilon(match))


def _erf_part() -> Op:
    return Op("Add", Op("Erf", Op("Div", Var("x"), _close("root", math.sqrt(2)))), Const("one", value=1.0))


@rewrite(Op("Mul", Op("Mul", Var("x"), _erf_part()), Const("half", value=0.5)), condition=_since(20))
def gelu(match: Match, build: Builder) -> Tensor:
    """x * (1 + erf(x / sqrt 2)) * 0.5 is Gelu."""
    return build.op("Gelu", match["x"])


@rewrite(Op("Mul", Op("Mul", Var("x"), Const("half", value=0.5)), _erf_part()), condition=_since(20))
def gelu_half_first(match: Match, build: Builder) -> Tensor:
    """The same with the half first."""
    return build.op("Gelu", match["x"])


@rewrite(
    Op(
        "Mul",
        Var("x"),
        Op(
            "HardSigmoid",
            Var("x"),
            attrs={"alpha": lambda a: math.isclose(a, 1 / 6, rel_tol=1e-5), "beta": lambda b: math.isclose(b, 0.5)},
        ),
    ),
    condition=_since(14),
)
def hard_swish(match: Match, build: Builder) -> Tensor:
    """x * HardSigmoid(x) with slope 1/6 and offset 1/2 is HardSwish."""
    return build.op("HardSwish", match["x"])


@rewrite(Op("Mul", Var("x"), Op("Tanh", Op("Softplus", Var("x")))), condition=_since(18))
def mish(match: Match, build: Builder) -> Tensor:
    """x * tanh(softplus(x)) is Mish."""
    return build.op("Mish", match["x"])


@rewrite(Op("Mul", Var("x"), Op("Sigmoid", Var("x"))), condition=_since(24))
def swish(match: Match, build: Builder) -> Tensor:
    """x * sigmoid(x) is Swish."""
    return build.op("Swish", match["x"])


def _attention(node: Node, editor: Editor) -> bool:
    """Softmax(Q K^T * scale + mask) V is Attention."""
    if editor.opset < 23:
        return False
    found = recognise(node, editor)
    if isinstance(found, str):
        editor.gate.skipped(node, f"not fused to Attention: {found}")
    if not isinstance(found, Attention) or not editor.allow(node):
        return False
    return editor.replace(node.outputs[0], build(found, node, editor))


def _attention_rank_3(node: Node, editor: Editor) -> bool:
    """Attention between head splitting and merging works on [B, S, heads * width] itself."""
    made = without_head_axes(node, editor)
    return made is not None and editor.replace(*made)


ATTENTION = (
    EditorRewrite("attention", ("MatMul",), _attention, "equivalent"),
    EditorRewrite("attention_rank_3", ("Attention",), _attention_rank_3, "equivalent"),
)


class Fuse(RewritePass):
    """Writes LayerNormalization, RMSNormalization, Gelu, HardSwish, Mish, Swish and Attention as one operator each.

    Only where the model's opset has the operator. Not part of ``cleanup``; best after it.
    """

    def run(self, model: Model, ctx: Context) -> None:
        """The patterns of a few nodes, then attention, which needs shapes."""
        super().run(model, ctx)
        if self.options.guarantee != "exact":
            editor = open_editor(model, ctx)
            editor.run(ATTENTION)
            editor.finish()

    rewrites = (
        layer_normalization,
        layer_normalization_mul,
        rms_normalization,
        rms_normalization_div,
        gelu,
        gelu_half_first,
        hard_swish,
        mish,
        swish,
    )
