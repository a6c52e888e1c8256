"""Integer operators: as their float relatives. Scales and zero points follow the axis they belong to; where a sum runs
over a removed position, its zero point stands for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from graphopt.analysis.labels.rows.conv import convolve
from graphopt.analysis.labels.rows.elementwise import broadcast
from graphopt.analysis.labels.rows.matmul import product
from graphopt.analysis.labels.rows.pool import pool_axes
from graphopt.analysis.labels.site import Rule, Site
from graphopt.analysis.labels.space import Axis


def follow(site: Site, indices: Sequence[int], axis: Axis) -> None:
    """Scales or zero points with one entry per position of ``axis`` lose the same positions; scalars stay."""
    for index in indices:
        if not site.has(index):
            continue
        for own in site.axes(index):
            if len(own) == len(axis):
                site.equal(own, axis)
            else:
                site.freeze(own, "(scale or zero point)")


def _per_row(site: Site, index: int) -> bool:
    return site.has(index) and prod(site.shape(index)) > 1


def qlinear_conv(site: Site) -> None:
    """x, x_scale, x_zero, w[M, C/g, ...], w_scale, w_zero, y_scale, y_zero, B[M]; com.microsoft has a channels-last
    form."""
    out = convolve(site, weight=3, bias=8, last=bool(site.attr("channels_last", 0)), point=2)
    follow(site, (4, 5), out)
    follow(site, (1, 2, 6, 7), site.stuck(1))


def conv_integer(site: Site) -> None:
    """x, w[M, C/g, ...], x_zero, w_zero."""
    out = convolve(site, weight=1, bias=None, last=False, point=2)
    follow(site, (3,), out)
    follow(site, (2,), site.stuck(1))


def _product(site: Site, a: int, b: int, point: int | None, column: Sequence[int], scalars: Sequence[int]) -> None:
    """A product of quantized operands; ``column`` lists what may have an entry per output column."""
    if point is not None and _per_row(site, point):
        site.freeze_all("(zero point per row)")
        return
    transposed = bool(site.attr("transA", 0)), bool(site.attr("transB", 0))
    product(site, a, b, list(site.axes(a)), list(site.axes(b)), *transposed, point=point)
    columns = site.record.axes[site.node.outputs[0]][-1]
    follow(site, column, columns)
    follow(site, scalars, site.stuck(1))


def qlinear_matmul(site: Site) -> None:
    """a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero."""
    if _per_row(site, 1) or _per_row(site, 6):
        site.freeze_all("(scale per row)")
    else:
        _product(site, 0, 3, 2, (4, 5), (1, 2, 6, 7))


def matmul_integer(site: Site) -> None:
    """A, B, a_zero, b_zero."""
    _product(site, 0, 1, 2, (3,), (2,))


def qgemm(site: Site) -> None:
    """A, a_scale, a_zero, B, b_scale, b_zero, C, y_scale, y_zero."""
    _product(site, 0, 3, 2, (4, 5, 6), (1, 2, 7, 8))


def matmul_integer_to_float(site: Site) -> None:
    """A, B, a_scale, b_scale, a_zero, b_zero, bias."""
    _product(site, 0, 1, 4, (3, 5, 6), (2, 4))


def dynamic_quantize_matmul(site: Site) -> None:
    """Float A, B, b_scale, b_zero, bias: A is quantized inside, over a range that always holds zero."""
    _product(site, 0, 1, None, (2, 3, 4), ())
    _range_over(site)


def dynamic_quantize(site: Site) -> None:
    """The range is taken over everything and always holds zero: removed positions read as zero leave it as it is."""
    _range_over(site)
    site.emit(site.axes(0))
    for index in (1, 2):
        site.emit((), index)


def _range_over(site: Site) -> None:
    done = {m.axis for m in site.record.masks if m.node is site.node and m.index == 0}
    for place in range(len(site.axes(0))):
        if place not in done:
            site.mask(0, place)


def qlinear_binary(site: Site) -> None:
    """com.microsoft QLinearAdd, QLinearMul: A, a_scale, a_zero, B, b_scale, b_zero, c_scale, c_zero."""
    site.emit(broadcast(site, [0, 3]))
    follow(site, (1, 2, 4, 5, 6, 7), site.stuck(1))


def qlinear_where(site: Site) -> None:
    """com.microsoft QLinearWhere: condition, X and its two, Y and its two, z_scale, z_zero."""
    site.emit(broadcast(site, [0, 1, 4]))
    follow(site, (2, 3, 5, 6, 7, 8), site.stuck(1))


def qlinear_unary(site: Site) -> None:
    """com.microsoft QLinearSigmoid, QLinearLeakyRelu: X and four scalars."""
    follow(site, range(1, site.inputs), site.stuck(1))
    site.emit(site.axes(0))


def qlinear_pool(site: Site) -> None:
    """com.microsoft QLinearAveragePool, QLinearGlobalAveragePool: X and four scalars."""
    follow(site, range(1, site.inputs), site.stuck(1))
    site.emit(pool_axes(site, last=bool(site.attr("channels_last", 0))))


def qlinear_softmax(site: Site) -> None:
    """com.microsoft QLinearSoftmax: the axis stays."""
    x = site.axes(0)
    axis = int(site.attr("axis", -1)) % len(x)
    for place in range(axis, len(x) if int(site.attr("opset", 13)) < 13 else axis + 1):
        site.freeze(x[place], "(axis of the softmax)")
    follow(site, range(1, site.inputs), site.stuck(1))
    site.emit(x)


def qlinear_concat(site: Site) -> None:
    """com.microsoft QLinearConcat: y_scale, y_zero, then value, scale, zero for each operand."""
    rank = len(site.out())
    place = int(site.attr("axis")) % rank
    values = range(2, site.inputs, 3)
    follow(site, [i for i in range(site.inputs) if i not in values], site.stuck(1))
    made: list[Axis] = [site.chain([site.axes(i)[k] for i in values]) if k == place else site.stuck(1)
                        for k in range(rank)]  # fmt: skip
    for k in range(rank):
        if k != place:
            found: Axis | None = None
            for i in values:
                found = site.join(found, site.axes(i)[k])
            made[k] = made[k] if found is None else found
    site.emit(made)


def qlinear_reduce_mean(site: Site) -> None:
    """com.microsoft QLinearReduceMean: the axes of the mean stay, a mean of integers has no masked form."""
    x = site.axes(0)
    over = {int(a) % len(x) for a in site.attr("axes", range(len(x)))}
    for axis in over:
        site.freeze(x[axis], "(axis of a mean of integers)")
    follow(site, range(1, site.inputs), site.stuck(1))
    keep = bool(site.attr("keepdims", 1))
    site.emit([site.stuck(1) if i in over else a for i, a in enumerate(x) if keep or i not in over])


ROWS: Mapping[str, Rule] = {
    "QLinearConv": qlinear_conv,
    "com.microsoft:QLinearConv": qlinear_conv,
    "ConvInteger": conv_integer,
    "QLinearMatMul": qlinear_matmul,
    "MatMulInteger": matmul_integer,
    "DynamicQuantizeLinear": dynamic_quantize,
    "com.microsoft:QGemm": qgemm,
    "com.microsoft:MatMulIntegerToFloat": matmul_integer_to_float,
    "com.microsoft:DynamicQuantizeMatMul": dynamic_quantize_matmul,
    "com.microsoft:QLinearAdd": qlinear_binary,
    "com.microsoft:QLinearMul": qlinear_binary,
    "com.microsoft:QLinearWhere": qlinear_where,
    "com.microsoft:QLinearSigmoid": qlinear_unary,
    "com.microsoft:QLinearLeakyRelu": qlinear_unary,
    "com.microsoft:QLinearAveragePool": qlinear_pool,
    "com.microsoft:QLinearGlobalAveragePool": qlinear_pool,
    "com.microsoft:QLinearSoftmax": qlinear_softmax,
    "com.microsoft:QLinearConcat": qlinear_concat,
    "com.microsoft:QLinearReduceMean": qlinear_reduce_mean,
}
