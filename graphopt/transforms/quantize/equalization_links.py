"""Tensors whose channels can be rescaled, with what makes them and what reads them.

Relu, LeakyRelu, PRelu and pooling let a factor for each channel through; Reshape, Flatten, Squeeze, Unsqueeze and
Transpose carry it to another axis, where a channel may take up several positions. Clip (ReLU6) has one bound for all
channels: a channel may be rescaled as far as it provably never reaches a bound, before and after.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from graphopt.analysis.channel_bounds import Bounds, bounds_of, channel_bounds, clip_limits
from graphopt.analysis.shapes import Facts, interpret_best
from graphopt.graph import Graph
from graphopt.ir import Array, Node, Tensor, constant_value, is_constant

_POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool"})
_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "PRelu", "Identity"})
_REDUCTIONS = frozenset({"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"})
_RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
_ELEMENTWISE = frozenset({"Add", "Mul", "Div"})
_GELU_DEPTH = 5


@dataclass(frozen=True)
class Fold:
    """A constant that takes up the factors: input ``position`` of ``node``, along ``axis`` of the constant.

    ``groups``: of a convolution whose weight's axis 1 counts the channels of one group only. ``divides``: the constant
    is divided by the factors instead of multiplied. ``behind``: axes of the tensor behind its channels, for the
    constant of an elementwise operator, which may be one value for all channels. ``inner``: positions that a channel
    takes up, one after the other. ``seen``: the tensor as the reader sees it, before its channels came to another axis.
    """

    node: Node
    position: int
    axis: int
    groups: int
    divides: bool
    behind: int | None = None
    inner: int = 1
    seen: Tensor | None = None

    @property
    def value(self) -> Array:
        """The constant, float32."""
        found = constant_value(self.node.inputs[self.position])
        assert found is not None
        return found

    def spread(self, factors: Array) -> Array:
        """The factors, shaped to broadcast against the constant."""
        value = self.value
        factors = np.repeat(factors, self.inner)
        if self.behind is not None:
            return factors.reshape(-1, *[1] * self.behind)
        if self.groups > 1 and not self.divides:
            group = np.arange(value.shape[0]) // (value.shape[0] // self.groups)
            parts = factors.reshape(self.groups, value.shape[1])[group]
            return np.asarray(parts.reshape(*parts.shape, *[1] * (value.ndim - 2)))
        shape = [1] * max(value.ndim, 1)
        shape[self.axis] = -1
        return factors.reshape(shape)


@dataclass(frozen=True)
class Link:
    """A tensor whose channels (on ``axis``) can be rescaled: what makes it, and the weights that read it.

    Without ``sources`` a Mul in front of the readers does the division. ``least``: the smallest factor of each channel
    under which a Clip on the way provably stays without effect; infinite where only 1 will do. None: no Clip.
    """

    tensor: Tensor
    axis: int
    channels: int
    sources: tuple[Fold, ...]
    readers: tuple[Fold, ...]
    least: Array | None = None

    @property
    def read(self) -> Tensor:
        """The tensor as its first reader sees it, behind the activation."""
        return self.readers[0].seen or self.readers[0].node.inputs[0]


@dataclass(frozen=True)
class _Place:
    """Where the channels are: on ``axis`` (-1: the last), each at ``inner`` positions. ``seen``: see ``Fold``."""

    axis: int
    inner: int = 1
    seen: Tensor | None = None


class _Surroundings:
    """What is asked of a graph while links are looked for, found when first needed."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.ends = {id(t) for g in graph.graphs() for t in g.outputs}
        self.members = {id(n) for n in graph.nodes}

    @cached_property
    def facts(self) -> Facts:
        """Extents, with stand-in numbers for symbolic ones."""
        return interpret_best(self._graph)

    @cached_property
    def bounds(self) -> dict[int, Bounds]:
        """Proven bounds of the channels on axis 1."""
        return channel_bounds(self._graph)

    def rank(self, tensor: Tensor) -> int:
        """Number of axes; 0 when unknown."""
        return len(self.facts.shape(tensor) or ())


def find_links(graph: Graph) -> list[Link]:
    """All links of the main graph, in its order."""
    around = _Surroundings(graph)
    found: list[Link] = []
    for node in graph.nodes:
        for axis in _channel_axes(node):
            link = _link(node, axis, around)
            if link is not None:
                found.append(link)
    return found


def _link(node: Node, axis: int, around: _Surroundings) -> Link | None:
    tensor = node.outputs[0]
    clips: list[Node] = []
    readers = list(_readers(tensor, _Place(axis), around, clips))
    known = [r for r in readers if r is not None]
    widths = {_width(r) for r in known}
    if len(known) != len(readers) or len(widths) != 1:
        return None
    width = widths.pop()
    sources = _sources(node, axis, _behind(tensor, axis, known, around), around.ends)
    if not sources or not all(_makes(s, width) for s in sources):
        return None
    least = _least_factors(clips, width, around) if clips else None
    if least is not None and np.isfinite(least).sum() == 0:
        return None
    return Link(tensor, axis, width, tuple(sources), tuple(known), least)


def _behind(tensor: Tensor, axis: int, readers: Sequence[Fold], around: _Surroundings) -> int:
    """How many axes of the tensor are behind its channels."""
    if axis == -1:
        return 0
    kernels = [r.value.ndim for r in readers if r.node.op == "Conv"]
    return (kernels[0] if kernels else max(around.rank(tensor), 2)) - 2


def _least_factors(clips: Sequence[Node], width: int, around: _Surroundings) -> Array:
    """The smallest factor of each channel that keeps all ``clips`` without effect beyond that of a Relu."""
    least = np.zeros(width)
    for node in clips:
        limits = clip_limits(node)
        bounds = bounds_of(node.inputs[0], around.bounds, width)
        if limits is None:
            return np.full(width, np.inf)
        least = np.maximum(least, np.maximum(_least(limits[0], bounds.low), _least(-limits[1], -bounds.high)))
    return least


def _least(limit: float, low: Array) -> Array:
    """For values of at least ``low`` that are cut at ``limit`` from below: the least divisor that cuts none of them."""
    if limit == 0 or limit == -np.inf:
        return np.zeros(len(low))
    if limit > 0:
        return np.full(len(low), np.inf)
    reach = low / limit
    return np.where(reach <= 1, np.maximum(reach, 0.0), np.inf)


def find_smoothable(graph: Graph, links: Sequence[Link]) -> list[Link]:
    """Inputs of matrix products with constant weights that no constant in front of them can rescale."""
    taken = {id(r.node) for la in links for r in la.readers}
    around = _Surroundings(graph)
    readers: dict[int, tuple[Tensor, list[Fold]]] = {}
    for node in graph.nodes:
        if node.op in ("Gemm", "MatMul") and not node.domain and id(node) not in taken:
            tensor = node.inputs[0]
            fold = None if is_constant(tensor) else _reader(node, tensor, _Place(-1), around)
            if fold is not None:
                readers.setdefault(id(tensor), (tensor, []))[1].append(fold)
    return [
        Link(tensor, -1, _width(folds[0]), (), tuple(folds))
        for tensor, folds in readers.values()
        if len({_width(f) for f in folds}) == 1
    ]


def _channel_axes(node: Node) -> tuple[int, ...]:
    """Axes of the channels that a node's constants may scale."""
    if node.domain or len(node.outputs) != 1:
        return ()
    if node.op in ("Conv", "BatchNormalization"):
        return (1,)
    if node.op in _ELEMENTWISE:
        return (1, -1)
    return (-1,) if node.op in ("Gemm", "MatMul", "LayerNormalization") else ()


def _constant(tensor: Tensor) -> Array | None:
    value = constant_value(tensor) if is_constant(tensor) else None
    return value if value is not None and value.dtype == np.float32 else None


def _sources(node: Node, axis: int, behind: int, ends: set[int]) -> list[Fold]:
    """The constants that scale the output of ``node``; empty when it cannot be rescaled."""
    if node.op in _ELEMENTWISE:
        return _elementwise(node, axis, behind, ends)
    places: dict[str, Sequence[tuple[int, int]]] = {
        "Conv": ((1, 0), (2, 0)),
        "BatchNormalization": ((1, 0), (2, 0)),
        "LayerNormalization": ((1, -1), (2, -1)),
        "Gemm": ((1, 0 if node.attrs.get("transB", 0) else 1), (2, -1)),
        "MatMul": ((1, -1),),
    }
    if is_constant(node.inputs[0]):
        return []
    folds = []
    for position, where in places[node.op]:
        if position >= len(node.inputs) or node.inputs[position].is_empty():
            continue
        value = _constant(node.inputs[position])
        if value is None or (node.op == "MatMul" and value.ndim != 2):
            return []
        folds.append(Fold(node, position, where, 1, True, 0 if node.op == "Gemm" and position == 2 else None))
    return folds if any(f.position == 1 for f in folds) else []


def _elementwise(node: Node, axis: int, behind: int, ends: set[int]) -> list[Fold]:
    """A constant factor scales the channels; an Add shifts them, so what it adds to, no output, is rescaled too.

    One factor for all channels becomes one for each, unless it is a part of a Gelu, which runtimes recognise by it.
    """
    for position in (0, 1) if node.op != "Div" else (1,):
        value, other = _constant(node.inputs[position]), node.inputs[1 - position]
        if value is None or is_constant(other):
            continue
        fold = Fold(node, position, -1, 1, node.op != "Div", behind)
        if node.op != "Add":
            return [] if value.size == 1 and _in_gelu(node) else [fold]
        inner = len(other.outputs) == 1 and id(other) not in ends
        if inner and other.inputs and axis in _channel_axes(other.inputs[0]):
            below = _sources(other.inputs[0], axis, behind, ends)
            return [*below, fold] if below else []
    return []


def _in_gelu(node: Node) -> bool:
    """Whether an Erf or Tanh is a few nodes before or behind ``node``."""
    for forward in (False, True):
        near = [node]
        for _ in range(_GELU_DEPTH):
            near = [n for m in near for t in (m.outputs if forward else m.inputs) for n in _next(t, forward)]
            if any(n.op in ("Erf", "Tanh") for n in near):
                return True
    return False


def _next(tensor: Tensor, forward: bool) -> list[Node]:
    return list(tensor.outputs if forward else tensor.inputs)


def _makes(fold: Fold, width: int) -> bool:
    """Whether the constant has one value for each of ``width`` channels, at the right place (or one for all)."""
    value = fold.value
    if fold.behind is None:
        return value.ndim > 0 and value.shape[fold.axis] == width
    place = value.ndim - 1 - fold.behind
    return value.size == 1 or (value.size == width and place >= 0 and value.shape[place] == width)


def _readers(tensor: Tensor, place: _Place, around: _Surroundings, clips: list[Node]) -> Iterator[Fold | None]:
    """The weights that read ``tensor``, directly or behind what lets factors through; None for any other reader.

    Every Clip on the way goes to ``clips``.
    """
    if id(tensor) in around.ends:
        yield None
    for node in tensor.outputs:
        inside = id(node) in around.members and not node.domain and len(node.outputs) == 1
        then = _passed(node, tensor, place, around) if inside and node.inputs[0] is tensor else None
        if then is not None:
            if node.op == "Clip":
                clips.append(node)
            yield from _readers(node.outputs[0], then, around, clips)
        else:
            yield _reader(node, tensor, place, around) if inside else None


def _passed(node: Node, tensor: Tensor, place: _Place, around: _Surroundings) -> _Place | None:
    """Where the channels are behind ``node``, which multiplies them by nothing but the factor; None: it does more."""
    if node.op in _HOMOGENEOUS or (node.op in _POOLS and place.axis == 1 and place.inner == 1):
        return place
    if node.op == "Clip":
        return place if place.axis == 1 and place.inner == 1 and clip_limits(node) is not None else None
    if node.op not in _RESHAPES | _REDUCTIONS | {"Transpose"}:
        return None
    before, after = around.facts.shape(tensor), around.facts.shape(node.outputs[0])
    if not before or not after:
        return None
    axis = place.axis % len(before)
    seen = place.seen or tensor
    if node.op == "Transpose":
        perm = list(node.attrs.get("perm", range(len(before))[::-1]))
        return _Place(perm.index(axis), place.inner, seen)
    moved = _reduced(node, before, axis) if node.op in _REDUCTIONS else _reshaped(before, after, axis)
    return None if moved is None else _Place(moved[0], place.inner * moved[1], seen)


def _reduced(node: Node, before: Sequence[int], axis: int) -> tuple[int, int] | None:
    """The axis behind a reduction over other axes."""
    axes = node.attrs.get("axes")
    if axes is None and len(node.inputs) > 1 and not node.inputs[1].is_empty():
        axes = constant_value(node.inputs[1])
    gone = set() if axes is None else {int(a) % len(before) for a in axes}
    if not gone or axis in gone:
        return None
    return (axis if node.attrs.get("keepdims", 1) else axis - sum(a < axis for a in gone)), 1


def _reshaped(before: Sequence[int], after: Sequence[int], axis: int) -> tuple[int, int] | None:
    """The axis behind a reshape that keeps the axes in front, or the last axis; and positions of a channel on it."""
    if before[:axis] == after[:axis] and len(after) > axis:
        for end in range(axis + 1, len(before) + 1):
            inner = int(np.prod(before[axis + 1 : end], dtype=np.int64))
            if before[axis] * inner == after[axis]:
                return axis, inner
    last = axis == len(before) - 1 and before[axis] == after[-1]
    return (len(after) - 1, 1) if last else None


def _reader(node: Node, tensor: Tensor, place: _Place, around: _Surroundings) -> Fold | None:
    if node.op not in ("Conv", "Gemm", "MatMul") or node.inputs[0] is not tensor:
        return None
    value = _constant(node.inputs[1])
    if value is None or sum(t is tensor for t in node.inputs) > 1:
        return None
    if node.op == "Conv":
        fits = place.axis == 1 and place.inner == 1
        return Fold(node, 1, 1, int(node.attrs.get("group", 1)), False, seen=place.seen) if fits else None
    if value.ndim != 2 or node.attrs.get("transA", 0):
        return None
    if place.axis != -1 and place.axis != (1 if node.op == "Gemm" else around.rank(tensor) - 1):
        return None
    axis = 1 if node.attrs.get("transB", 0) else 0
    fits = value.shape[axis] % place.inner == 0
    return Fold(node, 1, axis, 1, False, inner=place.inner, seen=place.seen) if fits else None


def _width(fold: Fold) -> int:
    return int(fold.value.shape[fold.axis]) * fold.groups // fold.inner
