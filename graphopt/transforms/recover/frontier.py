"""The part of a model that later fits still change, with the values that flow into it kept in memory.

Fits go through a model front to back. What lies before the first layer that may still change gives the same values from
then on, so it is run once: its values at the cut are kept, and the rest of the model runs from there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from graphopt.analysis.statistics.exposure import exposed
from graphopt.data.feeds import DEFAULT_BATCH, Batch, Dataset
from graphopt.data.interface import Interface
from graphopt.graph import subgraphs
from graphopt.ir import Node, Tensor, Variable
from graphopt.model import Model

_RUN_BYTES = 7 << 20


@dataclass(frozen=True)
class KeptBatches:
    """A data set whose batches are in memory, as they are; no other batch can be had from it."""

    batches: tuple[Batch, ...]
    origin: Dataset

    @property
    def interface(self) -> Interface:
        """That of the whole model."""
        return self.origin.interface

    @property
    def source(self) -> str:
        """Where the data is from."""
        return self.origin.source

    @property
    def synthetic(self) -> bool:
        """As the data that it was made from."""
        return self.origin.synthetic

    @property
    def labelled(self) -> bool:
        """Never."""
        return False

    def __len__(self) -> int:
        return len(self.origin)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def iter_batches(self, batch: int | None = None) -> Iterator[Batch]:
        """The batches that are kept, whatever is wished for."""
        return iter(self.batches)

    def select(self, indices: Sequence[int]) -> Dataset:
        """From the data that the values were made from."""
        return self.origin.select(indices)


class Frontier:
    """``model`` from the current cut on, and the data that goes into it there.

    ``memory`` bounds the values kept, in bytes. Where they would be more, or are no plain arrays, the cut stays where
    it was: first at the model's inputs.
    """

    def __init__(self, model: Model, dataset: Dataset, batch: int | None, threads: int, memory: int) -> None:
        self._whole, self._origin = model, dataset
        self._batch, self._threads, self._memory = batch, threads, memory
        self._cut: _Cut | None = None
        self.dataset = dataset

    def rest(self) -> Model:
        """The model as it is now, from the cut on: a clone, or the model itself while nothing is cut off."""
        return self._whole if self._cut is None else _behind(self._whole, self._cut, next(iter(self.dataset)))

    def advance(self, open_nodes: Collection[Node]) -> None:
        """Move the cut to where the first of ``open_nodes``, whose weights may still change, reads."""
        cut = _cut(self._whole, open_nodes)
        if not cut.names or (self._cut is not None and cut.names == self._cut.names):
            return
        found = self._values(cut.names)
        if found is not None:
            self.dataset, self._cut = KeptBatches(found, self._origin), cut

    def _values(self, names: tuple[str, ...]) -> tuple[Batch, ...] | None:
        """The values at a cut, or None when they are too many or no arrays of numbers."""
        kept: list[Batch] = []
        used = 0
        with exposed(self.rest(), names, self._threads) as session:
            first = next(iter(self.dataset.iter_batches(1)), None)
            if first is None:
                return None
            size = sum(v.nbytes for v in session.raw(first.feeds).values()) // max(first.rows, 1)
            if size * len(self._origin) > self._memory:
                return None
            fitting = max(1, min(self._batch or DEFAULT_BATCH, _RUN_BYTES // max(size, 1)))
            for item in self.dataset.iter_batches(fitting):
                values = session.raw(item.feeds)
                used += sum(v.nbytes for v in values.values())
                if used > self._memory or not all(v.dtype.kind in "fiub" for v in values.values()):
                    return None
                kept.append(Batch(values, item.rows, item.valid, None, item.start))
        return tuple(kept)


@dataclass(frozen=True)
class _Cut:
    """The tensors at a cut, the nodes before it by ``id``, and the outputs that come from behind it."""

    names: tuple[str, ...]
    before: frozenset[int]
    outputs: tuple[str, ...]


def _cut(model: Model, open_nodes: Collection[Node]) -> _Cut:
    """The cut in front of the open nodes and all that follows from them; what needs no input stays behind it."""
    graph = model.graph
    fed = {id(t) for t in graph.inputs}
    changing: set[int] = set()
    before: set[int] = set()
    opened = {id(n) for n in open_nodes}
    names: dict[str, None] = {}
    last = ""
    for node in graph.nodes:
        reads = _reads(node)
        if id(node) in opened or any(id(t) in changing for t in reads):
            changing.update(id(t) for t in node.outputs)
            names.update((t.name, None) for t in reads if id(t) in fed and id(t) not in changing)
            last = next((t.name for t in node.outputs if not t.is_empty()), last)
        elif any(id(t) in fed for t in reads):
            before.add(id(node))
        if any(id(t) in fed for t in reads):
            fed.update(id(t) for t in node.outputs)
    outputs = tuple(t.name for t in graph.outputs if id(t) in changing)
    return _Cut(tuple(names), frozenset(before), outputs or (last,))


def _reads(node: Node) -> list[Tensor]:
    """What the node reads, in nested graphs too."""
    inner = [t for sub in subgraphs(node) for n in sub.walk() for t in n.inputs]
    ends = [t for sub in subgraphs(node) for t in sub.outputs]
    return [t for t in (*node.inputs, *inner, *ends) if not t.is_empty()]


def _behind(model: Model, cut: _Cut, sample: Batch) -> Model:
    """A clone without the nodes before the cut; the tensors at the cut are its inputs, of the types of ``sample``."""
    rest = model.clone()
    graph = rest.graph
    tensors = graph.tensors()
    pairs = zip(model.graph.nodes, list(graph.nodes), strict=True)
    graph.remove_nodes([copy for node, copy in pairs if id(node) in cut.before])
    inputs = []
    for name in cut.names:
        tensor = tensors[name]
        assert isinstance(tensor, Variable)
        tensor.dtype, tensor.shape, tensor.type_proto = sample.feeds[name].dtype, None, None
        inputs.append(tensor)
    graph.inputs = inputs
    graph.outputs = [tensors[name] for name in cut.outputs]
    return rest
