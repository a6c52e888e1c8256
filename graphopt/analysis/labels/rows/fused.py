"""Rarer and fused operators: gates, mixtures of experts, folding, cropping; and those that keep everything, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

from graphopt.analysis.labels.rows.attention import EVERYTHING as FUSED_ATTENTION
from graphopt.analysis.labels.rows.elementwise import broadcast, elementwise, unary
from graphopt.analysis.labels.site import Rule, Site
from graphopt.analysis.labels.space import Axis, one
from graphopt.analysis.opnames import ops


def swiglu(site: Site) -> None:
    """``swish(gate) * up``; com.microsoft may hold both halves in one tensor, gate first."""
    x = site.axes(0)
    if site.has(1):
        elementwise(site)
        return
    halves = site.split(x[-1], [2, len(x[-1]) // 2])
    site.freeze(halves[0], "(gate and up)")
    site.emit([*x[:-1], halves[1]])


def mixture(site: Site) -> None:
    """com.microsoft MoE: x[..., H], router, fc1[E, f * I, H], its bias, fc2[E, H, I], its bias, fc3[E, I, H], its bias.

    Hidden units go in all experts alike; experts stay.
    """
    x, first, second = site.axes(0), site.axes(2), site.axes(4)
    inner = second[2]
    site.equal(x[-1], first[2])
    site.mask(0, len(x) - 1)
    rows: Axis = inner
    if len(first[1]) != len(inner):
        gates, interleaved = site.stuck(len(first[1]) // len(inner), "(gates)"), int(site.attr("swiglu_fusion", 0)) == 1
        rows = site.merge([inner, gates] if interleaved else [gates, inner])
    site.equal(first[1], rows)
    site.mask(4, 2)
    for index, own in ((3, first[1]), (5, second[1]), (7, inner)):
        if site.has(index):
            site.equal(site.axes(index)[1], own)
    if site.has(6):
        site.equal(site.axes(6)[1], inner)
        site.equal(site.axes(6)[2], x[-1])
    for index in range(2, site.inputs):
        if site.has(index):
            site.freeze(site.axes(index)[0], "(experts)")
    for axis in (*site.axes(1), *x[:-1]):
        site.freeze(axis, "(tokens and experts)")
    site.emit([*x[:-1], second[1]])
    tokens = float(prod(site.shape(0)[:-1]) * int(site.attr("k", 1)))
    site.cost(tokens, (first[1], first[2]))
    site.cost(tokens, (second[1], inner))
    if site.has(6):
        site.cost(tokens, (inner, first[2]))


def bias_softmax(site: Site) -> None:
    """com.microsoft: softmax(x + bias); the softmax axes stay."""
    out = broadcast(site, [0, 1])
    axis = int(site.attr("axis", 1)) % len(out)
    for place in range(axis, len(out)):
        site.freeze(out[place], "(axis of the softmax)")
    site.emit(out)


def bias_dropout(site: Site) -> None:
    """com.microsoft: x + bias (+ residual), then dropout."""
    out = broadcast(site, [i for i in range(min(site.inputs, 3)) if site.has(i)])
    for index in range(len(site.node.outputs)):
        site.emit(out, index)


def relative_bias(site: Site) -> None:
    """com.microsoft RelativePositionBias: table [buckets, heads] to [1, heads, S, S]."""
    table = site.axes(0)
    site.freeze(table[0], "(buckets)")
    site.emit([one(), table[1], *(site.stuck(e) for e in site.out()[2:])])


def folded(site: Site) -> None:
    """Col2Im: [N, C * block, L] to [N, C, ...]: the block of a channel goes with it."""
    x = site.axes(0)
    channels = site.out()[1]
    made = site.split(x[1], [channels, len(x[1]) // channels])
    site.freeze(made[1], "(block)")
    site.freeze(x[2], "(positions)")
    site.emit([x[0], made[0], *(site.stuck(e, "(spatial axis)") for e in site.out()[2:])])


def center_crop_pad(site: Site) -> None:
    """Axes that are cropped or padded stay, the others pass; a given shape is rewritten."""
    x = site.axes(0)
    made: list[Axis] = []
    for axis, before, after in zip(x, site.shape(0), site.out(), strict=True):
        if before != after:
            site.freeze(axis, "(cropped axis)")
        made.append(axis if before == after else site.stuck(after, "(cropped axis)"))
    chosen = [int(a) % len(x) for a in site.attr("axes", range(len(x)))]
    site.extents_input(1, [made[a] for a in chosen])
    site.emit(made)


def compress(site: Site) -> None:
    """The axis is chosen from at run time and stays; the others pass."""
    x, place = site.axes(0), site.attr("axis")
    if place is None:
        site.freeze_all("(flattened)")
        return
    made = list(x)
    site.freeze(x[int(place)], "(chosen at run time)")
    made[int(place)] = site.stuck(site.out()[int(place)], "(chosen at run time)")
    site.emit(made)


def tensor_scatter(site: Site) -> None:
    """past[B, ..., S, ...] and update: the sequence axis stays, the others go together."""
    past, update = site.axes(0), site.axes(1)
    place = int(site.attr("axis", -2)) % len(past)
    for k, (mine, other) in enumerate(zip(past, update, strict=True)):
        if k in (0, place):
            site.freeze(mine, "(cache)")
            site.freeze(other, "(cache)")
        else:
            site.equal(mine, other)
    site.emit(past)


def spectral(site: Site) -> None:
    """DFT: its axis and the complex axis stay, the others pass."""
    x = site.axes(0)
    given = site.value(2) if site.opset >= 20 and site.has(2) else None
    place = int(given.reshape(-1)[0]) if given is not None else int(site.attr("axis", -2 if site.opset >= 20 else 1))
    made = list(x)
    for k in {place % len(x), len(x) - 1}:
        site.freeze(x[k], "(axis of the transform)")
        made[k] = site.stuck(site.out()[k], "(axis of the transform)")
    site.emit(made)


def expand_dims(site: Site) -> None:
    """com.microsoft ExpandDims: one axis of extent 1 more."""
    site.emit(site.reshape(site.axes(0), site.out()))


def _keeps(why: str) -> Callable[[Site], None]:
    def rule(site: Site) -> None:
        site.record.opaque[site.node] = why
        site.freeze_all(why)

    return rule


_WHOLE: Mapping[str, str] = {
    **dict.fromkeys(ops("NonZero NonMaxSuppression Unique com.microsoft:Unique"), "(the data decides what is found)"),
    **dict.fromkeys(
        ops("RandomNormal RandomUniform RandomNormalLike RandomUniformLike Bernoulli Multinomial"),
        "(random numbers depend on the extents)",
    ),
    **dict.fromkeys(ops("HannWindow HammingWindow BlackmanWindow MelWeightMatrix AffineGrid STFT"), "(signal tables)"),
    **dict.fromkeys(ops("Det com.microsoft:Inverse"), "(all of a matrix matters)"),
    **dict.fromkeys(
        ops(
            "SequenceConstruct SequenceEmpty SequenceAt SequenceInsert SequenceErase SequenceLength SequenceMap "
            "SplitToSequence ConcatFromSequence Optional OptionalGetElement OptionalHasElement"
        ),
        "(sequences)",
    ),
    **dict.fromkeys(ops("LinearAttention CausalConvWithState"), "(state of a recurrence)"),
    **dict.fromkeys(
        ops("com.microsoft:GroupNorm com.microsoft:SkipGroupNorm com.microsoft:BiasSplitGelu"),
        "(fused; prune before fusing)",
    ),
    **FUSED_ATTENTION,
}

ROWS: Mapping[str, Rule] = {
    **{op: _keeps(why) for op, why in _WHOLE.items()},
    "SwiGLU": swiglu,
    "com.microsoft:SwiGLU": swiglu,
    "com.microsoft:MoE": mixture,
    "com.microsoft:BiasSoftmax": bias_softmax,
    "com.microsoft:BiasDropout": bias_dropout,
    "com.microsoft:RelativePositionBias": relative_bias,
    "com.microsoft:ExpandDims": expand_dims,
    "com.microsoft:ScaledSiLU": unary,
    "Col2Im": folded,
    "CenterCropPad": center_crop_pad,
    "Compress": compress,
    "TensorScatter": tensor_scatter,
    "DFT": spectral,
}
