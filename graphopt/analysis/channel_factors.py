"""Whether two tensors are equal up to one positive factor a channel, as after evening out the ranges of channels."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from graphopt.ir import Array

_LEAST = 0.02
_LEAST_VALUES = 16
_AXES = (1, -1)


class ChannelFactors:
    """Adds up, for each channel, what the best factor between two tensors and the error that it leaves follow from.

    Axis 1 and the last axis are tried. Memory is that of a few numbers a channel.
    """

    def __init__(self) -> None:
        self._sums: dict[int, npt.NDArray[np.float64]] = {}
        self._values: dict[int, int] = {}

    def add(self, reference: Array, test: Array) -> None:
        """Add the values of one run; arrays of other shapes than before or than each other are left out."""
        if reference.shape != test.shape or reference.ndim < 2 or reference.dtype.kind != "f" or not reference.size:
            return
        for axis in _AXES:
            rows = [np.moveaxis(a, axis, 0).reshape(a.shape[axis], -1).astype(np.float64) for a in (reference, test)]
            sums = np.stack([np.einsum("ij,ij->i", a, b) for a, b in ((rows[0],) * 2, (rows[1],) * 2, tuple(rows))])
            known = self._sums.get(axis)
            if known is None or known.shape == sums.shape:
                self._sums[axis] = sums if known is None else known + sums
                self._values[axis] = self._values.get(axis, 0) + rows[0].shape[1]

    def result(self) -> tuple[float, float, float] | None:
        """SQNR in dB after the best factors, the smallest and the largest factor.

        None when a factor is not positive, when all are 1 within 2 %, or when there are too few values in a channel to
        judge: of one value any positive factor makes any other.
        """
        enough = [sums for axis, sums in self._sums.items() if self._values[axis] >= _LEAST_VALUES]
        found = [one for one in map(self._of, enough) if one is not None]
        return max(found, default=None)

    @staticmethod
    def _of(sums: npt.NDArray[np.float64]) -> tuple[float, float, float] | None:
        reference, test, product = sums
        alive = (reference > 0) & (test > 0)
        if not alive.any() or not np.isfinite(sums).all() or not (product[alive] > 0).all():
            return None
        factors = test[alive] / product[alive]
        if np.abs(factors - 1).max() < _LEAST:
            return None
        left = reference.sum() - float((product[alive] ** 2 / test[alive]).sum())
        sqnr = 10 * math.log10(reference.sum() / left) if left > 0 else math.inf
        return sqnr, float(factors.min()), float(factors.max())
