"""Splitting and thinning data by seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.data.feeds import Dataset
from graphopt.errors import DataError

SCORED_SHARE = 0.2


@dataclass(frozen=True)
class Split:
    """Data to calibrate with and data to score with. ``shared``: one sample has to serve as both."""

    calibration: Dataset
    scoring: Dataset
    shared: bool


def split(data: Dataset, seed: int) -> Split:
    """Split once by seed: 80 % to calibrate, 20 % (at least one) to score, without overlap."""
    count = len(data)
    if count == 0:
        raise DataError(f"{data.source} holds no samples")
    if count == 1:
        return Split(data, data, True)
    scored = min(max(1, round(count * SCORED_SHARE)), count - 1)
    order = np.random.default_rng(seed).permutation(count)
    return Split(data.select(sorted(order[scored:])), data.select(sorted(order[:scored])), False)


def subsample(data: Dataset, samples: int | None, seed: int) -> Dataset:
    """Keep ``samples`` of the data, drawn by seed without replacement and left in order; None keeps all."""
    if samples is None or samples >= len(data):
        return data
    if samples < 1:
        raise DataError(f"--samples {samples}: at least one sample is needed")
    order = np.random.default_rng(seed).permutation(len(data))
    return data.select(sorted(order[:samples]))
