"""Rows of a layer's linear system: what one output position of a layer reads (im2col), and what it gives."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from graphopt.analysis.statistics.samples import positions
from graphopt.ir import Array


class Patches(Protocol):
    """How to cut samples into rows of features. Hashable; its ``repr`` says everything about it."""

    @property
    def batch_axis(self) -> int:
        """The tensor's axis that counts samples."""
        ...

    def blocks(self, samples: Array, ids: Array) -> Iterator[tuple[Array, Array]]:
        """(indices into ``ids``, rows [samples, positions, groups, features]) for samples [count, ...]."""
        ...

    def gram_elements(self, shape: tuple[int, ...]) -> int:
        """groups * features * features, for a tensor of that shape."""
        ...


@dataclass(frozen=True)
class Channels:
    """The channels on ``axis`` at each position: inputs of MatMul and Gemm (axis -1), outputs of Conv (axis 1).

    ``axis`` counts from the end or with the batch axis. ``groups`` splits the channels into equal groups. At most
    ``limit`` positions a sample are used.
    """

    axis: int = -1
    groups: int = 1
    limit: int | None = None
    batch_axis: int = 0

    def blocks(self, samples: Array, ids: Array) -> Iterator[tuple[Array, Array]]:
        """See ``Patches``. A merged batch (rank one higher than in the graph) needs a negative axis."""
        moved = np.moveaxis(samples, self.axis, -1)
        channels = moved.shape[-1]
        flat = moved.reshape(len(samples), -1, channels)
        for chosen, where in positions(flat.shape[1], self.limit, ids):
            rows = flat[chosen] if where is None else flat[chosen][:, where]
            yield chosen, rows.reshape(len(chosen), -1, self.groups, channels // self.groups)

    def gram_elements(self, shape: tuple[int, ...]) -> int:
        """See ``Patches``."""
        return shape[self.axis] ** 2 // self.groups if shape else 1


@dataclass(frozen=True)
class Directions:
    """Hidden states of a recurrent node, [time, directions, batch, hidden] (or batch first): a group a direction."""

    directions: int
    limit: int | None = None
    batch_axis: int = 2

    def blocks(self, samples: Array, ids: Array) -> Iterator[tuple[Array, Array]]:
        """See ``Patches``; a position is a time step."""
        for chosen, where in positions(samples.shape[1], self.limit, ids):
            yield chosen, samples[chosen] if where is None else samples[chosen][:, where]

    def gram_elements(self, shape: tuple[int, ...]) -> int:
        """See ``Patches``."""
        return self.directions * shape[-1] ** 2


@dataclass(frozen=True)
class Window:
    """What each output position of a convolution reads (im2col), features ordered channel, kernel position.

    ``pads`` are begins then ends, as in ONNX; ``auto_pad`` SAME_UPPER, SAME_LOWER and VALID are resolved from the
    input. ``stuffing`` puts zeros between the inputs first, which makes a ConvTranspose of that stride a
    convolution (with the kernel flipped, pads dilation * (kernel - 1) - pad, and stride 1).
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    groups: int = 1
    auto_pad: str = "NOTSET"
    stuffing: tuple[int, ...] = ()
    limit: int | None = None
    batch_axis: int = 0

    def blocks(self, samples: Array, ids: Array) -> Iterator[tuple[Array, Array]]:
        """See ``Patches``. Of a merged batch [count, merged, ...] every member gives positions of its sample."""
        spatial = len(self.kernel)
        merged = samples.shape[1] if samples.ndim == spatial + 3 else 1
        stuffed = self._stuffed(samples.reshape(-1, *samples.shape[-spatial - 1 :]))
        pads = self.resolved_pads(stuffed.shape[2:])
        padded = np.pad(stuffed, [(0, 0), (0, 0), *((pads[i], pads[i + spatial]) for i in range(spatial))])
        base, offsets = self._indices(padded.shape[2:])
        size = math.prod(padded.shape[2:])
        base = (np.arange(merged)[:, None] * size + base).reshape(-1)
        members = padded.reshape(len(samples), merged, padded.shape[1], size)
        flat = members.swapaxes(1, 2).reshape(len(samples), padded.shape[1], -1)
        for chosen, where in positions(len(base), self.limit, ids):
            index = (base if where is None else base[where])[:, None] + offsets
            taken = np.take(flat[chosen], index.reshape(-1), axis=2)
            count, channels = taken.shape[:2]
            rows = taken.reshape(count, channels, len(index), len(offsets)).transpose(0, 2, 1, 3)
            yield chosen, rows.reshape(count, len(index), self.groups, -1)

    def gram_elements(self, shape: tuple[int, ...]) -> int:
        """See ``Patches``."""
        return (shape[1] * math.prod(self.kernel)) ** 2 // self.groups

    def resolved_pads(self, extents: tuple[int, ...]) -> tuple[int, ...]:
        """Begins and ends of the padding for an input of these spatial extents."""
        if self.auto_pad in ("NOTSET", ""):
            return self.pads
        if self.auto_pad == "VALID":
            return (0,) * (2 * len(self.kernel))
        totals = [
            max(0, (-(-extent // stride) - 1) * stride + dilation * (size - 1) + 1 - extent)
            for extent, size, stride, dilation in zip(extents, self.kernel, self.strides, self.dilations, strict=True)
        ]
        small = [t // 2 for t in totals]
        large = [t - t // 2 for t in totals]
        return tuple(small + large if self.auto_pad == "SAME_UPPER" else large + small)

    def _stuffed(self, samples: Array) -> Array:
        if not self.stuffing or all(s == 1 for s in self.stuffing):
            return samples
        extents = [(n - 1) * s + 1 for n, s in zip(samples.shape[2:], self.stuffing, strict=True)]
        stuffed = np.zeros((*samples.shape[:2], *extents), samples.dtype)
        steps = tuple(slice(None, None, s) for s in self.stuffing)
        stuffed[(slice(None), slice(None), *steps)] = samples
        return stuffed

    def _indices(self, extents: tuple[int, ...]) -> tuple[Array, Array]:
        """Flat index of each output position's first element, and the kernel's offsets from it."""
        steps = [math.prod(extents[i + 1 :]) for i in range(len(extents))]
        counts = [
            max(0, (n - d * (k - 1) - 1) // s + 1)
            for n, d, k, s in zip(extents, self.dilations, self.kernel, self.strides, strict=True)
        ]
        base = _grid(counts, [s * step for s, step in zip(self.strides, steps, strict=True)])
        offsets = _grid(self.kernel, [d * step for d, step in zip(self.dilations, steps, strict=True)])
        return base, offsets


def _grid(counts: list[int] | tuple[int, ...], steps: list[int]) -> Array:
    points = itertools.product(*(range(0, c * s, s) if c else range(0) for c, s in zip(counts, steps, strict=True)))
    return np.array([sum(p) for p in points], np.int64)
