"""How often each channel is exactly zero, as after a ReLU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.analysis.statistics.accumulators import StateMixin
from graphopt.analysis.statistics.samples import Rows
from graphopt.ir import Array


@dataclass(frozen=True)
class ChannelZeros:
    """Share of zeros of every channel on ``axis``, which counts with the batch axis; negative ones from the end."""

    axis: int = 1

    def create(self) -> ChannelZerosAccumulator:
        """A new accumulator."""
        return ChannelZerosAccumulator(self.axis)

    def memory(self, shapes: tuple[tuple[int, ...], ...]) -> int:
        """One float64 a channel."""
        return 8 * shapes[0][self.axis] if shapes[0] else 8


class ChannelZerosAccumulator(StateMixin):
    """``zeros``, float64 over the channels, among ``count`` values each."""

    _fields = ("count", "zeros")

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.count = 0
        self.zeros: Any = None

    @property
    def share(self) -> Array:
        """Share of zeros of each channel, 0 to 1."""
        return np.asarray(self.zeros / max(self.count, 1))

    def update(self, arrays: tuple[Array, ...], rows: Rows) -> None:
        """See ``Accumulator``."""
        array = arrays[0]
        values = rows.samples(array)
        axis = self.axis % array.ndim - array.ndim
        rest = tuple(i for i in range(-values.ndim, 0) if i != axis)
        if values.size:
            self._add(values.size // values.shape[axis], (values == 0).sum(axis=rest, dtype=np.float64))

    def merge(self, other: ChannelZerosAccumulator) -> None:
        """See ``Accumulator``."""
        if other.count:
            self._add(other.count, other.zeros)

    def _add(self, count: int, zeros: Array) -> None:
        self.count += count
        self.zeros = zeros if self.zeros is None else self.zeros + zeros
