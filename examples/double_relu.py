"""A rewrite of your own, declared by a pattern.

graphopt run model.onnx --plugin examples/double_relu.py --passes tidy -o out.onnx
"""

from graphopt.ir import Tensor
from graphopt.pipeline import Builder, Match, Op, RewritePass, Var, rewrite


@rewrite(Op("Relu", Op("Relu", Var("x"))), guarantee="exact")
def double_relu(match: Match, build: Builder) -> Tensor:
    """Relu of Relu is Relu."""
    return build.op("Relu", match["x"])


class Tidy(RewritePass):
    """Merge what follows itself."""

    rewrites = (double_relu,)
