"""Evens out the ranges of channels before quantization, without changing what the model computes.

Where a tensor is made with constants that scale its channels (a convolution, a matrix product, a normalization) and
only read by layers with constant weights, channel c can be divided by ``s[c]`` on one side and the weights multiplied
by ``s[c]`` on the other. Between convolutions that is cross-layer equalization (Nagel et al. 2019, "Data-free
quantization through weight equalization and bias correction"); with the scale in a normalization it is SmoothQuant
(Xiao et al. 2022). ``equalization_links`` says what lets the factors through.

The factors are ``range[c]^a / weight[c]^(1-a)``; ``a`` is the one with the least noise by a model of both roundings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.analysis.statistics import ChannelMoments, ChannelMomentsAccumulator, Request, collect
from graphopt.data.feeds import Dataset
from graphopt.graph import Graph
from graphopt.ir import Array, Node
from graphopt.model import Model
from graphopt.transforms.quantize.equalization_links import Fold, Link, find_links, find_smoothable

__all__ = [
    "Evening",
    "Link",
    "changed_tensors",
    "choose_factors",
    "equalize",
    "equalized",
    "find_links",
    "find_smoothable",
    "plan_equalization",
    "smoothing_nodes",
]

_MIXTURES = np.linspace(0.0, 1.0, 11)
_SPREAD = 2.0**10
_SMOOTH = "_smooth"
_STEPS = 255
_WORTH = 1.1
"""Expected noise before over after, under which held-back samples could not tell a gain from chance."""


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
    """Factors for the links where the model of the noise expects a gain worth it, the largest gain first.

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
            found += [Evening(link, factors, gain)] if gain >= _WORTH else []
    return sorted(found, key=lambda e: -e.gain)


def choose_factors(link: Link, moments: ChannelMomentsAccumulator) -> tuple[Array, float]:
    """Factors of the least expected noise at the outputs of the link's readers, and old noise over new."""
    readers = [_Reading.of(fold, moments.variance) for fold in link.readers]
    extent = np.maximum(np.maximum(moments.maximum, 0) - np.minimum(moments.minimum, 0), 0)
    weight = np.max([r.largest(link.channels) for r in readers], axis=0)
    alive = (extent > 0) & (weight > 0)
    fixed = alive & ~np.isfinite(link.least) if link.least is not None else np.zeros(link.channels, bool)
    factors = np.ones(link.channels)
    before = best = _expected_noise(readers, moments, factors)
    if alive.sum() < 2:
        return factors, 1.0
    for mixture in _MIXTURES:
        tried = np.ones(link.channels)
        tried[alive] = extent[alive] ** mixture / weight[alive] ** (1 - mixture)
        tried[alive] /= np.exp(np.log(tried[fixed if fixed.any() else alive]).mean())
        tried = np.clip(tried, 1 / _SPREAD, _SPREAD)
        if link.least is not None:
            tried = np.where(np.isfinite(link.least), np.maximum(tried, link.least), 1.0)
        noise = _expected_noise(readers, moments, tried)
        if noise < best:
            best, factors = noise, tried
    return factors, before / max(best, 1e-300)


@dataclass(frozen=True)
class _Reading:
    """What counts of a reader's weight, by group, output and input: the largest magnitude over the kernel.

    ``channels`` [groups, inputs] tells the channel of each input, ``squares`` [channels] has the energy of the weights
    that read each, ``kernel`` is the number of weights an input, and ``signal`` the energy of the reader's outputs,
    which factors do not change.
    """

    magnitude: Array
    channels: Array
    squares: Array
    kernel: int
    signal: float

    @staticmethod
    def of(fold: Fold, variance: Array) -> _Reading:
        value = np.abs(fold.value if fold.axis else fold.value.T)
        rows = value.reshape(*value.shape[:2], -1)
        groups, inputs = fold.groups, rows.shape[1]
        channels = (np.arange(groups)[:, None] * inputs + np.arange(inputs)) // fold.inner
        by_input = np.square(rows, dtype=np.float64).reshape(groups, -1, inputs, rows.shape[2]).sum(axis=(1, 3))
        squares = np.bincount(channels.reshape(-1), by_input.reshape(-1), len(variance))
        magnitude = rows.max(axis=2, initial=0.0).reshape(groups, -1, inputs)
        return _Reading(magnitude, channels, squares, rows.shape[2], float(squares @ variance))

    def largest(self, channels: int) -> Array:
        """Largest magnitude of the weights that read each channel."""
        found = np.zeros(channels)
        np.maximum.at(found, self.channels, self.magnitude.max(axis=1, initial=0.0))
        return found

    def rounding(self, energy: Array, factors: Array) -> float:
        """Energy of the noise that rounded weights make, for inputs of that ``energy``."""
        scaled = self.magnitude * factors[self.channels][:, None].astype(self.magnitude.dtype)
        steps = np.square(scaled.max(axis=2, initial=0.0) * 2 / _STEPS, dtype=np.float64).sum(axis=1)
        return float(steps @ energy[self.channels].sum(axis=1)) * self.kernel


def _expected_noise(readers: Sequence[_Reading], moments: ChannelMomentsAccumulator, factors: Array) -> float:
    """Noise energy at the readers' outputs as a share of theirs: of the tensor rounded to 8 bits with one scale, and of
    the weights rounded with a scale for each output channel. What rounded weights make of the mean goes into biases.
    """
    low = np.minimum(moments.minimum / factors, 0).min()
    high = np.maximum(moments.maximum / factors, 0).max()
    step = (high - low) / _STEPS
    total = 0.0
    for reader in readers:
        rounding = reader.rounding(moments.variance / factors**2, factors)
        total += (float(reader.squares @ factors**2) * step**2 + rounding) / 12 / max(reader.signal, 1e-30)
    return total


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
