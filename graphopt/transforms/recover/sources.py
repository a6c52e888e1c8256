"""Where the values that a layer should give are found in the reference: a tensor, its channels, and cuts elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from graphopt.analysis.shapes import Facts, interpret_best
from graphopt.ir import Array, Tensor
from graphopt.model import Model


class SourceTensor(Protocol):
    """Where a tensor comes from: a reference tensor, the positions kept on its axes, the factors on them."""

    @property
    def tensor(self) -> str:
        """Name of the reference tensor."""
        ...

    @property
    def kept(self) -> Mapping[int, Array]:
        """Axis to the reference positions that are left."""
        ...

    @property
    def scales(self) -> Mapping[int, Array]:
        """Axis to one factor for each position that is left."""
        ...


OriginOf = Callable[[str], SourceTensor | None]


@dataclass(frozen=True, eq=False)
class Cut:
    """What was done to an axis other than the channels': positions kept (None: all), factors on them (None: ones)."""

    axis: int
    kept: Array | None
    scales: Array | None

    def apply(self, value: Array) -> Array:
        """The reference's ``value`` as the changed model should have it on this axis."""
        if self.kept is not None:
            value = np.take(value, self.kept, self.axis)
        if self.scales is not None:
            shape = [-1 if axis == self.axis else 1 for axis in range(value.ndim)]
            value = value * self.scales.reshape(shape).astype(value.dtype)
        return value


class Aim(NamedTuple):
    """Reference tensor, its kept channels and their scales, and cuts of its other axes."""

    tensor: str
    kept: Array | None
    scales: Array | None
    elsewhere: tuple[Cut, ...]


class Sources:
    """The reference's values by the names of the changed model's tensors."""

    def __init__(self, reference: Model, origin: OriginOf) -> None:
        self.originals = reference.graph.tensors()
        self.origin = origin
        self._reference = reference

    @cached_property
    def _facts(self) -> Facts:
        return interpret_best(self._reference.graph)

    def aim(self, tensor: Tensor, axis: int) -> Aim | None:
        """What ``tensor`` should be, with its channels on ``axis``; None when that is not known.

        An axis counted from the end needs the rank of the reference's tensor when an axis was cut.
        """
        source = self.origin(tensor.name)
        if source is None:
            return None
        axes = sorted(set(source.kept) | set(source.scales))
        if axis < 0 and axes:
            rank = self._rank(source.tensor)
            if rank is None:
                return None
            axis %= rank
        cuts = tuple(Cut(a, source.kept.get(a), source.scales.get(a)) for a in axes if a != axis)
        return Aim(source.tensor, source.kept.get(axis), source.scales.get(axis), cuts)

    def _rank(self, name: str) -> int | None:
        tensor = self.originals.get(name)
        shape = None if tensor is None else tensor.shape if tensor.shape is not None else self._facts.shape(tensor)
        return None if shape is None else len(shape)
