"""Joint fits of a layer and those in front of it, for what the last one gives.

A narrowed layer need not give what the reference's channels gave: its outputs only serve the next layer. Here a chain
of layers with activations between them is fitted as a whole to the reference's output of the last one. Each
round linearises the chain (Gauss-Newton) and moves every layer's weights by a least squares solution,

    d_i = (X_i^T X_i)^-1 (X_i^T G_i) S_i^-1,

with X_i what the layer reads, G_i the error at the chain's end carried back to the layer's outputs, and S_i how those
outputs act on the end: the Kronecker-factored Gauss-Newton step (Martens and Grosse 2015), for a block of layers as in
block reconstruction (Li et al. 2021, BRECQ), on a few hundred unlabelled samples. The step's length minimises the error
along it. Held-back samples decide when to stop, and whether the chain keeps its new weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.analysis.statistics import Channels, Window
from graphopt.ir import Array
from graphopt.transforms.recover.definite import Factor, definite_factor
from graphopt.transforms.recover.plan import Job
from graphopt.transforms.recover.responses import Response

_ROUNDS = 12
_PATIENCE = 3
_LEAST_GAIN = 1e-3
_HALVINGS = 3
_NEAR = 0.15
_DAMPING = 1e-2
_LONGEST = 3
_NEGLIGIBLE = 1e-5
_GRAM_ROWS = 64


@dataclass(frozen=True)
class Link:
    """A layer of a chain: its job, and what follows it."""

    job: Job
    response: Response | None


@dataclass(frozen=True)
class Maps:
    """Whole maps of some samples, channels last: the chain's input, its targets, and what is added to its output."""

    inputs: Array
    targets: Array
    other: Array | None

    def part(self, mask: Array) -> Maps:
        """Some of the samples."""
        return Maps(self.inputs[mask], self.targets[mask], None if self.other is None else self.other[mask])


def chain_of(job: Job, jobs: Sequence[Job]) -> list[Job]:
    """The jobs of the chain that ends in ``job``, first one first; empty when there is none.

    Layers with an activation in between that only the next one reads; it begins at the nearest that mixes channels.
    """
    by_end = {id(j.response.end): j for j in jobs if j.response is not None and j.other is None}
    chain = [job]
    while len(chain) < _LONGEST and _plain(chain[0]):
        source = chain[0].layer.data
        before = by_end.get(id(source)) if len(source.outputs) == 1 else None
        if before is None or not _plain(before):
            break
        chain.insert(0, before)
        if len(before.layer.matrix()) == 1:
            return chain
    return []


def _plain(job: Job) -> bool:
    """Whether the layer is a product of the last axis, or an ordinary or depthwise convolution."""
    window, groups = job.layer.patches, len(job.layer.matrix())
    if isinstance(window, Channels):
        return window.axis == -1 and window.batch_axis == 0 and not job.layer.inner and not job.narrow and groups == 1
    if not isinstance(window, Window) or window.stuffing or window.auto_pad not in ("NOTSET", "", "VALID"):
        return False
    return job.layer.node.op == "Conv" and (groups == 1 or job.layer.matrix().shape[2] * groups == groups)


@dataclass(frozen=True)
class Improved:
    """Matrices of each layer, and the relative squared error on held-back samples."""

    matrices: tuple[Array, ...]
    before: float
    after: float


def improve(chain: Sequence[Link], fit: Maps, held: Maps) -> Improved:
    """Fit the layers of a chain together; their matrices as they were when nothing helps."""
    links = [_Conv(link) for link in chain]
    weights = [c.start for c in links]
    energy = _energy(held, chain[-1].response)
    before = after = _loss(links, weights, held) / energy
    best, since = weights, 0
    run = _forward(links, weights, fit)
    for _ in range(_ROUNDS if before > _NEGLIGIBLE else 0):
        moved = _round(links, weights, fit, run)
        if moved is None:
            break
        weights, run = moved
        error = _loss(links, weights, held) / energy
        if error < after * (1 - _LEAST_GAIN):
            best, after, since = weights, error, 0
        elif (since := since + 1) >= _PATIENCE:
            break
    return Improved(tuple(c.matrix(w) for c, w in zip(links, best, strict=True)), before, after)


def _round(links: list[_Conv], weights: list[Array], maps: Maps, run: _Run) -> tuple[list[Array], _Run] | None:
    """One step for all layers, with the run it leads to; None when no length of it helps."""
    steps = _steps(links, weights, run)
    length = 1.0
    trial = _forward(links, _along(weights, steps, length), maps)
    change = run.error - trial.error
    size = float(np.vdot(change, change))
    best = float(np.clip(np.vdot(run.error, change) / size, 0.0, 2.0)) if size > 0 else length
    if abs(best - length) > _NEAR or trial.loss >= run.loss:
        length = best
        trial = _forward(links, _along(weights, steps, length), maps)
    for _ in range(_HALVINGS):
        if trial.loss < run.loss:
            return _along(weights, steps, length), trial
        length /= 2
        trial = _forward(links, _along(weights, steps, length), maps)
    return None


def _steps(links: list[_Conv], weights: list[Array], run: _Run) -> list[Array]:
    """The full least squares step of every layer."""
    steps: list[Array] = [np.zeros(0)] * len(links)
    pull, effect = run.error, np.eye(weights[-1].shape[-1])
    for index in range(len(links) - 1, -1, -1):
        conv, values = links[index], run.states[index][0]
        steps[index] = conv.step(values, pull, effect)
        if index:
            slope = _slope(links[index - 1].response, run.states[index - 1][1])
            pull = conv.back(pull, weights[index], values.shape) * slope
            effect = conv.effect(weights[index], effect) * _together(slope)
    return steps


def _along(weights: list[Array], steps: list[Array], length: float) -> list[Array]:
    return [w + np.float32(length) * s for w, s in zip(weights, steps, strict=True)]


@dataclass(frozen=True)
class _Run:
    """(Input, output in front of the activation) of each layer, and what is missing at the chain's end."""

    states: list[tuple[Array, Array]]
    error: Array

    @property
    def loss(self) -> float:
        """Sum of squares of what is missing."""
        return float(np.vdot(self.error, self.error))


def _forward(links: list[_Conv], weights: list[Array], maps: Maps) -> _Run:
    values = maps.inputs
    states = []
    for conv, weight in zip(links, weights, strict=True):
        before = conv.run(values, weight)
        states.append((values, before))
        values = before if conv.response is None else conv.response.apply(before)
    last = links[-1].response
    end = states[-1][1] if maps.other is None else states[-1][1] + maps.other
    if last is None:
        return _Run(states, maps.targets - end)
    return _Run(states, np.asarray(last.apply(maps.targets) - last.apply(end)))


def _loss(links: list[_Conv], weights: list[Array], maps: Maps) -> float:
    return _forward(links, weights, maps).loss


def _energy(maps: Maps, response: Response | None) -> float:
    values = maps.targets if response is None else response.apply(maps.targets)
    flat = values.reshape(-1, values.shape[-1])
    return max(float(np.square(flat - flat.mean(axis=0)).sum(dtype=np.float64)), 1e-30)


def _slope(response: Response | None, values: Array) -> Array:
    """Slope of the activation, by a difference."""
    if response is None:
        return np.ones((), np.float32)
    reach = np.float32(1e-3)
    return np.asarray((response.apply(values + reach) - response.apply(values - reach)) / (2 * reach))


def _together(slope: Array) -> Array:
    """How often two channels have a slope at the same time, [c, c]."""
    if not slope.ndim:
        return np.ones((1, 1))
    flat = slope.reshape(-1, slope.shape[-1])
    return np.asarray(flat.T @ flat, np.float64) / len(flat)


class _Conv:
    """A layer on maps with channels last: a convolution over the axes in between.

    Weights are float32 [taps + 1, c, m]; the last tap is the bias.

    Depthwise: [taps + 1, 1, c].
    """

    def __init__(self, link: Link) -> None:
        layer = link.job.layer
        self.window = layer.patches if isinstance(layer.patches, Window) else _POINT
        self.response = link.response
        matrix = layer.matrix()
        self.groups = len(matrix)
        self.taps = list(itertools.product(*(range(k) for k in self.window.kernel)))
        self.channels = (matrix.shape[1] - 1) // len(self.taps)
        self.start = self._weights(matrix)
        self._factors: list[Factor] | None = None

    def _weights(self, matrix: Array) -> Array:
        groups, _, outputs = matrix.shape
        inner = matrix[:, :-1].reshape(groups, self.channels, len(self.taps), outputs)
        bias = np.zeros((groups, self.channels, 1, outputs))
        bias[:, 0, 0] = matrix[:, -1]
        weights = np.concatenate([inner, bias], axis=2)
        weights = weights[0].swapaxes(0, 1) if groups == 1 else weights[:, 0, :, 0].T[:, None]
        return np.ascontiguousarray(weights, np.float32)

    def matrix(self, weights: Array) -> Array:
        """As ``Layer.matrix``."""
        wide = weights.astype(np.float64)
        if self.groups > 1:
            return np.ascontiguousarray(wide[:, 0].T[:, :, None])
        inner = wide[:-1].swapaxes(0, 1).reshape(-1, wide.shape[2])
        return np.concatenate([inner, wide[-1, :1]])[None]

    def run(self, values: Array, weights: Array) -> Array:
        """Outputs in front of the activation."""
        total: Any = weights[-1, 0]
        for weight, part in zip(weights[:-1], self._parts(values), strict=True):
            if self.groups == 1:
                product = part.reshape(-1, part.shape[-1]) @ weight
                total = total + product.reshape(*part.shape[:-1], -1)
            else:
                total = total + part * weight[0]
        return np.asarray(total)

    def back(self, pull: Array, weights: Array, shape: tuple[int, ...]) -> Array:
        """What an error at the outputs asks of the inputs."""
        padded = np.zeros(self._padded_shape(shape), np.float32)
        flat = pull.reshape(-1, pull.shape[-1])
        for weight, place in zip(weights[:-1], self._places(shape), strict=True):
            padded[place] += (
                (flat @ weight.T).reshape(*pull.shape[:-1], -1) if self.groups == 1 else pull * weight[0]
            )
        return padded[self._inside(shape)]

    def effect(self, weights: Array, effect: Array) -> Array:
        """How inputs act on the chain's end, [c, c], when outputs act on it by ``effect`` [m, m]."""
        wide = weights[:-1].astype(np.float64)
        if self.groups == 1:
            return np.asarray(np.einsum("kcm,mn,kdn->cd", wide, effect, wide))
        return np.asarray(np.einsum("kc,cd,kd->cd", wide[:, 0], effect, wide[:, 0]))

    def step(self, values: Array, pull: Array, effect: Array) -> Array:
        """The least squares move of the weights."""
        import scipy.linalg

        rows = pull.size // pull.shape[-1]
        flat = pull.reshape(rows, -1)
        parts = [part.reshape(rows, -1) for part in self._parts(values)]
        size = effect + _DAMPING * max(float(np.trace(effect)) / len(effect), 1e-12) * np.eye(len(effect))
        if self._factors is None:
            self._factors = [_factor(gram) for gram in self._grams(parts)]
        if self.groups > 1:
            grads = np.stack([*[(p * flat).sum(axis=0, dtype=np.float64) for p in parts], flat.sum(axis=0)]) / rows
            found = [scipy.linalg.cho_solve(f, grads[:, g]) for g, f in enumerate(self._factors)]
            return np.asarray(np.stack(found, axis=1)[:, None] / np.diag(size), np.float32)
        grads = np.stack([p.T @ flat for p in parts]).swapaxes(0, 1).reshape(-1, flat.shape[1])
        grads = np.concatenate([grads, flat.sum(axis=0, keepdims=True)]).astype(np.float64) / rows
        moved = scipy.linalg.cho_solve(self._factors[0], grads)
        moved = np.linalg.solve(size, moved.T).T
        return self._weights(moved[None])

    def _grams(self, parts: list[Array]) -> Array:
        """Gram matrix of what the layer reads, for each row: [groups, n + 1, n + 1]."""
        size = self.channels * len(parts)
        stride = max(1, len(parts[0]) // (_GRAM_ROWS * (1 if self.groups > 1 else size)))
        rows = np.stack([p[::stride] for p in parts], axis=2)
        if self.groups > 1:
            rows = np.concatenate([rows, np.ones_like(rows[:, :, :1])], axis=2)
            return np.asarray(np.einsum("rgk,rgl->gkl", rows, rows) / len(rows), np.float64)
        rows = np.concatenate([rows.reshape(len(rows), -1), np.ones((len(rows), 1), np.float32)], axis=1)
        return np.asarray(rows.T @ rows / len(rows), np.float64)[None]

    def _parts(self, values: Array) -> list[Array]:
        """What each tap of the kernel reads, for every output position."""
        if not self.window.kernel:
            return [values]
        begins, ends = self._pads()
        padded = np.pad(values, [(0, 0), *zip(begins, ends, strict=True), (0, 0)])
        return [padded[place] for place in self._places(values.shape)]

    def _places(self, shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
        window: Window = self.window
        places: list[tuple[slice, ...]] = [] if window.kernel else [(slice(None),)]
        for tap in self.taps if window.kernel else ():
            cuts = [slice(None)]
            extents = self._padded_shape(shape)[1:-1]
            axes = zip(tap, extents, window.kernel, window.strides, window.dilations, strict=True)
            for place, size, kernel, stride, dilation in axes:
                count = (size - dilation * (kernel - 1) - 1) // stride + 1
                cuts.append(slice(place * dilation, place * dilation + (count - 1) * stride + 1, stride))
            places.append(tuple(cuts))
        return places

    def _pads(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        spatial = len(self.window.kernel)
        pads = (0,) * (2 * spatial) if self.window.auto_pad == "VALID" else self.window.pads
        return tuple(pads[:spatial]), tuple(pads[spatial:])

    def _padded_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if not self.window.kernel:
            return shape
        begins, ends = self._pads()
        return (shape[0], *(n + a + b for n, a, b in zip(shape[1:-1], begins, ends, strict=True)), shape[-1])

    def _inside(self, shape: tuple[int, ...]) -> tuple[slice, ...]:
        if not self.window.kernel:
            return (slice(None),)
        return (slice(None), *(slice(a, a + n) for n, a in zip(shape[1:-1], self._pads()[0], strict=True)))


_POINT = Window((), (), (), ())


def _factor(gram: Array) -> Factor:
    size = len(gram) - 1
    strength = _DAMPING * max(float(np.trace(gram[:-1, :-1])) / max(size, 1), 1e-12)
    return definite_factor(gram + np.diag([*[strength] * size, 1e-6]))
