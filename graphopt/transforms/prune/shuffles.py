"""Channel shuffles as one Gather.

Reshape, Transpose, Reshape that only permute one axis tie the channels of all groups together, because the axis is cut
into equal groups in between. A Gather with the same permutation does not: any channels may go, its indices are
renumbered. Moving data is exact, so outputs stay bit for bit the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from graphopt.analysis.labels import Coupling
from graphopt.analysis.shapes import Facts
from graphopt.graph import Graph
from graphopt.ir import Array, Node, Tensor, Variable
from graphopt.snapshot import Snapshot, restore, take
from graphopt.transforms.prune.selection import Policy, by_ratio, macs
from graphopt.transforms.prune.selection_units import find_units

_GAIN = 1e-6
_LONGEST = 5
_LARGEST = 1 << 22


@dataclass(frozen=True)
class Shuffle:
    """The nodes of one shuffle in order, the axis that they permute, and which position comes where."""

    nodes: tuple[Node, ...]
    axis: int
    order: Array


def find_shuffles(graph: Graph, facts: Facts) -> list[Shuffle]:
    """All chains of Reshape and Transpose that give back the extents they got, with one axis permuted."""
    ends = set(graph.outputs)
    taken: set[Node] = set()
    found: list[Shuffle] = []
    for node in graph.nodes:
        if node.is_op("Reshape") and node not in taken:
            shuffle = _from(node, facts, ends)
            if shuffle is not None:
                taken.update(shuffle.nodes)
                found.append(shuffle)
    return found


def _from(first: Node, facts: Facts, ends: set[Tensor]) -> Shuffle | None:
    shape = facts.shape(first.inputs[0])
    if shape is None or prod(shape) > _LARGEST:
        return None
    chain: list[Node] = []
    value = start = np.arange(prod(shape)).reshape(shape)
    node = first
    while len(chain) < _LONGEST and node.is_op("Reshape", "Transpose"):
        out = facts.shape(node.outputs[0])
        if out is None or prod(out) != prod(shape):
            return None
        perm = node.attrs.get("perm", list(range(value.ndim))[::-1])
        value = value.transpose(perm) if node.op == "Transpose" else value.reshape(out)
        chain.append(node)
        if value.shape == shape and len(chain) > 2:
            return _permuted(chain, start, value)
        readers = node.outputs[0].outputs
        if len(readers) != 1 or node.outputs[0] in ends or readers[0].inputs[0] is not node.outputs[0]:
            return None
        node = readers[0]
    return None


def _permuted(chain: Sequence[Node], start: Array, value: Array) -> Shuffle | None:
    for axis in range(start.ndim):
        step = prod(start.shape[axis + 1 :])
        line = value[tuple(slice(None) if k == axis else 0 for k in range(start.ndim))]
        order = line // max(step, 1) % start.shape[axis]
        if not np.array_equal(order, np.arange(len(order))) and np.array_equal(np.take(start, order, axis), value):
            return Shuffle(tuple(chain), axis, order.astype(np.int64))
    return None


def rewrite(graph: Graph, shuffles: Sequence[Shuffle]) -> None:
    """Put one Gather in the place of each chain."""
    for shuffle in shuffles:
        source, result = shuffle.nodes[0].inputs[0], shuffle.nodes[-1].outputs[0]
        order = graph.new_constant(f"{shuffle.nodes[-1].name or result.name}_order", shuffle.order)
        made = graph.add_node(
            "Gather", [source, order], attrs={"axis": shuffle.axis}, name=f"{shuffle.nodes[-1].name}_shuffle"
        )
        out = made.outputs[0]
        if isinstance(out, Variable):
            out.dtype, out.shape = result.dtype, None if result.shape is None else list(result.shape)
        graph.replace_uses(result, made.outputs[0])
        graph.remove_nodes(list(shuffle.nodes))
    graph.sort()


def opened(graph: Graph, coupling: Coupling, again: Callable[[], Coupling]) -> tuple[Coupling, Snapshot | None]:
    """Rewrite the shuffles of a graph if more can be pruned then. ``again`` analyses the graph as it is.

    Answers the coupling to go on with, and what restores the graph as it was, None when nothing was rewritten.
    """
    shuffles = find_shuffles(graph, coupling.facts)
    if not shuffles:
        return coupling, None
    share, before = removable_share(coupling), take(graph)
    rewrite(graph, shuffles)
    other = again()
    if removable_share(other) > share + _GAIN:
        return other, before
    restore(graph, before)
    return again(), None


def removable_share(coupling: Coupling) -> float:
    """The share of the MACs that goes when half of all units do, whichever: how freely a graph can be pruned."""
    units = find_units(coupling)
    keep = by_ratio(units, np.zeros(len(units.family_of)), Policy(0.5, free=False))
    return 1.0 - macs(units, keep) / max(macs(units, None), 1.0)
