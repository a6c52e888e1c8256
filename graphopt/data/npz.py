"""Arrays named after the model's inputs, from an .npz file or from memory.

The rule: an array of the input's own rank is cut into batches along its first axis; an array of one rank more
holds one whole input per sample (scalars and states included). ``__labels__`` (or ``labels``, if no input has
that name) holds the labels and is never fed.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    is_float,
    label_key,
)
from graphopt.data.feeds import Layout, Sample, SampleDataset, fixed_batch
from graphopt.data.interface import Interface, TensorInfo
from graphopt.errors import DataError


@dataclass(frozen=True)
class ArrayPlan:
    """What arrays mean for a model: how many samples, and which inputs come as rows, whole or constant.

    ``slab`` rows of each cut array belong to one sample: more than one only when whole inputs stand beside it
    and the batch of the model is fixed.
    """

    layout: Layout
    samples: int
    cut: tuple[str, ...]
    whole: tuple[str, ...]
    constant: tuple[str, ...]
    slab: int = 1


class ArrayDataset(SampleDataset):
    """Samples from arrays in memory."""

    def __init__(self, arrays: Mapping[str, Array], interface: Interface, source: str) -> None:
        key = label_key(arrays, interface)
        inputs = {name: array for name, array in arrays.items() if name != key}
        check_names(inputs, interface, source)
        plan = plan_arrays({name: array.shape for name, array in inputs.items()}, interface, source)
        super().__init__(interface, plan.layout, source + _casts(inputs, interface))
        self._plan = plan
        self._arrays = {name: _prepare(array, interface.input(name), source) for name, array in inputs.items()}
        self._labels = None if key is None else check_labels(arrays[key], plan.samples, source)

    @property
    def labelled(self) -> bool:
        """True when labels came with the arrays."""
        return self._labels is not None

    def __len__(self) -> int:
        return self._plan.samples

    def sample(self, index: int) -> Sample:
        """Give sample ``index`` as views of the arrays."""
        plan = self._plan
        feeds = {name: self._arrays[name][index, ...] for name in plan.whole}
        feeds.update({name: self._arrays[name] for name in plan.constant})
        for name in plan.cut:
            array = self._arrays[name]
            feeds[name] = array[index * plan.slab : (index + 1) * plan.slab] if plan.layout.whole else array[index, ...]
        ordered = {name: np.asarray(feeds[name]) for name in self._arrays}
        return Sample(ordered, None if self._labels is None else self._labels[index])


def load_npz(path: Path, interface: Interface) -> ArrayDataset:
    """Read an .npz file; DataError names the file and array that does not fit."""
    return ArrayDataset(read_arrays(path), interface, str(path))


def plan_arrays(shapes: Mapping[str, tuple[int, ...]], interface: Interface, where: str) -> ArrayPlan:
    """Decide what arrays of these shapes mean. Raises DataError when they fit no rule or are empty."""
    cut: list[str] = []
    whole: list[str] = []
    constant: list[str] = []
    for name, shape in shapes.items():
        info = interface.input(name)
        rank = len(shape) if info.shape is None else len(info.shape)
        if len(shape) == rank + 1:
            whole.append(name)
            check_dims(shape[1:], info, where)
        elif len(shape) != rank:
            raise DataError(
                f"{where}: array {name!r} has shape {list(shape)}; {info.describe()} takes {rank} dims "
                f"(cut along the first axis) or {rank + 1} (one whole input per sample)"
            )
        elif rank == 0:
            constant.append(name)
        else:
            cut.append(name)
            check_dims(shape, info, where, skip_first=True)
    _check_shared_dims(shapes, cut, whole, interface, where)
    fixed = fixed_batch(interface, cut, where)
    slab = (fixed or 1) if whole else 1
    counts = {name: shapes[name][0] for name in whole}
    for name in cut:
        rows = shapes[name][0]
        if rows % slab:
            raise DataError(f"{where}: array {name!r} has {rows} rows, not a multiple of the model's batch {slab}")
        counts[name] = rows // slab
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise DataError(f"{where}: the arrays hold different numbers of samples ({listed})")
    samples = next(iter(counts.values()), 1)
    if samples == 0:
        raise DataError(f"{where} holds no samples: the first axis of {next(iter(counts))!r} is 0")
    layout = Layout(bool(whole or not cut), fixed, tuple(constant))
    return ArrayPlan(layout, samples, tuple(cut), tuple(whole), tuple(constant), slab)


def check_labels(labels: Array, samples: int, where: str) -> Array:
    """Check that there is one label a sample; DataError gives both numbers."""
    if labels.ndim == 0 or labels.shape[0] != samples:
        count = labels.shape[0] if labels.ndim else 0
        raise DataError(f"{where}: {count} labels for {samples} samples")
    check_finite(labels, "labels", where)
    return labels


def read_arrays(path: Path) -> dict[str, Array]:
    """Read every array of an .npz file, pickle never allowed. DataError when that fails."""
    arrays: dict[str, Array] = {}
    headers = read_headers(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in headers:
                arrays[name] = archive[name]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise DataError(f"{path} cannot be read as .npz: {error}") from error
    return arrays


def read_headers(path: Path) -> dict[str, tuple[int, ...]]:
    """Read names and shapes of the arrays in an .npz file without reading their values.

    Raises DataError when the file is no .npz, holds no arrays, holds Python objects, or an array is shorter
    than its header says.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for item in archive.infolist():
                if not item.filename.endswith(".npy"):
                    raise DataError(f"{path}: member {item.filename!r} is not an array")
                name = item.filename.removesuffix(".npy")
                shapes[name] = _read_header(archive, item, f"{path}: array {name!r}")
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} is not an .npz file, or is cut short: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if not shapes:
        raise DataError(f"{path} holds no arrays")
    return shapes


def _read_header(archive: zipfile.ZipFile, item: zipfile.ZipInfo, where: str) -> tuple[int, ...]:
    try:
        with archive.open(item) as stream:
            version = np.lib.format.read_magic(stream)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = reader(stream)
            header_bytes = stream.tell()
    except (ValueError, EOFError, zlib.error) as error:
        raise DataError(f"{where} has a damaged header: {error}") from error
    if dtype.hasobject:
        raise DataError(f"{where} holds Python objects; save plain numbers or fixed-width strings")
    needed = header_bytes + dtype.itemsize * _product(shape)
    if needed > item.file_size:
        raise DataError(f"{where} is cut short: {needed} bytes declared, {item.file_size} stored")
    return tuple(shape)


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for dim in shape:
        total *= dim
    return total


def _casts(arrays: Mapping[str, Array], interface: Interface) -> str:
    """Which integer arrays are fed as floats, in words: raw pixels where scaled ones belong are a common slip."""
    told = [
        f"{name}: {array.dtype} fed as {kind}"
        for name, array in arrays.items()
        if array.dtype.kind in "biu" and (kind := interface.input(name).dtype) is not None and is_float(kind)
    ]
    return f" ({', '.join(told)})" if told else ""


def _prepare(array: Array, info: TensorInfo, where: str) -> Array:
    check_finite(array, info.name, where)
    converted: Array = convert(array, info, where)
    check_finite(converted, info.name, f"{where}, converted to {info.dtype}")
    return converted


def _check_shared_dims(
    shapes: Mapping[str, tuple[int, ...]], cut: list[str], whole: list[str], interface: Interface, where: str
) -> None:
    """Symbols must agree, the axis that counts samples left out."""
    stripped: dict[str, tuple[int, ...]] = {name: shapes[name][1:] for name in whole}
    inner = Interface(
        tuple(_without_batch(info) if info.name in cut else info for info in interface.inputs),
        interface.outputs,
    )
    for name in cut:
        stripped[name] = shapes[name][1:]
    check_symbols(stripped, inner, where)


def _without_batch(info: TensorInfo) -> TensorInfo:
    return replace(info, shape=None if info.shape is None else info.shape[1:])


def as_array(value: Any, name: str, where: str) -> Array:
    """Turn a fed value into an array; DataError for ragged lists and Python objects."""
    try:
        array: Array = np.asarray(value)
    except ValueError as error:
        raise DataError(f"{where}: value for {name!r} is no array: {error}") from error
    if array.dtype == np.dtype(object) and not all(isinstance(item, str) for item in array.ravel()):
        raise DataError(f"{where}: value for {name!r} holds Python objects, not numbers")
    return array
