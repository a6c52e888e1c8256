"""Normalisations. Statistics over a pruned axis are those of the kept positions: legal, and checked in masked form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphopt.analysis.labels.records import Norm, NormKind
from graphopt.analysis.labels.site import Axes, Rule, Site
from graphopt.analysis.labels.space import Frozen


def batch_norm(site: Site) -> None:
    """scale, B, mean, var belong to axis 1. In training mode the statistics are those of all other axes."""
    x = site.axes(0)
    channel = x[1] if len(x) > 1 else x[0]
    for index in range(1, 5):
        site.equal(channel, site.axes(index)[0])
    site.emit(x)
    for index in range(1, len(site.node.outputs)):
        site.emit([channel], index)
    if site.attr("training_mode", 0) or (site.opset < 14 and len(site.node.outputs) > 1):
        if any(t.outputs for t in site.node.outputs[1:]):
            for place in (0, *range(2, len(x))):
                site.freeze(x[place], "(its statistics are used)")
        _normalise(site, "instance", x, [0, *range(2, len(x))])


def instance_norm(site: Site) -> None:
    """Per channel over the spatial axes."""
    x = site.axes(0)
    site.equal(x[1], site.axes(1)[0])
    site.equal(x[1], site.axes(2)[0])
    _normalise(site, "instance", x, range(2, len(x)))
    site.emit(x)


def _normalise(site: Site, kind: NormKind, x: Axes, over: Sequence[int], groups: int = 1) -> None:
    if any(not isinstance(x[a], Frozen) for a in over):
        site.norm(Norm(site.node, kind, tuple(over), tuple(x), groups))


def _trailing(site: Site, kind: NormKind, axis: int, tables: range) -> None:
    x = site.axes(0)
    axis %= len(x)
    for index in tables:
        if site.has(index):
            for mine, other in zip(reversed(x), reversed(site.axes(index)), strict=False):
                if len(other) > 1:
                    site.equal(mine, other)
    if any(t.outputs for t in site.node.outputs[1:]):
        for place in range(axis, len(x)):
            site.freeze(x[place], "(its statistics are used)")
    _normalise(site, kind, x, range(axis, len(x)))
    site.emit(x)
    for index in range(1, len(site.node.outputs)):
        if not site.node.outputs[index].is_empty():
            site.emit([*x[:axis], *(site.stuck(1) for _ in x[axis:])], index)


def layer_norm(site: Site) -> None:
    """Over ``axis`` and all later ones; scale and bias belong to them."""
    _trailing(site, "layer", int(site.attr("axis", -1)), range(1, 3))


def rms_norm(site: Site) -> None:
    """As LayerNormalization, without mean and bias."""
    _trailing(site, "rms", int(site.attr("axis", -1)), range(1, 2))


def skip_norm(site: Site) -> None:
    """com.microsoft: input + skip (+ bias), then LayerNorm or RMSNorm of the last axis; the fourth output is the sum.

    Inputs of the LayerNorm form: input, skip, gamma, beta, bias; of the RMSNorm form: input, skip, gamma, bias.
    """
    x = site.axes(0)
    for index in range(1, site.inputs):
        if site.has(index):
            for mine, other in zip(reversed(x), reversed(site.axes(index)), strict=False):
                if len(other) > 1:
                    site.equal(mine, other)
    _last_axis(site, "rms" if "Simplified" in site.node.op else "layer", x, (1, 2))
    site.emit(x)
    site.emit(x, 3)


def embed_norm(site: Site) -> None:
    """com.microsoft EmbedLayerNormalization: the sum of three table rows, then LayerNorm of the last axis. Inputs: ids,
    segments, three tables, gamma, beta, mask, positions; outputs: result, mask index, sum."""
    width = site.axes(2)[1]
    for index in (2, 3, 4):
        if site.has(index):
            site.equal(site.axes(index)[1], width)
            site.freeze(site.axes(index)[0], "(rows of a table)")
    for index in (5, 6):
        site.equal(site.axes(index)[0], width)
    made = [*(site.stuck(e, "(batch or sequence)") for e in site.out()[:2]), width]
    for index in (0, 1, 7, 8):
        site.freeze_input(index, "(batch or sequence)")
    _last_axis(site, "layer", tuple(made), ())
    site.emit(made)
    site.emit([made[0]], 1)
    site.emit(made, 2)


def _last_axis(site: Site, kind: NormKind, x: Axes, statistics: Sequence[int]) -> None:
    if any(index < len(site.node.outputs) and site.node.outputs[index].outputs for index in statistics):
        site.freeze(x[-1], "(its statistics are used)")
    _normalise(site, kind, x, [len(x) - 1])
    for index in statistics:
        site.emit([*x[:-1], site.stuck(1)], index)


def group_norm(site: Site) -> None:
    """num_groups blocks of axis 1; scale and bias per channel (opset 21) or per group (18)."""
    x = site.axes(0)
    groups = int(site.attr("num_groups"))
    whole = len(x[1]) == groups
    factors = [x[1], site.stuck(1)] if whole else site.split(x[1], [groups, len(x[1]) // groups])
    site.count(x[1], groups)
    for index in (1, 2):
        site.equal(site.axes(index)[0], x[1] if site.opset >= 21 else factors[0])
    _normalise(site, "group", x, range(1, len(x)), groups)
    site.fix_attr("num_groups", lambda kept: kept.count(factors[0]) if kept.changed(factors[0]) else None)
    site.emit(x)


def softmax(site: Site) -> None:
    """The axis is a set of classes or keys: it stays. Before opset 13 all axes from ``axis`` on."""
    x = site.axes(0)
    axis = int(site.attr("axis", -1 if site.opset >= 13 else 1)) % len(x)
    for place in range(axis, axis + 1 if site.opset >= 13 else len(x)):
        site.freeze(x[place], "(axis of the softmax)")
    site.emit(x)


def lp_norm(site: Site) -> None:
    """Zeros add nothing to an L1 or L2 norm."""
    site.mask(0, int(site.attr("axis", -1)))
    site.emit(site.axes(0))


def lrn(site: Site) -> None:
    """Neighbouring channels matter."""
    x = site.axes(0)
    site.freeze(x[1], "(neighbouring channels)")
    site.emit(x)


def mvn(site: Site) -> None:
    """Axes of the statistics stay; the others pass."""
    x = site.axes(0)
    for axis in site.attr("axes", [0, 2, 3]):
        site.freeze(x[axis], "(axis of the statistics)")
    site.emit(x)


ROWS: Mapping[str, Rule] = {
    "BatchNormalization": batch_norm,
    "InstanceNormalization": instance_norm,
    "LayerNormalization": layer_norm,
    "SimplifiedLayerNormalization": rms_norm,
    "com.microsoft:SimplifiedLayerNormalization": rms_norm,
    "RMSNormalization": rms_norm,
    "GroupNormalization": group_norm,
    "com.microsoft:SkipLayerNormalization": skip_norm,
    "com.microsoft:SkipSimplifiedLayerNormalization": skip_norm,
    "com.microsoft:EmbedLayerNormalization": embed_norm,
    "Softmax": softmax,
    "LogSoftmax": softmax,
    "Hardmax": softmax,
    "LpNormalization": lp_norm,
    "LRN": lrn,
    "MeanVarianceNormalization": mvn,
}
