"""Evens out the ranges of channels before quantization, without changing what the model computes.

Where a tensor is made with constants that scale its channels (a convolution, a matrix product, a normalization) and
only read by layers with constant weights, channel c can be divided by ``s[c]`` on one side and the weights multiplied
by ``s[c]`` on the other. Between convolutions that is cross-layer equalization (Nagel et al. 2019, "Data-free
quantization through weight equalization and bias correction"); with the scale in a normalization it is SmoothQuant
(Xiao et al. 2022). Relu, LeakyRelu, PRelu and pooling let the factors through; Clip (ReLU6) does not, since its bound
is one for all channels.

The factors are ``range[c]^a / weight[c]^(1-a)``; ``a`` is the one with the least noise by a model of both roundings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.analysis.statistics import ChannelMoments, ChannelMomentsAccumulator, Request, collect
from graphopt.data.feeds import Dataset
from graphopt.graph import Graph
from graphopt.ir import Array, Node, Tensor, constant_value, is_constant
from graphopt.model import Model

_POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool"})
_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "PRelu", "Identity"})
_ELEMENTWISE = frozenset({"Add", "Mul", "Div"})
_GELU_DEPTH = 5
_MIXTURES = np.linspace(0.0, 1.0, 11)
_SPREAD = 2.0**10
_SMOOTH = "_smooth"
_STEPS = 255


@dataclass(frozen=True)
class Fold:
    """A constant that takes up the factors: input ``position`` of ``node``, along ``axis`` of the constant.

    ``groups``: of a convolution whose weight's axis 1 counts the channels of one group only. ``divides``: the constant
    is divided by the factors instead of multiplied. ``behind``: axes of the tensor behind its channels, for the
    constant of an elementwise operator, which may be one value for all channels.
    """

    node: Node
    position: int
    axis: int
    groups: int
    divides: bool
    behind: int | None = None

    @property
    def value(self) -> Array:
        """The constant, float32."""
        found = constant_value(self.node.inputs[self.position])
        assert found is not None
        return found

    def spread(self, factors: Array) -> Array:
        """The factors, shaped to broadcast against the constant."""
        value = self.value
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

    Without ``sources`` a Mul in front of the readers does the division.
    """

    tensor: Tensor
    axis: int
    channels: int
    sources: tuple[Fold, ...]
    readers: tuple[Fold, ...]

    @property
    def read(self) -> Tensor:
        """The tensor as its first reader sees it, behind the activation."""
        return self.readers[0].node.inputs[0]


def find_links(graph: Graph) -> list[Link]:
    """All links of the main graph, in its order."""
    ends = {id(t) for g in graph.graphs() for t in g.outputs}
    members = {id(n) for n in graph.nodes}
    found: list[Link] = []
    for node in graph.nodes:
        for axis in _channel_axes(node):
            link = _link(node, axis, ends, members)
            if link is not None:
                found.append(link)
    return found


def _link(node: Node, axis: int, ends: set[int], members: set[int]) -> Link | None:
    tensor = node.outputs[0]
    readers = list(_readers(tensor, axis, ends, members))
    known = [r for r in readers if r is not None]
    widths = {_width(r) for r in known}
    if len(known) != len(readers) or len(widths) != 1:
        return None
    width = widths.pop()
    behind = known[0].value.ndim - 2 if axis == 1 else 0
    sources = _sources(node, axis, behind, ends)
    if not sources or not all(_makes(s, width) for s in sources):
        return None
    return Link(tensor, axis, width, tuple(sources), tuple(known))


def find_smoothable(graph: Graph, links: Sequence[Link]) -> list[Link]:
    """Inputs of matrix products with constant weights that no constant in front of them can rescale."""
    taken = {id(r.node) for la in links for r in la.readers}
    readers: dict[int, tuple[Tensor, list[Fold]]] = {}
    for node in graph.nodes:
        if node.op in ("Gemm", "MatMul") and not node.domain and id(node) not in taken:
            tensor = node.inputs[0]
            fold = None if is_constant(tensor) else _reader(node, tensor, -1)
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


def _readers(tensor: Tensor, axis: int, ends: set[int], members: set[int]) -> Iterator[Fold | None]:
    """The weights that read ``tensor``, directly or behind what lets factors through; None for any other reader."""
    if id(tensor) in ends:
        yield None
    for node in tensor.outputs:
        if id(node) not in members or node.domain:
            yield None
        elif _passes_on(node, tensor, axis):
            yield from _readers(node.outputs[0], axis, ends, members)
        else:
            yield _reader(node, tensor, axis)


def _passes_on(node: Node, tensor: Tensor, axis: int) -> bool:
    known = node.op in _HOMOGENEOUS or (node.op in _POOLS and axis == 1)
    return known and node.inputs[0] is tensor and len(node.outputs) == 1


def _reader(node: Node, tensor: Tensor, axis: int) -> Fold | None:
    if node.op not in ("Conv", "Gemm", "MatMul") or node.inputs[0] is not tensor:
        return None
    value = _constant(node.inputs[1])
    if value is None or sum(t is tensor for t in node.inputs) > 1 or (node.op == "Conv") != (axis == 1):
        return None
    if node.op == "Conv":
        return Fold(node, 1, 1, int(node.attrs.get("group", 1)), False)
    if value.ndim != 2 or node.attrs.get("transA", 0):
        return None
    return Fold(node, 1, 1 if node.attrs.get("transB", 0) else 0, 1, False)


def _width(fold: Fold) -> int:
    return int(fold.value.shape[fold.axis]) * fold.groups


def equalize(graph: Graph, link: Link, factors: Array) -> None:
    """Divide the channels of the link's tensor by ``factors`` [channels] and multiply the weights that read it.

    Constants that other nodes read too are copied first.
    """
    if not link.sources:
        smooth = graph.new_constant(f"{link.tensor.name}_factors", (1.0 / factors).astype(np.float32))
        divided = graph.add_node("Mul", [link.tensor, smooth], name=link.tensor.name + _SMOOTH).outputs[0]
        for fold in link.readers:
            fold.node.inputs[0] = divided
    for fold in (*link.sources, *link.readers):
        scale = fold.spread(1.0 / factors if fold.divides else factors)
        changed = (fold.value.astype(np.float64) * scale).astype(np.float32)
        name = fold.node.inputs[fold.position].name
        fold.node.inputs[fold.position] = graph.new_constant(f"{name}_equalized", changed)


@dataclass(frozen=True)
class Evening:
    """The factors for a link, and by how much the model of the noise expects it to fall (1: not at all)."""

    link: Link
    factors: Array
    gain: float


def plan_equalization(
    model: Model,
    data: Dataset,
    links: Sequence[Link],
    batch: int | None = None,
    max_memory: int = 1 << 30,
    known: Mapping[str, ChannelMomentsAccumulator] | None = None,
) -> list[Evening]:
    """Factors for the links where the model of the noise expects a gain, the largest gain first.

    ``known``: moments of tensors, on the links' axes, that need not be collected again.
    """
    have = dict(known or {})
    requests = {
        la.read.name: Request.of(la.read.name, ChannelMoments(la.axis)) for la in links if la.read.name not in have
    }
    if requests:
        stats = collect(model, data, requests.values(), batch=batch, max_memory=max_memory)
        have |= {n: stats.typed(r, ChannelMomentsAccumulator) for n, r in requests.items()}
    found = []
    for link in links:
        moments = have[link.read.name]
        if len(moments.mean) == link.channels:
            factors, gain = choose_factors(link, moments)
            found += [Evening(link, factors, gain)] if gain > 1 else []
    return sorted(found, key=lambda e: -e.gain)


def choose_factors(link: Link, moments: ChannelMomentsAccumulator) -> tuple[Array, float]:
    """Factors of the least expected noise at the outputs of the link's readers, and old noise over new."""
    extent = np.maximum(np.maximum(moments.maximum, 0) - np.minimum(moments.minimum, 0), 0)
    weight = np.max([_largest(r, link.channels) for r in link.readers], axis=0)
    alive = (extent > 0) & (weight > 0)
    factors = np.ones(link.channels)
    before = best = expected_noise(link, moments, factors)
    if alive.sum() < 2:
        return factors, 1.0
    for mixture in _MIXTURES:
        tried = np.ones(link.channels)
        tried[alive] = extent[alive] ** mixture / weight[alive] ** (1 - mixture)
        tried[alive] /= np.exp(np.log(tried[alive]).mean())
        tried = np.clip(tried, 1 / _SPREAD, _SPREAD)
        noise = expected_noise(link, moments, tried)
        if noise < best:
            best, factors = noise, tried
    return factors, before / max(best, 1e-300)


def expected_noise(link: Link, moments: ChannelMomentsAccumulator, factors: Array) -> float:
    """Noise energy at the readers' outputs as a share of theirs: of the tensor rounded to 8 bits with one scale, and of
    the weights rounded with a scale for each output channel. What rounded weights make of the mean goes into biases.
    """
    low = np.minimum(moments.minimum / factors, 0).min()
    high = np.maximum(moments.maximum / factors, 0).max()
    step = (high - low) / _STEPS
    total = 0.0
    for reader in link.readers:
        weight, channel = _rows(reader)
        scaled = weight * factors[channel][:, :, None]
        energy = (moments.variance / factors**2)[channel]
        signal = float((np.square(scaled).sum(axis=2) * energy).sum())
        largest = np.abs(scaled).max(axis=(1, 2), initial=0.0) * 2 / _STEPS
        rounding = float((np.square(largest)[:, None] * energy).sum()) * weight.shape[2]
        total += (float(np.square(scaled).sum()) * step**2 + rounding) / 12 / max(signal, 1e-30)
    return total


def _rows(fold: Fold) -> tuple[Array, Array]:
    """A reader's weight as [outputs, inputs of the group, kernel], and which channel each input is."""
    value = fold.value.astype(np.float64)
    if fold.axis == 0:
        value = value.T
    rows = value.reshape(*value.shape[:2], -1)
    group = np.arange(len(rows)) // (len(rows) // fold.groups)
    return rows, group[:, None] * rows.shape[1] + np.arange(rows.shape[1])


def _largest(fold: Fold, channels: int) -> Array:
    """Largest magnitude of the weights that read each channel."""
    rows, channel = _rows(fold)
    found = np.zeros(channels)
    np.maximum.at(found, channel, np.abs(rows).max(axis=2, initial=0.0))
    return found


def equalized(model: Model, evenings: Sequence[Evening]) -> Model:
    """A copy of ``model`` in which ``evenings``, made for it, are carried out."""
    clone = model.clone()
    wanted = {_key(e.link): e.factors for e in evenings}
    links = find_links(clone.graph)
    for link in [*links, *find_smoothable(clone.graph, [])]:
        if _key(link) in wanted:
            equalize(clone.graph, link, wanted[_key(link)])
    clone.graph.sort()
    clone.graph.remove_dead()
    return clone


def smoothing_nodes(graph: Graph, evenings: Sequence[Evening]) -> list[Node]:
    """The Muls that ``equalized`` put in."""
    wanted = {e.link.tensor.name for e in evenings if not e.link.sources}
    prefixes = tuple(w + _SMOOTH for w in wanted)
    return [n for n in graph.nodes if n.op == "Mul" and n.name.startswith(prefixes)]


def changed_tensors(link: Link) -> set[str]:
    """Names of the tensors whose channels are rescaled."""
    names = {t.name for f in link.sources for t in f.node.outputs}
    for reader in link.readers:
        tensor = reader.node.inputs[0]
        while tensor is not link.tensor:
            names.add(tensor.name)
            tensor = tensor.inputs[0].inputs[0]
    return names


def _key(link: Link) -> tuple[str, bool]:
    """The same for the same link of a clone."""
    return link.tensor.name, bool(link.sources)
