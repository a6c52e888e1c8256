"""Values that the graph computes from extents at run time, made right after slicing.

The pruned graph is interpreted once more. Where a computed shape disagrees with the extents that are now right, the
literals in it were wrong for the new widths: it is patched. A value that is used as data (a scale from a head width, a
count that divides a sum) keeps what it was.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphopt.analysis.labels.site import EdgeKey
from graphopt.analysis.shapes import Fact, Facts, interpret
from graphopt.errors import GraphoptError
from graphopt.graph import Graph
from graphopt.ir import Array, Node, Tensor, is_constant
from graphopt.transforms.prune.keepset import KeepSet


class SliceConflict(GraphoptError):
    """The keep-set cannot be carried out; freezing the axes of ``tensors`` avoids what went wrong."""

    def __init__(self, message: str, tensors: set[Tensor]) -> None:
        super().__init__(message)
        self.tensors = tensors


def needed_values(keep: KeepSet, late: Mapping[EdgeKey, Array]) -> dict[EdgeKey, Array]:
    """All computed values that leave shape arithmetic, with what they must be in the pruned graph."""
    facts, record = keep.coupling.facts, keep.coupling.record
    needed = dict(late)
    moving = _moving(keep)
    for node in keep.coupling.graph.nodes:
        if any(facts[t].value is not None and t not in moving for t in node.outputs if not t.is_empty()):
            continue
        for index, tensor in enumerate(node.inputs):
            fact = None if tensor.is_empty() or is_constant(tensor) else facts[tensor]
            if fact is None or fact.value is None or not fact.from_shape or (node, index) in needed:
                continue
            if tensor in moving or node.is_op("Shape", "Size"):
                continue
            value = fact.value
            for place, axis in enumerate(record.axes.get(tensor, ())):
                if keep.changed(axis):
                    value = np.compress(keep.mask(axis), value, axis=place)
            needed[node, index] = value
    return needed


def _moving(keep: KeepSet) -> set[Tensor]:
    """Tensors behind a sum over removed positions: known or not, their values change with the pruning."""
    record = keep.coupling.record
    summing = {m.node for m in record.masks if keep.changed(m.labels)}
    summing |= {n.node for n in record.norms if any(keep.changed(n.labels[a]) for a in n.over)}
    moving: set[Tensor] = set()
    for node in keep.coupling.graph.nodes:
        if node in summing or (not node.is_op("Shape", "Size") and any(t in moving for t in node.inputs)):
            moving.update(node.outputs)
    return moving


def settle(keep: KeepSet, late: Mapping[EdgeKey, Array], pinned: list[str]) -> Facts:
    """Interpret the pruned graph and patch what computes wrong values; the names of patched inputs go to ``pinned``."""
    patcher = _Patcher(keep, late, pinned)
    original = keep.coupling.facts
    graph = keep.coupling.graph
    shapes = {t.name: s for t in graph.inputs if (s := original.shape(t)) is not None}
    return interpret(graph, original.dims, input_shapes=shapes, before=patcher.visit)


class _Patcher:
    def __init__(self, keep: KeepSet, late: Mapping[EdgeKey, Array], pinned: list[str]) -> None:
        self._graph: Graph = keep.coupling.graph
        self._keep = keep
        self._pinned = pinned
        self._by_node: dict[Node, list[tuple[int, Array]]] = {}
        for (node, index), value in needed_values(keep, late).items():
            self._by_node.setdefault(node, []).append((index, value))
        self._original = keep.coupling.facts
        self._other = keep.coupling.other_facts if self._by_node else None
        self._made: dict[tuple[Tensor, bytes], Tensor] = {}

    def visit(self, node: Node, facts: Facts) -> None:
        """Patch the inputs of ``node`` that would be wrong."""
        for index, wanted in self._by_node.get(node, ()):
            tensor = node.inputs[index]
            now = facts.value(tensor)
            if now is not None and now.shape == wanted.shape and np.array_equal(now, wanted, equal_nan=True):
                continue
            key = (tensor, wanted.tobytes())
            if key not in self._made:
                self._made[key] = self._patch(node, tensor, now, wanted, facts)
            node.inputs[index] = self._made[key]
            self._pinned.append(tensor.name)

    def _patch(self, node: Node, tensor: Tensor, now: Array | None, wanted: Array, facts: Facts) -> Tensor:
        fixed = self._fixed_entries(tensor, wanted)
        wrong = np.ones(wanted.shape, bool) if now is None or now.shape != wanted.shape else now != wanted
        if fixed.all():
            return self._graph.new_constant(f"{tensor.name}_pruned", wanted)
        scaled = None if now is None or now.shape != wanted.shape else self._scaled(tensor, now, wanted, wrong & ~fixed)
        if scaled is None:
            sources = _extent_sources(tensor)
            raise SliceConflict(
                f"{tensor.name!r} (input of {node.op} {node.name!r}) mixes pruned extents with run-time dims", sources
            )
        graph = self._graph
        mask = graph.new_constant(f"{tensor.name}_fixed", fixed)
        table = graph.new_constant(f"{tensor.name}_extents", wanted)
        source, (up, down) = tensor, scaled
        for op, factor in (("Mul", up), ("Div", down)):
            if (factor != 1).any():
                by = graph.new_constant(f"{tensor.name}_factor", factor)
                source = graph.add_node(op, [source, by], name=f"{node.name}_scaled").outputs[0]
        out = graph.add_node("Where", [mask, table, source], name=f"{node.name}_extents").outputs[0]
        facts.table[out] = Fact(wanted.dtype, wanted.shape, wanted, from_shape=True)
        return out

    def _scaled(self, tensor: Tensor, now: Array, wanted: Array, where: Array) -> tuple[Array, Array] | None:
        """Integer factors (up, down) with now * up / down = wanted at ``where``, exact whatever the run-time dims are.

        A value of the form k * N (batch times heads) has k as common divisor under both sets of dims; ``down`` must
        divide it.
        """
        up, down = np.ones_like(wanted), np.ones_like(wanted)
        if not where.any():
            return up, down
        first, second = self._original.value(tensor), None if self._other is None else self._other.value(tensor)
        if first is None or second is None or first.shape != wanted.shape or wanted.dtype.kind != "i":
            return None
        common = np.gcd(wanted, now)
        up[where], down[where] = (wanted // np.maximum(common, 1))[where], (now // np.maximum(common, 1))[where]
        literal = np.gcd(first, second)
        exact = (now == first) & (down > 0) & (literal % np.maximum(down, 1) == 0)
        return (up, down) if bool(exact[where].all()) else None

    def _fixed_entries(self, tensor: Tensor, wanted: Array) -> Array:
        """Which entries are the same whatever the run-time dims are."""
        first = self._original.value(tensor)
        second = None if self._other is None else self._other.value(tensor)
        if first is None or second is None or first.shape != second.shape:
            return np.zeros(wanted.shape, bool)
        same = first == second
        if same.shape == wanted.shape:
            return np.asarray(same)
        return np.full(wanted.shape, bool(same.all()))


def _extent_sources(tensor: Tensor) -> set[Tensor]:
    """The tensors whose extents a value is computed from."""
    found: set[Tensor] = set()
    stack, seen = [tensor], {tensor}
    while stack:
        for node in stack.pop().inputs:
            if node.is_op("Shape", "Size"):
                found.add(node.inputs[0])
                continue
            for source in node.inputs:
                if source not in seen:
                    seen.add(source)
                    stack.append(source)
    return found
