"""Makes a graph physically smaller: weights are sliced, attributes and shape constants rewritten."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from graphopt.analysis.labels.records import AttrFix, InputFix, NodeFix
from graphopt.analysis.labels.site import Axes, EdgeKey
from graphopt.analysis.shapes import Facts
from graphopt.graph import Graph
from graphopt.ir import Array, Constant, Node, Tensor, Variable, constant_node, constant_value, is_constant
from graphopt.transforms.prune.free_choice import block_masks, sliced_by_block
from graphopt.transforms.prune.keepset import KeepSet
from graphopt.transforms.prune.slicing_values import SliceConflict, settle


@dataclass
class SliceReport:
    """What slicing did: constants made smaller, attributes rewritten, shape values patched."""

    weights: int = 0
    attributes: int = 0
    shapes: int = 0
    pinned: list[str] = field(default_factory=list)


def apply(keep: KeepSet) -> SliceReport:
    """Remove what ``keep`` removes from the graph it belongs to. Nothing happens when it keeps everything.

    The coupling must have been made from this very graph, unchanged since.

    Raises:
        SliceConflict: a value computed from a pruned extent is needed as data and depends on a run-time dim as well,
            or a node got other extents than its labels say. The graph is half edited then; restore a snapshot, freeze
            ``error.tensors``, and analyse again.
    """
    report = SliceReport()
    if keep.empty():
        return report
    graph = keep.coupling.graph
    dropped: set[Tensor] = set()
    _slice_weights(keep, graph, report, dropped)
    late = _apply_fixes(keep, graph, report, dropped)
    _update_shapes(keep, graph)
    facts = settle(keep, late, report.pinned)
    report.shapes += len(report.pinned)
    _drop_orphans(graph, dropped)
    graph.sort()
    _check(keep, facts)
    return report


def _slice_weights(keep: KeepSet, graph: Graph, report: SliceReport, dropped: set[Tensor]) -> None:
    by_tensor: dict[Tensor, list[tuple[Axes, tuple[EdgeKey, ...]]]] = {}
    for tensor, axes, edges in keep.coupling.weight_axes():
        by_tensor.setdefault(tensor, []).append((axes, edges))
    for tensor, uses in by_tensor.items():
        if not any(keep.changed(a) for axes, _ in uses for a in axes):
            continue
        report.weights += 1
        variants: dict[bytes, tuple[Axes, list[EdgeKey]]] = {}
        for axes, edges in uses:
            masks = block_masks(keep, edges[0])
            shared = b"" if masks is None else masks.tobytes()
            key = b"|".join([*(np.packbits(keep.mask(a)).tobytes() for a in axes), shared])
            variants.setdefault(key, (axes, []))[1].extend(edges)
        readers = sum(1 for n in set(tensor.outputs) for t in n.inputs if t is tensor)
        value = constant_value(tensor)
        assert value is not None
        if len(variants) == 1 and sum(len(e) for _, e in variants.values()) == readers:
            axes, readers_of = next(iter(variants.values()))
            graph.set_weight(tensor, _cut(value, axes, keep, readers_of))
            continue
        for axes, readers_of in variants.values():
            if any(keep.changed(a) for a in axes):
                small = graph.new_constant(f"{tensor.name}_pruned", _cut(value, axes, keep, readers_of))
                for node, index in readers_of:
                    node.inputs[index] = small
        dropped.add(tensor)


def _cut(value: Array, axes: Axes, keep: KeepSet, readers: list[EdgeKey]) -> Array:
    masks = block_masks(keep, readers[0])
    if masks is None:
        return sliced(value, axes, keep)
    return sliced_by_block(value, axes, keep, masks, keep.coupling.record.blocked[readers[0]].place)


def sliced(value: Array, axes: Axes, keep: KeepSet) -> Array:
    """The kept positions of a value."""
    for place, axis in enumerate(axes):
        if keep.changed(axis):
            value = np.compress(keep.mask(axis), value, axis=place)
    return np.ascontiguousarray(value)


def _apply_fixes(keep: KeepSet, graph: Graph, report: SliceReport, dropped: set[Tensor]) -> dict[EdgeKey, Array]:
    """Apply all fixes; those of values computed at run time are returned with the value that they must have."""
    facts = keep.coupling.facts
    late: dict[EdgeKey, Array] = {}
    made: dict[tuple[Tensor, bytes], Constant] = {}
    for fix in keep.coupling.record.fixes:
        if isinstance(fix, NodeFix):
            fix.apply(graph, fix.node, keep)
        elif isinstance(fix, AttrFix):
            value = fix.make(keep)
            if value is not None and value != fix.node.attrs.get(fix.name):
                fix.node.attrs[fix.name] = value
                report.attributes += 1
        elif fix.index < len(fix.node.inputs):
            _fix_input(fix, keep, graph, facts, late, made, dropped, report)
    return late


def _fix_input(
    fix: InputFix,
    keep: KeepSet,
    graph: Graph,
    facts: Facts,
    late: dict[EdgeKey, Array],
    made: dict[tuple[Tensor, bytes], Constant],
    dropped: set[Tensor],
    report: SliceReport,
) -> None:
    tensor = fix.node.inputs[fix.index]
    old = facts.value(tensor)
    if old is None:
        return
    new = fix.make(old, keep)
    if not is_constant(tensor):
        late[fix.node, fix.index] = new
    elif not np.array_equal(old, new):
        key = (tensor, new.tobytes())
        if key not in made:
            made[key] = graph.new_constant(f"{tensor.name}_pruned", new)
        fix.node.inputs[fix.index] = made[key]
        dropped.add(tensor)
        report.shapes += 1


def _update_shapes(keep: KeepSet, graph: Graph) -> None:
    """Extents in value infos follow; those of graph inputs and outputs never change."""
    ends = set(graph.inputs) | set(graph.outputs)
    for node in graph.nodes:
        for tensor in node.outputs:
            if tensor in ends or not isinstance(tensor, Variable) or not tensor.shape or is_constant(tensor):
                continue
            axes = keep.coupling.record.axes.get(tensor)
            if axes is None or len(axes) != len(tensor.shape):
                continue
            tensor.shape = [
                keep.count(a) if isinstance(e, int) and keep.changed(a) else e
                for e, a in zip(tensor.shape, axes, strict=True)
            ]


def _drop_orphans(graph: Graph, dropped: set[Tensor]) -> None:
    """Constants that nobody reads any more because their readers got smaller ones."""
    ends = set(graph.outputs)
    gone = {t for t in dropped if not t.outputs and t not in ends}
    if gone:
        graph.initializers = [c for c in graph.initializers if c not in gone]
        nodes = [n for n in (constant_node(t) for t in gone) if n is not None]
        graph.remove_nodes(nodes)


def _check(keep: KeepSet, facts: Facts) -> None:
    """Every tensor must have the extents that the keep-set says; where the data decides extents, on pruned axes."""
    record = keep.coupling.record
    guessed = facts.guessed | keep.coupling.facts.guessed
    loose: set[Tensor] = set()
    for node in keep.coupling.graph.nodes:
        if guessed and any(t in loose or guessed & set(facts.shape(t) or ()) for t in (*node.inputs, *node.outputs)):
            loose.update(node.outputs)
        for tensor in node.outputs:
            axes, shape = record.axes.get(tensor), facts.shape(tensor)
            if node.is_op("Constant") or axes is None or shape is None:
                continue
            wanted = tuple(keep.count(a) for a in axes)
            if len(shape) != len(wanted) or any(
                have != want
                for have, want, axis in zip(shape, wanted, axes, strict=True)
                if keep.changed(axis) or tensor not in loose
            ):
                raise SliceConflict(
                    f"at node {node.name!r} ({node.op}) tensor {tensor.name!r} has extents {list(shape)}, expected "
                    f"{list(wanted)}: the rule of {node.op} does not fit this case",
                    _all_tensors(node),
                )
            if node in facts.problems and node not in keep.coupling.facts.problems:
                raise SliceConflict(
                    f"node {node.name!r} ({node.op}) is no longer valid: {facts.problems[node]}", _all_tensors(node)
                )


def _all_tensors(node: Node) -> set[Tensor]:
    return {t for t in (*node.inputs, *node.outputs) if not t.is_empty()}
