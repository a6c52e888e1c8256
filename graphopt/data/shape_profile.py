"""Ranges of free dims and the shapes that follow: what TensorRT and its kind need to build an engine once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphopt.data.feeds import Dataset, Feeds
from graphopt.data.interface import Interface, TensorInfo
from graphopt.errors import UsageError

DEFAULT_BATCH = 8


@dataclass(frozen=True)
class DimRange:
    """Smallest, best and largest value of a free dim. TensorRT tunes for the best one."""

    low: int
    best: int
    high: int

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.best <= self.high:
            raise UsageError(f"a dim range must rise from at least 1: {self.low},{self.best},{self.high}")


@dataclass(frozen=True)
class ShapeProfile:
    """Smallest, best and largest shape of each input that has free dims."""

    low: Mapping[str, Sequence[int]] = field(default_factory=dict)
    best: Mapping[str, Sequence[int]] = field(default_factory=dict)
    high: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def as_json(self) -> dict[str, dict[str, list[int]]]:
        """The content of profile.json."""
        return {n: {"min": list(self.low[n]), "opt": list(self.best[n]), "max": list(self.high[n])} for n in self.low}

    def texts(self) -> tuple[str, str, str]:
        """The three as ``name:1x3x224x224,...``; empty for a model without free dims."""
        first, second, third = (
            ",".join(f"{n}:{_by(s)}" for n, s in shapes.items()) for shapes in (self.low, self.best, self.high)
        )
        return first, second, third

    def flags(self) -> list[str]:
        """The options of trtexec; none for a model without free dims."""
        if not self.low:
            return []
        return [f"--{part}Shapes={text}" for part, text in zip(("min", "opt", "max"), self.texts(), strict=True)]


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def choose_ranges(
    interface: Interface, given: Mapping[str, DimRange], data: Dataset | None, batch: int | None
) -> dict[str, DimRange]:
    """A range for each free dim: as given; for the batch from 1 to ``batch`` (8); else what the data holds.

    Raises:
        UsageError: a name is no free dim, or a dim has no range.
    """
    free = interface.free_dims()
    for name in given:
        if name not in free:
            raise UsageError(f"--dim {name}: the model has no free dim {name!r}; it has {', '.join(free) or 'none'}")
    size = batch or DEFAULT_BATCH
    ranges = {name: given.get(name, DimRange(1, size, size)) for name in interface.batch_dims()}
    ranges.update(given)
    missing = [name for name in free if name not in ranges]
    if missing and data is not None:
        ranges.update(_observed(interface, data, missing))
        missing = [name for name in free if name not in ranges]
    if missing:
        example = " ".join(f"--dim {name}=MIN,OPT,MAX" for name in missing)
        raise UsageError(f"a profile needs a range for each of these dims: {', '.join(missing)}. Give {example}")
    return ranges


def _observed(interface: Interface, data: Dataset, names: Sequence[str]) -> dict[str, DimRange]:
    seen: dict[str, list[int]] = {}
    for part in data.iter_batches(1):
        for info in interface.required:
            for name, axes in info.free_dims().items():
                if name in names and info.name in part.feeds:
                    seen.setdefault(name, []).extend(int(part.feeds[info.name].shape[a]) for a in axes)
    return {n: DimRange(min(v), int(np.median(v)), max(v)) for n, v in seen.items()}


def make_profile(interface: Interface, ranges: Mapping[str, DimRange]) -> ShapeProfile:
    """Shapes of the inputs that have free dims."""
    dynamic = [info for info in interface.required if info.free_dims()]
    low, best, high = (
        {info.name: _shape(info, {n: getattr(r, part) for n, r in ranges.items()}) for info in dynamic}
        for part in ("low", "best", "high")
    )
    return ShapeProfile(low, best, high)


def _shape(info: TensorInfo, values: Mapping[str, int]) -> list[int]:
    return [
        dim if isinstance(dim, int) else values[dim or f"{info.name}.{axis}"]
        for axis, dim in enumerate(info.shape or ())
    ]


def profile_of_feeds(interface: Interface, runs: Sequence[Feeds]) -> ShapeProfile:
    """Shapes that cover all of ``runs``: per axis the smallest and largest seen; the first run is the best one."""
    dynamic = [info.name for info in interface.required if info.free_dims() and all(info.name in r for r in runs)]
    seen = {name: np.array([run[name].shape for run in runs]) for name in dynamic}
    return ShapeProfile(
        {name: [int(d) for d in shapes.min(axis=0)] for name, shapes in seen.items()},
        {name: [int(d) for d in shapes[0]] for name, shapes in seen.items()},
        {name: [int(d) for d in shapes.max(axis=0)] for name, shapes in seen.items()},
    )
