"""Seeded, made-up inputs for when there is no data. They prove nothing about ranges or accuracy."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from graphopt.data.checks import Array, is_float
from graphopt.data.feeds import Layout, Sample, SampleDataset
from graphopt.data.interface import Interface, TensorInfo
from graphopt.errors import DataError


@dataclass(frozen=True)
class Bounds:
    """Declared values of one input: numbers in [``low``, ``high``], both included."""

    low: float
    high: float


class SyntheticDataset(SampleDataset):
    """``count`` whole inputs, each drawn from (seed, index, input name), so any one can be made alone.

    Floats are standard normal, or uniform within ``bounds``. Integers are uniform within ``bounds``, 0 or 1
    without. Inputs named like a mask are all ones, strings are "a". Raises UsageError that lists the dims
    without a number, DataError for inputs that are no tensors.
    """

    def __init__(
        self,
        interface: Interface,
        count: int = 8,
        seed: int = 0,
        bounds: Mapping[str, Bounds] | None = None,
    ) -> None:
        interface.require_static("making synthetic inputs")
        for info in interface.required:
            if not info.is_tensor or info.dtype is None or info.shape is None:
                raise DataError(
                    f"cannot make synthetic values for input {info.describe()}; give --data module:callable"
                )
        self._bounds = dict(bounds or {})
        for name, bound in self._bounds.items():
            interface.input(name)
            if not bound.low <= bound.high:
                raise DataError(f"bounds of input {name!r} are empty: [{bound.low}, {bound.high}]")
        if count < 1:
            raise DataError(f"synthetic data needs at least one sample, not {count}")
        super().__init__(interface, Layout(whole=True), f"synthetic inputs, seed {seed}", synthetic=True)
        self._count = count
        self._seed = seed

    @property
    def labelled(self) -> bool:
        """Never."""
        return False

    def __len__(self) -> int:
        return self._count

    def sample(self, index: int) -> Sample:
        """Make input set ``index``."""
        return Sample({info.name: self._draw(info, index) for info in self.interface.required})

    def _draw(self, info: TensorInfo, index: int) -> Array:
        dtype, shape = info.dtype, tuple(dim for dim in info.shape or () if isinstance(dim, int))
        if dtype is None or dtype == np.dtype(object):
            return np.full(shape, "a", dtype=object)
        bound = self._bounds.get(info.name)
        if bound is None and "mask" in info.name.lower():
            return np.ones(shape, dtype)
        random = np.random.default_rng([self._seed, index, zlib.crc32(info.name.encode())])
        if is_float(dtype):
            values = random.standard_normal(shape) if bound is None else random.uniform(bound.low, bound.high, shape)
            return np.asarray(values).astype(dtype)
        low, high = (0, 1) if bound is None else (int(np.ceil(bound.low)), int(np.floor(bound.high)))
        if low > high:
            raise DataError(f"bounds of input {info.name!r} hold no integer: [{low}, {high}]")
        return random.integers(low, high, size=shape, endpoint=True).astype(dtype)
