"""What a row sees: one node, the facts of its tensors, and the means to relate axes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from graphopt.analysis.labels.records import (
    AttrFix,
    Blocked,
    Cost,
    Counted,
    Fill,
    Fix,
    InputFix,
    Kept,
    Mask,
    Mean,
    NodeFix,
    Norm,
)
from graphopt.analysis.labels.space import Axis, Frozen, Labels, Space, one, reshape
from graphopt.analysis.shapes import Facts
from graphopt.graph import Graph
from graphopt.ir import Array, Constant, Node, Tensor, is_constant

Axes: TypeAlias = "tuple[Axis, ...]"
EdgeKey: TypeAlias = "tuple[Node, int]"


@dataclass
class Record:
    """Everything that the rows of a graph said."""

    facts: Facts
    space: Space = field(default_factory=Space)
    axes: dict[Tensor, Axes] = field(default_factory=dict)
    edge_axes: dict[EdgeKey, Axes] = field(default_factory=dict)
    fixes: list[Fix] = field(default_factory=list)
    masks: list[Mask] = field(default_factory=list)
    means: list[Mean] = field(default_factory=list)
    norms: list[Norm] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    counts: list[Counted] = field(default_factory=list)
    blocked: dict[EdgeKey, Blocked] = field(default_factory=dict)
    uniform: set[tuple[Tensor, int]] = field(default_factory=set)
    opaque: dict[Node, str] = field(default_factory=dict)
    labelled: dict[Tensor, set[EdgeKey]] = field(default_factory=dict)

    def of(self, node: Node, index: int) -> Axes:
        """The axes of input ``index`` of ``node``."""
        return self.edge_axes.get((node, index)) or self.axes[node.inputs[index]]


class Site:
    """One node while it is labelled. Axes of constants are free labels; a small constant used in several places has
    labels of its own in each of them, so that places are not coupled by a shared table of zeros."""

    def __init__(self, node: Node, record: Record, opsets: Mapping[str, int]) -> None:
        self.node = node
        self.record = record
        self.space = record.space
        self.touched: set[int] = set()
        self._opsets = opsets

    @property
    def name(self) -> str:
        """The node as reports name it."""
        return f"{self.node.op} {self.node.name or self.node.outputs[0].name}"

    @property
    def opset(self) -> int:
        """Version of ai.onnx."""
        return self._opsets.get("", 1)

    @property
    def inputs(self) -> int:
        """How many inputs the node lists."""
        return len(self.node.inputs)

    def has(self, index: int) -> bool:
        """Whether input ``index`` is given."""
        return index < len(self.node.inputs) and not self.node.inputs[index].is_empty()

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute of the node."""
        value = self.node.attrs.get(name)
        return default if value is None else value

    def shape(self, index: int) -> tuple[int, ...]:
        """Extents of an input."""
        shape = self.record.facts.shape(self.node.inputs[index])
        assert shape is not None
        return shape

    def out(self, index: int = 0) -> tuple[int, ...]:
        """Extents of an output."""
        shape = self.record.facts.shape(self.node.outputs[index])
        assert shape is not None
        return shape

    def value(self, index: int) -> Array | None:
        """The value of an input, if it is fixed or computed from fixed things."""
        return self.record.facts.value(self.node.inputs[index]) if self.has(index) else None

    def is_constant(self, index: int) -> bool:
        """Whether an input is fixed in the file."""
        return self.has(index) and is_constant(self.node.inputs[index])

    def axes(self, index: int) -> Axes:
        """The axes of an input."""
        tensor = self.node.inputs[index]
        self.touched.add(index % len(self.node.inputs))
        if is_constant(tensor):
            self.record.labelled.setdefault(tensor, set()).add((self.node, index % len(self.node.inputs)))
        found = self.record.axes.get(tensor)
        if found is None:
            found = self.record.axes[tensor] = self.free(self.shape(index))
        if not self._shared_table(tensor):
            return found
        key = (self.node, index)
        if key not in self.record.edge_axes:
            self.record.edge_axes[key] = self.free(self.shape(index))
        return self.record.edge_axes[key]

    def _shared_table(self, tensor: Tensor) -> bool:
        if not is_constant(tensor) or len(tensor.outputs) < 2:
            return False
        shape = tensor.shape if isinstance(tensor, Constant) else self.record.facts.shape(tensor)
        return shape is not None and sum(int(e) > 1 for e in shape) <= 1

    def ignore(self, index: int) -> None:
        """The extents of this input do not matter to the node, whatever becomes of them."""
        self.touched.add(index)

    def free(self, shape: Sequence[int]) -> Axes:
        """Axes with new labels."""
        return tuple(one() if e == 1 else self.space.fresh(e) for e in shape)

    def stuck(self, extent: int, why: str = "") -> Axis:
        """An axis that this node keeps as it is."""
        return one() if extent == 1 else Frozen(extent, f"{self.name} {why}".strip())

    def emit(self, axes: Iterable[Axis], output: int = 0) -> None:
        """Say what the axes of an output are."""
        if output < len(self.node.outputs) and not self.node.outputs[output].is_empty():
            self.record.axes[self.node.outputs[output]] = tuple(axes)

    def equal(self, first: Axis, second: Axis) -> None:
        """Both axes lose the same positions."""
        self.space.equal(first, second, self.name)

    def join(self, first: Axis | None, second: Axis) -> Axis:
        """Relate both; the axis for both."""
        return self.space.join(first, second, self.name)

    def freeze(self, axis: Axis, why: str = "") -> None:
        """The axis stays as it is."""
        self.space.freeze(axis, f"{self.name} {why}".strip())

    def freeze_input(self, index: int, why: str = "") -> None:
        """No axis of the input may change."""
        if self.has(index) and self.record.facts.shape(self.node.inputs[index]) is not None:
            for axis in self.axes(index):
                self.freeze(axis, why)

    def freeze_all(self, why: str) -> None:
        """Nothing that this node touches may change."""
        for index in range(self.inputs):
            if self.has(index):
                self.freeze_input(index, why)
        for index, tensor in enumerate(self.node.outputs):
            shape = self.record.facts.shape(tensor)
            if shape is not None:
                self.emit([self.stuck(e, why) for e in shape], index)

    def split(self, axis: Axis, extents: Sequence[int]) -> list[Axis]:
        """Factors of an axis, last one fastest."""
        return self.space.split(axis, extents, self.name)

    def merge(self, factors: Sequence[Axis]) -> Axis:
        """Product of axes, last one fastest."""
        return self.space.merge(factors, self.name)

    def reshape(self, axes: Sequence[Axis], after: Sequence[int]) -> list[Axis]:
        """Axes after a row-major reshape."""
        return reshape(self.space, axes, [len(a) for a in axes], after, self.name)

    def pick(self, axis: Axis, positions: Any) -> Axis:
        """The axis made of these positions of ``axis`` (a slice or an index array)."""
        if isinstance(axis, Frozen):
            extent = len(range(axis.extent)[positions]) if isinstance(positions, slice) else len(positions)
            return one() if extent == 1 else Frozen(extent, axis.reason)
        picked: Labels = axis[positions]
        return picked

    def chain(self, parts: Sequence[Axis]) -> Axis:
        """The parts one after the other."""
        if all(isinstance(p, Frozen) for p in parts):
            why = next((p.reason for p in parts if isinstance(p, Frozen) and p.reason), self.name)
            return Frozen(sum(len(p) for p in parts), why)
        return self.space_concat(parts)

    def space_concat(self, parts: Sequence[Axis]) -> Labels:
        """The parts as one label array; frozen ones get frozen labels."""
        import numpy as np

        arrays: list[Labels] = []
        for part in parts:
            if isinstance(part, Frozen):
                labels = self.space.fresh(part.extent)
                self.space.freeze(labels, part.reason or self.name)
                arrays.append(labels)
            else:
                arrays.append(part)
        return np.concatenate(arrays)

    def mask(self, index: int, axis: int, fill: Fill = "zero", point: int | None = None) -> None:
        """The node reduces over this axis of its input; ``point`` is the input that holds the operand's zero point."""
        labels = self.axes(index)[axis]
        if not isinstance(labels, Frozen):
            given = point if point is not None and self.has(point) else None
            self.record.masks.append(Mask(self.node, index, axis % len(self.axes(index)), labels, fill, given))

    def mean(self, axes: Sequence[Axis]) -> None:
        """The output is a mean over these axes."""
        live = tuple(a for a in axes if not isinstance(a, Frozen))
        if live:
            self.record.means.append(Mean(self.node, live))

    def norm(self, norm: Norm) -> None:
        """The node normalises over label-carrying axes."""
        self.record.norms.append(norm)

    def count(self, axis: Axis, blocks: int) -> None:
        """The node needs as many positions of each of ``blocks`` runs of the axis, whichever they are."""
        if not isinstance(axis, Frozen) and 1 < blocks < len(axis):
            self.record.counts.append(Counted(axis, blocks))

    def block_weight(self, index: int, place: int, channels: Axis, blocks: int) -> None:
        """Axis ``place`` of this weight means, for each of ``blocks`` runs of rows, that run of ``channels``."""
        self.record.blocked[self.node, index] = Blocked(channels, blocks, place)

    def same_along(self, place: int, output: int = 0) -> None:
        """All values of the output are equal along this axis, so that only its extent matters."""
        self.record.uniform.add((self.node.outputs[output], place))

    def cost(self, scale: float, axes: Sequence[Axis]) -> None:
        """Multiply-accumulates: ``scale`` times the extents of ``axes``."""
        self.record.costs.append(Cost(self.node, scale, tuple(axes)))

    def fix_input(self, index: int, make: Callable[[Array, Kept], Array]) -> None:
        """The input encodes extents or positions."""
        if self.has(index):
            self.record.fixes.append(InputFix(self.node, index, make))

    def fix_attr(self, name: str, make: Callable[[Kept], Any]) -> None:
        """The attribute encodes extents."""
        self.record.fixes.append(AttrFix(self.node, name, make))

    def fix_node(self, apply: Callable[[Graph, Node, Kept], None]) -> None:
        """Something else must be edited."""
        self.record.fixes.append(NodeFix(self.node, apply))

    def extents_input(self, index: int, axes: Sequence[Axis], keep: Sequence[int] = ()) -> None:
        """The 1-D input holds the extents of ``axes``; values listed in ``keep`` (0, -1, 1) stay as they are."""
        chosen = tuple(axes)
        kept_values = frozenset(keep)

        def make(old: Array, kept: Kept) -> Array:
            new = [
                int(v) if int(v) in kept_values or not kept.changed(axis) else kept.count(axis)
                for v, axis in zip(old.tolist(), chosen, strict=True)
            ]
            return _like(old, new)

        self.fix_input(index, make)


def _like(old: Array, new: Sequence[Any]) -> Array:
    import numpy as np

    return np.asarray(new, old.dtype).reshape(old.shape)


Rule: TypeAlias = "Callable[[Site], None]"
Rows: TypeAlias = "Mapping[str, Rule]"
