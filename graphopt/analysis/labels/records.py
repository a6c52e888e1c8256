"""What an operator's row says besides labels: what to rewrite, what a mask must reach, what the node costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from graphopt.analysis.labels.space import Axis
from graphopt.graph import Graph
from graphopt.ir import Array, Node

Fill: TypeAlias = Literal["zero", "one", "low", "high"]
NormKind: TypeAlias = Literal["layer", "rms", "instance", "group"]


class Kept(Protocol):
    """Which positions of an axis stay."""

    def mask(self, axis: Axis) -> Array:
        """A boolean per old position."""

    def count(self, axis: Axis) -> int:
        """How many stay."""

    def changed(self, axis: Axis) -> bool:
        """Whether any position goes."""


@dataclass(frozen=True)
class InputFix:
    """Input ``index`` of ``node`` encodes extents or positions; ``make(old value, kept)`` is its new value."""

    node: Node
    index: int
    make: Callable[[Array, Kept], Array]


@dataclass(frozen=True)
class AttrFix:
    """Attribute ``name`` becomes ``make(kept)`` when ``make`` does not answer None."""

    node: Node
    name: str
    make: Callable[[Kept], Any]


@dataclass(frozen=True)
class NodeFix:
    """Anything else: ``apply(graph, node, kept)`` edits the node."""

    node: Node
    apply: Callable[[Graph, Node, Kept], None]


Fix: TypeAlias = "InputFix | AttrFix | NodeFix"


@dataclass(frozen=True)
class Mask:
    """The node sums (or multiplies, or takes the extreme) over this axis of its input, so a removed position must read
    as ``fill`` there, or as the scalar input ``point`` of the node (the zero point of a quantized operand)."""

    node: Node
    index: int
    axis: int
    labels: Axis
    fill: Fill = "zero"
    point: int | None = None


@dataclass(frozen=True)
class Mean:
    """The node's output is a mean over ``axes``: with removed positions read as zero it must be scaled by n / kept."""

    node: Node
    axes: tuple[Axis, ...]


@dataclass(frozen=True)
class Norm:
    """The node normalises its first input over the tensor axes ``over``; ``labels`` are the labels of all its axes.

    ``groups``: for ``group``, how many blocks axis 1 has.
    """

    node: Node
    kind: NormKind
    over: tuple[int, ...]
    labels: tuple[Axis, ...]
    groups: int = 1


@dataclass(frozen=True)
class Counted:
    """The node needs equal numbers of positions in each of ``blocks`` runs of the axis, not equal places."""

    axis: Axis
    blocks: int


@dataclass(frozen=True)
class Blocked:
    """A weight whose axis 0 runs through ``blocks`` blocks, and whose axis ``place`` means, in each block, the
    positions of that block of ``channels``."""

    channels: Axis
    blocks: int
    place: int


@dataclass(frozen=True)
class Cost:
    """The node does ``scale`` times the product of the extents of ``axes`` multiply-accumulates."""

    node: Node
    scale: float
    axes: tuple[Axis, ...]

    def macs(self, kept: Kept | None = None) -> float:
        """Multiply-accumulates, of the original or with only the kept positions."""
        total = self.scale
        for axis in self.axes:
            total *= len(axis) if kept is None else kept.count(axis)
        return total


def extents(axes: Sequence[Axis]) -> tuple[int, ...]:
    """How long each axis is."""
    return tuple(len(a) for a in axes)
