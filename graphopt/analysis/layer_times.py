"""Latency by layer, before and after a run: kernels joined to the layers that both models have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from graphopt.analysis.layers import match_layers, members, tensor_names
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
    """One row for each weighted layer of ``before``, in order, then one for everything else.

    None without both times, or where a provider compiled the graph into kernels that hold no layer one could name.

    A kernel with several layers in it is divided evenly among them; what passes put around a layer (quantizers, casts,
    scales) counts with it. ``bounds`` says what bounds
    the layers of ``after``. The passes of a row are those with a "did" remark on the layer, under its old or new name.
    """
    if len(times) != 2:
        return ()
    matches = match_layers(before, after)
    layers, known = {m.now for m in matches if m.now is not None}, tensor_names(before)
    names = [_name(m.node) for m in matches]
    parts = [[_name(n) for n in members(m, known, layers)] for m in matches]
    old = _shares(times[0], {name: [name] for name in names})
    new = _shares(times[1], dict(zip(names, parts, strict=True)))
    bound = {b.node: b.bound for b in bounds}
    touched = _touched(passes)
    rows = []
    for name, match in zip(names, matches, strict=True):
        now = "" if match.now is None else _name(match.now)
        rows.append(
            LayerTime(
                name=name,
                op=match.node.op,
                before_us=old.get(name, 0.0),
                after_us=new.get(name, 0.0),
                bound=bound.get(now),
                passes=tuple(dict.fromkeys((*touched.get(name, ()), *touched.get(now, ())))),
            )
        )
    if not any(r.before_us for r in rows) or not any(r.after_us for r in rows):
        return ()
    rest = [sum(t.microseconds for t in kernels) for kernels in times]
    rest[0] -= sum(layer.before_us for layer in rows)
    rest[1] -= sum(layer.after_us for layer in rows)
    return (*rows, LayerTime("everything else", "", max(rest[0], 0.0), max(rest[1], 0.0)))


def _name(node: Node) -> str:
    return node.name or node.outputs[0].name


def _shares(kernels: Iterable[NodeTime], nodes: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Time of each layer, from the names of its nodes, the weighted one first.

    A kernel belongs to the layers whose weighted node is in it; without one, to those of its other nodes. Several
    share it evenly.
    """
    weighted: dict[str, list[str]] = {}
    beside: dict[str, list[str]] = {}
    for layer, own in nodes.items():
        for place, name in enumerate(own):
            (beside if place else weighted).setdefault(name, []).append(layer)
    found: dict[str, float] = {}
    for kernel in kernels:
        owners = [
            dict.fromkeys(layer for name in kernel.nodes for layer in table.get(name, ()))
            for table in (weighted, beside)
        ]
        for layer in owners[0] or owners[1]:
            found[layer] = found.get(layer, 0.0) + kernel.microseconds / len(owners[0] or owners[1])
    return found


def _touched(passes: Sequence[PassResult]) -> Mapping[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for result in passes:
        for remark in result.remarks:
            if remark.kind == "did" and remark.node:
                found[remark.node] = (*found.get(remark.node, ()), remark.source)
    return found
