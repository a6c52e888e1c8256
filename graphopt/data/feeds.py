"""Data sets as batches of feeds: what every source of samples has in common."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from graphopt.data.checks import Array
from graphopt.data.interface import Interface
from graphopt.errors import DataError

DEFAULT_BATCH = 32

Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class Batch:
    """Feeds of one run.

    ``rows`` samples are fed, of which the first ``valid`` are real; the rest repeats the last real one,
    because the batch of the model is fixed. ``labels`` has one entry a real sample, or is None. ``start``
    counts the samples before this batch.
    """

    feeds: Feeds
    rows: int
    valid: int
    labels: Array | None = None
    start: int = 0

    def trim(self, array: Array) -> Array:
        """Drop the padding from an array whose first axis is the batch; other arrays stay as they are."""
        if self.valid == self.rows or array.ndim == 0 or array.shape[0] != self.rows:
            return array
        return array[: self.valid]

    def trim_outputs(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """Drop the padding from every output that is an array."""
        return {name: self.trim(value) if isinstance(value, np.ndarray) else value for name, value in outputs.items()}


@runtime_checkable
class Dataset(Protocol):
    """A re-iterable set of samples.

    ``len`` counts what ``select`` can pick: samples, or whole feeds where the source only gives those.
    ``source`` says where the data is from; ``synthetic`` marks made-up inputs, which prove nothing about
    ranges and accuracy. ``labelled``: batches carry labels.
    """

    @property
    def interface(self) -> Interface:
        """Interface of the model that the data is for."""
        ...

    @property
    def source(self) -> str:
        """Where the data is from."""
        ...

    @property
    def synthetic(self) -> bool:
        """True for made-up inputs."""
        ...

    @property
    def labelled(self) -> bool:
        """True when batches carry labels."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...

    def iter_batches(self, batch: int | None = None) -> Iterator[Batch]:
        """Yield everything once, in order. ``batch`` rows a run where source and model leave it open."""
        ...

    def select(self, indices: Sequence[int]) -> Dataset:
        """Give a data set of only these samples (or feeds)."""
        ...


@dataclass(frozen=True)
class Sample:
    """One sample: for each input one row without the batch axis, or the whole input (see Layout)."""

    feeds: Feeds
    label: Array | None = None


@dataclass(frozen=True)
class Layout:
    """How samples become feeds.

    ``whole``: a sample holds every input complete and is run alone. Otherwise rows are stacked along axis 0,
    ``fixed`` rows at a time (padded) when the batch of the model is a number, any number when it is None.
    Inputs named in ``shared`` (scalars) are the same for all samples and never stacked.
    """

    whole: bool
    fixed: int | None = None
    shared: tuple[str, ...] = ()

    def rows(self, batch: int | None) -> int:
        """Rows a run; ``batch`` is what the caller would like."""
        return self.fixed or batch or DEFAULT_BATCH


class SampleDataset(ABC):
    """Base of data sets that give single samples by index; a subclass adds len, sample and labelled."""

    def __init__(self, interface: Interface, layout: Layout, source: str, synthetic: bool = False) -> None:
        self._interface = interface
        self._layout = layout
        self._source = source
        self._synthetic = synthetic

    @property
    def interface(self) -> Interface:
        """Interface of the model that the data is for."""
        return self._interface

    @property
    def layout(self) -> Layout:
        """How samples become feeds."""
        return self._layout

    @property
    def source(self) -> str:
        """Where the data is from."""
        return self._source

    @property
    def synthetic(self) -> bool:
        """True for made-up inputs."""
        return self._synthetic

    @property
    @abstractmethod
    def labelled(self) -> bool:
        """True when every sample has a label."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def sample(self, index: int) -> Sample:
        """Give sample ``index``; DataError when it does not fit the model."""

    def __iter__(self) -> Iterator[Batch]:
        return self.iter_batches()

    def iter_batches(self, batch: int | None = None) -> Iterator[Batch]:
        """Yield all samples in order. ``batch`` is a wish: the model's own fixed batch wins.

        Samples of different shapes never share a run.
        """
        limit = 1 if self._layout.whole else self._layout.rows(batch)
        pending: list[Sample] = []
        start = 0
        for index in range(len(self)):
            sample = self.sample(index)
            if pending and (len(pending) == limit or _shapes(sample) != _shapes(pending[0])):
                yield self._collate(pending, start)
                start += len(pending)
                pending = []
            pending.append(sample)
        if pending:
            yield self._collate(pending, start)

    def select(self, indices: Sequence[int]) -> Dataset:
        """Give a view of the samples at ``indices``, in that order."""
        return Selection(self, indices)

    def _collate(self, samples: list[Sample], start: int) -> Batch:
        labels = None
        if samples[0].label is not None:
            labels = np.stack([np.asarray(sample.label) for sample in samples])
        if self._layout.whole:
            return Batch(samples[0].feeds, 1, 1, labels, start)
        valid = len(samples)
        rows = max(self._layout.fixed or valid, valid)
        padded = samples + [samples[-1]] * (rows - valid)
        feeds = {
            name: first if name in self._layout.shared else np.stack([sample.feeds[name] for sample in padded])
            for name, first in samples[0].feeds.items()
        }
        return Batch(feeds, rows, valid, labels, start)


class Selection(SampleDataset):
    """Some samples of another data set, in a given order."""

    def __init__(self, base: SampleDataset, indices: Sequence[int]) -> None:
        super().__init__(base.interface, base.layout, base.source, base.synthetic)
        self._base = base
        self._indices = tuple(int(index) for index in indices)

    @property
    def labelled(self) -> bool:
        """True when the base has labels."""
        return self._base.labelled

    def __len__(self) -> int:
        return len(self._indices)

    def sample(self, index: int) -> Sample:
        """Give the sample that stands at ``index`` of the selection."""
        return self._base.sample(self._indices[index])


def fixed_batch(interface: Interface, names: Sequence[str], where: str) -> int | None:
    """Number of rows that the model takes at a time, or None when any number goes.

    ``names`` are the inputs that are cut along their first axis. Raises DataError when these inputs fix
    different numbers.
    """
    sizes = {
        info.name: info.shape[0]
        for info in (interface.input(name) for name in names)
        if info.shape and isinstance(info.shape[0], int)
    }
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise DataError(
            f"{where}: the first axes of the inputs are fixed and differ ({listed}), so samples cannot be "
            "cut along them. Give arrays of one rank more, with one whole input per sample"
        )
    fixed = next(iter(sizes.values()), None)
    if fixed == 0:
        raise DataError(f"{where}: the model's first input axis is fixed at 0; it takes no samples")
    return fixed


def count_samples(dataset: Dataset) -> int:
    """Count real samples by reading the data set once where it only gives whole feeds."""
    if isinstance(dataset, SampleDataset):
        return len(dataset)
    return sum(batch.valid for batch in dataset.iter_batches())


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 over every feed and label, as hex: the same data gives the same text on every machine."""
    digest = hashlib.sha256()
    for batch in dataset.iter_batches(1):
        labels = {} if batch.labels is None else {"__labels__": batch.labels}
        for name, array in sorted({**batch.feeds, **labels}.items()):
            digest.update(f"{name}|{array.dtype.str}|{array.shape}|{batch.valid}".encode())
            digest.update(_content(array))
    return digest.hexdigest()


def _content(array: Array) -> bytes:
    if array.dtype == np.dtype(object):
        return "\0".join(str(item) for item in array.ravel()).encode()
    return np.ascontiguousarray(array).tobytes()


def _shapes(sample: Sample) -> tuple[Any, ...]:
    label = None if sample.label is None else np.shape(sample.label)
    return (label, tuple((name, array.shape) for name, array in sample.feeds.items()))
