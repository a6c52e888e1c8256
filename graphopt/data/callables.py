"""Data from the user's own code: ``module:callable`` or ``path.py:callable``, called with the interface."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.data.checks import (
    Array,
    check_dims,
    check_finite,
    check_names,
    check_symbols,
    convert,
    label_key,
)
from graphopt.data.feeds import Batch
from graphopt.data.interface import Interface
from graphopt.data.npz import as_array, check_labels
from graphopt.errors import DataError, GraphoptError, UsageError

FeedSource = Iterable[Mapping[str, Any]]


def load_callable(spec: str, option: str) -> Callable[..., Any]:
    """Import ``module:name`` or ``path.py:name``. ``option`` (such as ``--eval``) heads the messages.

    Raises UsageError when the module, file or name does not exist, or the module fails to import.
    """
    module_name, _, attribute = spec.rpartition(":")
    if not module_name or not attribute:
        raise UsageError(f"{option} {spec}: write module:callable or path.py:callable")
    module = _import_file(Path(module_name), option) if module_name.endswith(".py") else _import(module_name, option)
    value: Any = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise UsageError(f"{option} {spec}: {module_name} has no {attribute!r}")
        value = getattr(value, part)
    if not callable(value):
        raise UsageError(f"{option} {spec}: {attribute!r} is no callable")
    found: Callable[..., Any] = value
    return found


class FeedStream:
    """Feeds as the user's code yields them; each is one run.

    ``make`` is called anew for every pass when it gives one-shot iterators. The number of samples in a
    feed is the first axis that all inputs share; a feed without one counts as one sample. A feed shorter than
    a fixed batch is padded with its last row.
    """

    synthetic = False

    def __init__(
        self,
        make: Callable[[], FeedSource],
        interface: Interface,
        source: str,
        chosen: frozenset[int] | None = None,
    ) -> None:
        self._make = make
        self.interface = interface
        self.source = source
        self._chosen = chosen

    @cached_property
    def _first(self) -> Mapping[str, Any]:
        for feed in self._make():
            return _mapping(feed, self.source)
        raise DataError(f"{self.source} yields no feeds")

    @property
    def labelled(self) -> bool:
        """True when the first feed holds labels."""
        return label_key(self._first, self.interface) is not None

    @cached_property
    def _count(self) -> int:
        return len(self._chosen) if self._chosen is not None else sum(1 for _ in self._make())

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Batch]:
        return self.iter_batches()

    def iter_batches(self, batch: int | None = None) -> Iterator[Batch]:
        """Yield every feed. ``batch`` is ignored: the user's code decides how many samples a feed holds."""
        start = 0
        empty = True
        for position, feed in enumerate(self._make()):
            empty = False
            if self._chosen is not None and position not in self._chosen:
                continue
            made = self._batch(feed, start, f"{self.source}, feed {position}")
            yield made
            start += made.valid
        if empty:
            raise DataError(f"{self.source} yields no feeds")

    def select(self, indices: Sequence[int]) -> FeedStream:
        """Keep the feeds at ``indices``, in the order in which the source yields them."""
        positions = range(len(self)) if self._chosen is None else sorted(self._chosen)
        chosen = frozenset(positions[index] for index in indices)
        return FeedStream(self._make, self.interface, self.source, chosen)

    def _batch(self, feed: Any, start: int, where: str) -> Batch:
        values = _mapping(feed, where)
        key = label_key(values, self.interface)
        arrays = {name: as_array(value, name, where) for name, value in values.items() if name != key}
        check_names(arrays, self.interface, where)
        feeds: dict[str, Array] = {}
        for name, array in arrays.items():
            info = self.interface.input(name)
            check_finite(array, name, where)
            feeds[name] = convert(array, info, where)
        valid, fixed = self._rows(feeds, where)
        labels = None if key is None else as_array(values[key], "labels", where)
        if labels is not None and fixed is not None:
            check_labels(labels, valid, where)
        if fixed and fixed > valid:
            feeds = {name: _pad(array, fixed) if array.ndim else array for name, array in feeds.items()}
        for name, array in feeds.items():
            check_dims(array.shape, self.interface.input(name), where)
        check_symbols({name: array.shape for name, array in feeds.items()}, self.interface, where)
        return Batch(feeds, max(fixed or valid, valid), valid, labels, start)

    def _rows(self, feeds: Mapping[str, Array], where: str) -> tuple[int, int | None]:
        """Real rows of a feed and the rows to feed; (1, None) when the inputs share no first axis."""
        ranked = {name: array for name, array in feeds.items() if array.ndim}
        counts = {array.shape[0] for array in ranked.values()}
        if len(counts) != 1:
            return 1, None
        rows = counts.pop()
        if rows == 0:
            raise DataError(f"{where} holds no samples")
        declared = {info.shape[0] for info in map(self.interface.input, ranked) if info.shape}
        sizes = {dim for dim in declared if isinstance(dim, int)}
        if len(sizes) > 1:
            return 1, None
        return rows, sizes.pop() if sizes else rows


def load_feeds(spec: str, interface: Interface) -> FeedStream:
    """Open ``--data module:callable``; the callable gets the interface and gives a re-iterable of feeds."""
    function = load_callable(spec, "--data")
    first = _call(function, interface, spec)
    if isinstance(first, Iterator):
        return FeedStream(lambda: _named(_call(function, interface, spec), spec), interface, spec)
    return FeedStream(lambda: _named(first, spec), interface, spec)


def _named(feeds: FeedSource, spec: str) -> Iterator[Mapping[str, Any]]:
    """The feeds; what the user's code raises while it makes them names it."""
    try:
        yield from feeds
    except GraphoptError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise DataError(f"--data {spec} failed while it made feeds: {_at(error)}") from error


def _at(error: Exception) -> str:
    """The error and the line of the user's code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if len(frames) > 1 else ""
    return f"{type(error).__name__}: {error}{where}"


def _call(function: Callable[..., Any], interface: Interface, spec: str) -> FeedSource:
    try:
        result = function(interface)
    except GraphoptError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise DataError(f"--data {spec} failed; it is called with the model's interface: {_at(error)}") from error
    if isinstance(result, Mapping) or not isinstance(result, Iterable):
        raise DataError(f"--data {spec} gave {type(result).__name__}; it must give a re-iterable of feeds (dicts)")
    return result


def _mapping(feed: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(feed, Mapping):
        raise DataError(f"{where} is {type(feed).__name__}; a feed is a dict of input name to array")
    return feed


def _pad(array: Array, rows: int) -> Array:
    padding = np.repeat(array[-1:], rows - array.shape[0], axis=0)
    joined: Array = np.concatenate([array, padding])
    return joined


def _import(name: str, option: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(
                f"{option}: there is no module {name!r} on the Python path; give path.py:callable"
            ) from error
        raise UsageError(f"{option}: importing {name!r} failed: {error}") from error
    except Exception as error:  # the user's module may raise anything
        raise UsageError(f"{option}: importing {name!r} failed: {type(error).__name__}: {error}") from error


def _import_file(path: Path, option: str) -> Any:
    if not path.is_file():
        raise UsageError(f"{option}: {path}: no such file")
    name = f"graphopt_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{option}: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's file may raise anything
        raise UsageError(f"{option}: importing {path} failed: {type(error).__name__}: {error}") from error
    return module
