"""Latency by layer, before and after a run: kernels joined to the layers that both models have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from graphopt.analysis.layers import match_layers
from graphopt.graph import Graph
from graphopt.ir import Node
from graphopt.results import LayerBound, LayerTime, NodeTime, PassResult


def layer_times(
    before: Graph,
    after: Graph,
    times: Sequence[Sequence[NodeTime]],
    bounds: Sequence[LayerBound] = (),
    passes: Sequence[PassResult] = (),
) -> tuple[LayerTime, ...]:
    """One row for each weighted layer of ``before``, in order, then one for everything else; none without both times.

    A kernel with several layers in it is divided evenly among them. ``bounds`` says what bounds
    the layers of ``after``. The passes of a row are those with a "did" remark on the layer, under its old or new name.
    """
    if len(times) != 2:
        return ()
    rows = [(node, None if found is None else found[0]) for node, _, found in match_layers(before, after)]
    old = _shares(times[0], {_name(node) for node, _ in rows})
    new = _shares(times[1], {_name(other) for _, other in rows if other is not None})
    bound = {b.node: b.bound for b in bounds}
    touched = _touched(passes)
    layers = []
    for node, other in rows:
        name, now = _name(node), "" if other is None else _name(other)
        layers.append(
            LayerTime(
                name=name,
                op=node.op,
                before_us=old.get(name, 0.0),
                after_us=new.get(now, 0.0),
                bound=bound.get(now),
                passes=tuple(dict.fromkeys((*touched.get(name, ()), *touched.get(now, ())))),
            )
        )
    rest = [sum(t.microseconds for t in kernels) for kernels in times]
    rest[0] -= sum(layer.before_us for layer in layers)
    rest[1] -= sum(layer.after_us for layer in layers)
    return (*layers, LayerTime("everything else", "", max(rest[0], 0.0), max(rest[1], 0.0)))


def _name(node: Node) -> str:
    return node.name or node.outputs[0].name


def _shares(kernels: Iterable[NodeTime], layers: set[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for kernel in kernels:
        own = [n for n in kernel.nodes if n in layers]
        for name in own:
            found[name] = found.get(name, 0.0) + kernel.microseconds / len(own)
    return found


def _touched(passes: Sequence[PassResult]) -> Mapping[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for result in passes:
        for remark in result.remarks:
            if remark.kind == "did" and remark.node:
                found[remark.node] = (*found.get(remark.node, ()), remark.source)
    return found
