"""The one calibration engine: streams data through a model and accumulates statistics of inner tensors.

Memory does not depend on the number of samples: tensors are exposed in chunks, sized so that their values of one
run and their accumulators stay under a cap; each chunk is one pass over the data. (ONNX Runtime's own calibrators
keep activations of all samples.)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from graphopt.analysis.statistics import cache as disk
from graphopt.analysis.statistics.accumulators import Accumulator, Spec
from graphopt.analysis.statistics.exposure import exposed, run_shapes, topological_order
from graphopt.analysis.statistics.samples import Rows
from graphopt.data.feeds import DEFAULT_BATCH, Batch, Dataset
from graphopt.errors import DataError, UsageError
from graphopt.ir import Array
from graphopt.model import Model

DEFAULT_MEMORY = 1 << 30
_ELEMENT_BYTES = 4
_RUN_BYTES = 7 << 20
_LEAST_BATCH = 2

A = TypeVar("A", bound=Accumulator)


@dataclass(frozen=True)
class Request:
    """Accumulate ``spec`` over the values of ``tensors`` (one, or two for a CrossGram) of the main graph."""

    tensors: tuple[str, ...]
    spec: Spec

    @staticmethod
    def of(tensor: str, spec: Spec) -> Request:
        """A request about one tensor."""
        return Request((tensor,), spec)


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` samples (over all chunks), ``seconds`` so far, and the ``remaining`` ones as estimated."""

    done: int
    total: int
    seconds: float
    remaining: float


ProgressCallback = Callable[[Progress], None]


class Statistics(Mapping[Request, Accumulator]):
    """Accumulators by request."""

    def __init__(self, found: Mapping[Request, Accumulator], samples: int) -> None:
        self._found = dict(found)
        self.samples = samples

    def __getitem__(self, request: Request) -> Accumulator:
        return self._found[request]

    def __iter__(self) -> Iterator[Request]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def typed(self, request: Request, kind: type[A]) -> A:
        """The accumulator of a request, as the class it is known to be."""
        found = self._found[request]
        if not isinstance(found, kind):
            raise UsageError(
                f"the request for {request.tensors[0]!r} has a {type(found).__name__}, not a {kind.__name__}"
            )
        return found

    def merge(self, other: Statistics) -> None:
        """Take in the statistics of another shard of the data, made with the same requests."""
        if self._found.keys() != other._found.keys():
            raise UsageError("statistics of different requests cannot be merged")
        for request, accumulator in self._found.items():
            accumulator.merge(other._found[request])
        self.samples += other.samples


def collect(
    model: Model,
    dataset: Dataset,
    requests: Iterable[Request],
    *,
    batch: int | None = None,
    threads: int = 1,
    max_memory: int = DEFAULT_MEMORY,
    progress: ProgressCallback | None = None,
    cache: Path | None = None,
    first_sample: int = 0,
) -> Statistics:
    """Stream ``dataset`` through ``model`` and accumulate ``requests``.

    Args:
        model: is not changed.
        dataset: read once for each chunk of tensors.
        requests: what to accumulate; duplicates are collected once.
        batch: rows a run where model and data leave it open; lowered when one run would pass ``max_memory``.
        threads: of ONNX Runtime.
        max_memory: bytes for exposed values and accumulators (the model's own run comes on top).
        progress: called after each run.
        cache: folder of finished statistics, keyed by the content of model, data and request.
        first_sample: number of the data's first sample, for a shard of a larger set.

    Raises:
        UsageError: a tensor does not exist or is constant.
        DataError: no samples, or a tensor holds NaN or infinite values.
    """
    wanted = list(dict.fromkeys(requests))
    store = None if cache is None else disk.Cache(cache, model, dataset, first_sample)
    found: dict[Request, Accumulator] = {}
    samples = 0
    for request in wanted:
        accumulator = request.spec.create()
        if store is not None and (state := store.read(request.tensors, request.spec)) is not None:
            accumulator.load(state[0])
            found[request], samples = accumulator, state[1]
    missing = [r for r in wanted if r not in found]
    if missing:
        run = _Run(model, dataset, batch, threads, first_sample, progress)
        fresh = run.collect(missing, max_memory)
        samples = run.samples
        found.update(fresh)
        if store is not None:
            for request, accumulator in fresh.items():
                store.write(request.tensors, request.spec, accumulator.state(), samples)
    return Statistics({r: found[r] for r in wanted}, samples)


class _Run:
    """One call of ``collect``."""

    def __init__(
        self,
        model: Model,
        dataset: Dataset,
        batch: int | None,
        threads: int,
        first_sample: int,
        progress: ProgressCallback | None,
    ) -> None:
        self.model, self.dataset, self.threads = model, dataset, threads
        self.batch = batch or DEFAULT_BATCH
        self.first_sample, self.progress = first_sample, progress
        self.samples = 0
        self._done = 0
        self._started = time.monotonic()

    def collect(self, requests: Sequence[Request], max_memory: int) -> dict[Request, Accumulator]:
        first = next(iter(self.dataset.iter_batches(1)), None)
        if first is None:
            raise DataError(f"{self.dataset.source} holds no samples; statistics need at least one")
        names = list(dict.fromkeys(n for r in requests for n in r.tensors))
        shapes = run_shapes(self.model, names, first.feeds, self.threads)
        self._shrink_batch(requests, shapes, first.rows, max_memory)
        chunks = self._chunks(requests, shapes, first.rows, max_memory)
        found = {r: r.spec.create() for r in requests}
        for index, chunk in enumerate(chunks):
            self._pass({r: found[r] for r in chunk}, len(chunks), index)
        return found

    def _shrink_batch(
        self, requests: Sequence[Request], shapes: Mapping[str, tuple[int, ...]], rows: int, max_memory: int
    ) -> None:
        """Fewer rows a run: the values of all tensors together should stay small, and those of one under the cap."""
        one = sum(_nbytes(shapes[n]) for n in {n for r in requests for n in r.tensors}) // max(rows, 1)
        largest = max(sum(_nbytes(shapes[n]) for n in set(r.tensors)) for r in requests) // max(rows, 1)
        fitting = min(_RUN_BYTES // max(one, 1), max_memory // 4 // max(largest, 1))
        self.batch = max(1, min(self.batch, max(fitting, min(_LEAST_BATCH, max_memory // 4 // max(largest, 1)))))

    def _chunks(
        self, requests: Sequence[Request], shapes: Mapping[str, tuple[int, ...]], rows: int, max_memory: int
    ) -> list[list[Request]]:
        order = topological_order(self.model)
        share = max(1.0, self.batch / max(rows, 1))
        chunks: list[list[Request]] = []
        exposed_now: set[str] = set()
        used = 0
        for request in sorted(requests, key=lambda r: max(order[n] for n in r.tensors)):
            own = request.spec.memory(tuple(shapes[n] for n in request.tensors))
            size = {n: int(_nbytes(shapes[n]) * share) for n in request.tensors}
            new = own + sum(size[n] for n in size.keys() - exposed_now)
            if chunks and used + new <= max_memory:
                chunks[-1].append(request)
            else:
                chunks.append([request])
                exposed_now, used = set(), 0
                new = own + sum(size.values())
            exposed_now.update(request.tensors)
            used += new
        return chunks

    def _pass(self, accumulators: Mapping[Request, Accumulator], passes: int, index: int) -> None:
        """One pass over the data. While the model runs a batch, a second thread takes in the values of the last one."""
        names = list(dict.fromkeys(n for r in accumulators for n in r.tensors))
        seen = 0
        pending: Future[None] | None = None
        with exposed(self.model, names, self.threads) as session, ThreadPoolExecutor(1) as worker:
            for item in self.dataset.iter_batches(self.batch):
                values = session.run(item.feeds)
                rows = Rows(item.rows, item.valid, self.first_sample + item.start)
                if pending is not None:
                    pending.result()
                pending = worker.submit(_take_in, accumulators, values, rows)
                seen += item.valid
                self._report(item, passes, index, seen)
            if pending is not None:
                pending.result()
        self.samples = seen

    def _report(self, item: Batch, passes: int, index: int, seen: int) -> None:
        self._done += item.valid
        if self.progress is None:
            return
        total = (max(len(self.dataset), seen) if index == 0 else self.samples) * passes
        seconds = time.monotonic() - self._started
        self.progress(Progress(self._done, total, seconds, seconds * max(0, total - self._done) / self._done))


def _take_in(accumulators: Mapping[Request, Accumulator], values: Mapping[str, Array], rows: Rows) -> None:
    for request, accumulator in accumulators.items():
        accumulator.update(tuple(values[n] for n in request.tensors), rows)


def _nbytes(shape: tuple[int, ...]) -> int:
    return math.prod(shape) * _ELEMENT_BYTES
