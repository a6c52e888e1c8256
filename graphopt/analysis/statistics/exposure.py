"""Running a model up to some of its inner tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from graphopt.data.feeds import Feeds
from graphopt.errors import DataError, UsageError
from graphopt.graph import Graph
from graphopt.ir import Array, Tensor, Variable
from graphopt.model import Model
from graphopt.runtime.materialize import session_source, shared_source
from graphopt.runtime.session import Session, SessionConfig


class Exposed:
    """A session that gives the named tensors of a model's main graph; what does not lead to them is not run."""

    def __init__(self, session: Session, names: Sequence[str], inputs: frozenset[str]) -> None:
        self._session = session
        self._names = tuple(names)
        self._inputs = inputs

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """The tensors' values; half floats widened to float32.

        Raises:
            DataError: a value is NaN or infinite; the message names the tensor.
        """
        return {n: _checked(v, n) for n, v in self.raw(feeds).items()}

    def raw(self, feeds: Feeds) -> dict[str, Array]:
        """The tensors' values as they are."""
        inner = [n for n in self._names if n not in self._inputs]
        found = self._session.run(feeds, inner) if inner else {}
        return {n: np.asarray(found[n] if n in found else feeds[n]) for n in self._names}


@contextmanager
def exposed(model: Model, names: Sequence[str], threads: int) -> Iterator[Exposed]:
    """Open a session on the part of ``model`` that leads to ``names``.

    Raises:
        UsageError: a name is unknown, a constant, or no tensor of the main graph.
    """
    check_names(model, names)
    inputs = frozenset(t.name for t in model.graph.inputs)
    clone = model.clone()
    tensors = clone.graph.tensors()
    outputs = [tensors[n] for n in names if n not in inputs]
    if not outputs:
        outputs = list(clone.graph.outputs)
    _keep_only(clone.graph, outputs)
    with session_of(clone, threads) as session:
        yield Exposed(session, names, inputs)


def run_shapes(model: Model, names: Sequence[str], feeds: Feeds, threads: int) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor when ``feeds`` are run, found without holding the tensors' values."""
    check_names(model, names)
    clone = model.clone()
    tensors = clone.graph.tensors()
    shapes = [clone.graph.add_node("Shape", [tensors[n]]).outputs[0] for n in names]
    _keep_only(clone.graph, shapes)
    with session_of(clone, threads) as session:
        found = session.run(feeds)
    return {n: tuple(found[t.name].tolist()) for n, t in zip(names, shapes, strict=True)}


def topological_order(model: Model) -> dict[str, int]:
    """Name of each tensor of the main graph to its place in the order of computation; inputs come first."""
    order = {t.name: 0 for t in model.graph.inputs}
    for place, node in enumerate(model.graph.nodes, 1):
        order.update((t.name, place) for t in node.outputs if not t.is_empty())
    return order


def check_names(model: Model, names: Iterable[str]) -> None:
    """Raise UsageError unless every name is a variable of the main graph."""
    tensors = model.graph.tensors()
    for name in names:
        if name not in tensors:
            raise UsageError(f"the model's main graph has no tensor {name!r}; statistics need one")
        if not isinstance(tensors[name], Variable):
            raise UsageError(f"tensor {name!r} is a constant; its statistics need no data")


@contextmanager
def session_of(model: Model, threads: int) -> Iterator[Session]:
    """A session on a model of any size."""
    shared = shared_source(model)
    if shared is not None:
        yield Session(shared[0], SessionConfig(threads=threads, weights=shared[1]), name="the model")
        return
    with session_source(model) as source:
        yield Session(source, SessionConfig(threads=threads), name="the model")


def _keep_only(graph: Graph, outputs: list[Tensor]) -> None:
    ends = {id(t) for t in (*graph.inputs, *graph.outputs)}
    for tensor in outputs:
        if id(tensor) not in ends and isinstance(tensor, Variable):
            tensor.shape = None
            tensor.type_proto = None
    graph.outputs = outputs
    graph.remove_dead()


def _checked(value: Any, name: str) -> Array:
    array = np.asarray(value)
    if array.dtype.kind not in "fiub" and array.dtype.name in ("bfloat16",):
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise DataError(f"tensor {name!r} holds {array.dtype}, no numbers; it has no statistics")
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    if array.dtype.kind == "f" and array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):
        raise DataError(f"tensor {name!r} holds NaN or infinite values on the calibration data; look at what feeds it")
    return array
