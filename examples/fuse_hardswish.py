"""A rewrite with constants, two places for one tensor, and a condition that leaves a remark.

graphopt run model.onnx --plugin examples/fuse_hardswish.py --passes fuse_hardswish -o out.onnx
"""

from graphopt.ir import Tensor
from graphopt.pipeline import Builder, Const, Match, Op, RewritePass, Var, rewrite

X = Var("x")
RELU6 = Op("Clip", Op("Add", X, Const("three", value=3)), Const("low", value=0), Const("high", value=6))


def has_operator(match: Match) -> bool | str:
    """HardSwish came with opset 14."""
    return match.opset >= 14 or f"HardSwish needs opset 14, the model has {match.opset}"


@rewrite(Op("Div", Op("Mul", X, RELU6), Const("six", value=6)), condition=has_operator)
def hardswish(match: Match, build: Builder) -> Tensor:
    """x * Clip(x + 3, 0, 6) / 6 is HardSwish(x)."""
    return build.op("HardSwish", match["x"])


class FuseHardswish(RewritePass):
    """Recognise HardSwish as exporters write it out."""

    rewrites = (hardswish,)
