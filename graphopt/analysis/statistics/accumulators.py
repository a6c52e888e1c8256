"""What can be accumulated over the values of one tensor: extremes, moments, moments per channel, energy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeAlias

import numpy as np

from graphopt.analysis.statistics.samples import Rows
from graphopt.ir import Array

State: TypeAlias = dict[str, Array]


class Accumulator(Protocol):
    """A statistic of a stream. ``merge`` of the accumulators of two shards gives that of both together."""

    def update(self, arrays: tuple[Array, ...], rows: Rows) -> None:
        """Take in one run: one array for each tensor of the request, batch axis included."""
        ...

    def merge(self, other: Self) -> None:
        """Take in what another accumulator of the same spec has seen."""
        ...

    def state(self) -> State:
        """Everything it holds, as arrays; empty when it has seen nothing."""
        ...

    def load(self, state: State) -> None:
        """Become what ``state`` says."""
        ...


class Spec(Protocol):
    """What to accumulate: hashable, and its ``repr`` says everything about it (it is part of the cache key)."""

    def create(self) -> Accumulator:
        """A new accumulator."""
        ...

    def memory(self, shapes: tuple[tuple[int, ...], ...]) -> int:
        """Upper estimate of the accumulator's bytes, given the shape of each tensor in one run."""
        ...


class StateMixin:
    """``state`` and ``load`` for accumulators whose attributes are arrays, numbers, or None."""

    _fields: tuple[str, ...] = ()

    def state(self) -> State:
        """The fields that hold something."""
        return {n: np.asarray(getattr(self, n)) for n in self._fields if getattr(self, n) is not None}

    def load(self, state: State) -> None:
        """Set the fields."""
        for name, value in state.items():
            setattr(self, name, value if value.ndim else value[()].item())


@dataclass(frozen=True)
class MinMax:
    """Smallest and largest value."""

    def create(self) -> MinMaxAccumulator:
        """A new accumulator."""
        return MinMaxAccumulator()

    def memory(self, shapes: tuple[tuple[int, ...], ...]) -> int:
        """Next to nothing."""
        return 64


class MinMaxAccumulator(StateMixin):
    """``minimum`` and ``maximum``; inf and -inf before anything was seen."""

    _fields = ("minimum", "maximum")

    def __init__(self) -> None:
        self.minimum = float("inf")
        self.maximum = float("-inf")

    def update(self, arrays: tuple[Array, ...], rows: Rows) -> None:
        """See ``Accumulator``."""
        values = rows.samples(arrays[0])
        if values.size:
            self.minimum = min(self.minimum, float(values.min()))
            self.maximum = max(self.maximum, float(values.max()))

    def merge(self, other: MinMaxAccumulator) -> None:
        """See ``Accumulator``."""
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)


@dataclass(frozen=True)
class Moments:
    """Mean and variance of all values, and their energy (mean of squares)."""

    def create(self) -> MomentsAccumulator:
        """A new accumulator."""
        return MomentsAccumulator()

    def memory(self, shapes: tuple[tuple[int, ...], ...]) -> int:
        """Next to nothing."""
        return 64


class MomentsAccumulator(StateMixin):
    """``count``, ``mean`` and ``spread`` (sum of squared deviations), float64."""

    _fields = ("count", "mean", "spread")

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self.spread = 0.0

    @property
    def variance(self) -> float:
        """Population variance."""
        return self.spread / self.count if self.count else 0.0

    @property
    def energy(self) -> float:
        """Mean of squares."""
        return self.variance + self.mean**2

    def update(self, arrays: tuple[Array, ...], rows: Rows) -> None:
        """See ``Accumulator``."""
        values = rows.samples(arrays[0])
        if values.size:
            mean = float(values.mean(dtype=np.float64))
            spread = float(np.square(values - values.dtype.type(mean)).sum(dtype=np.float64))
            self._add(values.size, mean, spread)

    def merge(self, other: MomentsAccumulator) -> None:
        """See ``Accumulator``."""
        self._add(other.count, other.mean, other.spread)

    def _add(self, count: int, mean: float, spread: float) -> None:
        total = self.count + count
        if total:
            delta = mean - self.mean
            self.spread += spread + delta**2 * self.count * count / total
            self.mean += delta * count / total
            self.count = total


@dataclass(frozen=True)
class ChannelMoments:
    """Mean, variance, extremes and energy of every channel on ``axis``.

    ``axis`` counts with the batch axis, as in the graph; negative ones count from the end.
    """

    axis: int = 1

    def create(self) -> ChannelMomentsAccumulator:
        """A new accumulator."""
        return ChannelMomentsAccumulator(self.axis)

    def memory(self, shapes: tuple[tuple[int, ...], ...]) -> int:
        """Five float64 a channel."""
        return 40 * shapes[0][self.axis] if shapes[0] else 40


class ChannelMomentsAccumulator(StateMixin):
    """Float64 vectors over the channels: ``mean``, ``spread``, ``minimum``, ``maximum``; and ``count`` values each."""

    _fields = ("count", "mean", "spread", "minimum", "maximum")

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.count = 0
        self.mean: Any = None
        self.spread: Any = None
        self.minimum: Any = None
        self.maximum: Any = None

    @property
    def variance(self) -> Array:
        """Population variance of each channel."""
        return np.asarray(self.spread / self.count)

    @property
    def energy(self) -> Array:
        """Mean of squares of each channel."""
        return np.asarray(self.variance + self.mean**2)

    @property
    def abs_max(self) -> Array:
        """Largest magnitude of each channel."""
        return np.asarray(np.maximum(np.abs(self.minimum), np.abs(self.maximum)))

    def update(self, arrays: tuple[Array, ...], rows: Rows) -> None:
        """See ``Accumulator``."""
        array = arrays[0]
        values = rows.samples(array)
        axis = self.axis % array.ndim - array.ndim
        rest = tuple(i for i in range(-values.ndim, 0) if i != axis)
        if not values.size:
            return
        mean = values.mean(axis=rest, dtype=np.float64)
        shape = [1] * values.ndim
        shape[axis] = values.shape[axis]
        centred = values - mean.astype(values.dtype).reshape(shape)
        spread = np.square(centred).sum(axis=rest, dtype=np.float64)
        count = values.size // values.shape[axis]
        self._add(count, mean, spread, values.min(axis=rest), values.max(axis=rest))

    def merge(self, other: ChannelMomentsAccumulator) -> None:
        """See ``Accumulator``."""
        if other.count:
            self._add(other.count, other.mean, other.spread, other.minimum, other.maximum)

    def _add(self, count: int, mean: Array, spread: Array, low: Array, high: Array) -> None:
        low, high = low.astype(np.float64), high.astype(np.float64)
        if not self.count:
            self.count, self.mean, self.spread, self.minimum, self.maximum = count, mean, spread, low, high
            return
        total = self.count + count
        delta = mean - self.mean
        self.spread = self.spread + spread + delta**2 * (self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.minimum, self.maximum = np.minimum(self.minimum, low), np.maximum(self.maximum, high)
        self.count = total
