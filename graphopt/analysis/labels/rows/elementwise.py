"""Elementwise operators: numpy broadcasting aligns axes from the right, aligned axes lose the same positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphopt.analysis.labels.site import Axes, Rule, Site
from graphopt.analysis.labels.space import Axis, one
from graphopt.analysis.opnames import ops


def broadcast(site: Site, indices: Sequence[int], rank: int | None = None) -> Axes:
    """The axes of the broadcast of these inputs."""
    shapes = {i: site.shape(i) for i in indices}
    rank = max(len(s) for s in shapes.values()) if rank is None else rank
    axes: list[Axis] = []
    for place in range(-rank, 0):
        found: Axis | None = None
        for i, shape in shapes.items():
            if len(shape) >= -place and shape[place] != 1:
                found = site.join(found, site.axes(i)[place])
        axes.append(one() if found is None else found)
    return tuple(axes)


def elementwise(site: Site) -> None:
    """All given inputs broadcast against each other."""
    site.emit(broadcast(site, [i for i in range(site.inputs) if site.has(i)]))


def unary(site: Site) -> None:
    """Outputs have the axes of the first input; the other inputs are scalars."""
    for index in range(len(site.node.outputs)):
        site.emit(site.axes(0), index)


def cast_like(site: Site) -> None:
    """Only the type of the second input matters."""
    site.ignore(1)
    site.emit(site.axes(0))


def prelu(site: Site) -> None:
    """The slope broadcasts to the input."""
    site.emit(broadcast(site, [0, 1], len(site.shape(0))))


def bias_act(site: Site) -> None:
    """``act(x + bias)``."""
    site.emit(broadcast(site, [i for i in range(site.inputs) if site.has(i)]))


_UNARY = ops(
    "Relu LeakyRelu Elu Selu Celu Gelu Sigmoid Tanh HardSwish HardSigmoid Clip Erf Sqrt Neg Cast Identity "
    "Abs Exp Log Softplus Softsign Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh Floor Ceil "
    "Round Reciprocal Sign Mish ThresholdedRelu Not BitwiseNot IsNaN IsInf Dropout Shrink Swish BitCast "
    "com.microsoft:Gelu com.microsoft:QuickGelu"
)
_ELEMENTWISE = ops(
    "Add Sub Mul Div Pow Min Max Sum Mean And Or Xor Equal Greater Less GreaterOrEqual LessOrEqual Mod "
    "BitShift BitwiseAnd BitwiseOr BitwiseXor Where"
)

ROWS: Mapping[str, Rule] = {
    **dict.fromkeys(_UNARY, unary),
    **dict.fromkeys(_ELEMENTWISE, elementwise),
    "PRelu": prelu,
    "CastLike": cast_like,
    "com.microsoft:FastGelu": bias_act,
    "com.microsoft:BiasGelu": bias_act,
    "com.microsoft:BiasAdd": elementwise,
}
