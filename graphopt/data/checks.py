"""Checks of fed arrays against what the model declares. A failure is a DataError that names the culprit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from graphopt.data.interface import Interface, TensorInfo, nearest_name
from graphopt.errors import DataError

Array = np.ndarray[Any, Any]

LABEL_KEYS = ("__labels__", "labels")


def label_key(names: Iterable[str], interface: Interface) -> str | None:
    """Name under which labels are stored: ``__labels__``, or ``labels`` when no input has that name."""
    inputs = {info.name for info in interface.inputs}
    present = set(names)
    return next((key for key in LABEL_KEYS if key in present and key not in inputs), None)


def check_names(names: Iterable[str], interface: Interface, where: str) -> None:
    """Raise DataError when a required input has no array, or an array belongs to no input."""
    given = set(names)
    known = [info.name for info in interface.inputs]
    missing = [info.name for info in interface.required if info.name not in given]
    if missing:
        wanted = ", ".join(info.describe() for info in interface.required)
        raise DataError(
            f"{where} has no array for input {missing[0]!r}{nearest_name(missing[0], given)}. The model takes {wanted}"
        )
    for name in sorted(given):
        if name not in known:
            raise DataError(f"{where}: array {name!r} is no input of the model{nearest_name(name, known)}")
    for info in interface.inputs:
        if info.name in given and (not info.is_tensor or info.dtype is None):
            raise DataError(f"{where}: input {info.describe()} is not a plain tensor and cannot be fed from arrays")


def convert(array: Array, info: TensorInfo, where: str) -> Array:
    """Give ``array`` in the dtype of the input, when that keeps its values; DataError otherwise.

    Narrowing within a kind (float64 to float32, int64 to int32) is allowed when every value stays finite and
    in range. Float to integer, and anything to bool, is not.
    """
    target = info.dtype
    if target is None:
        raise DataError(f"{where}: input {info.describe()} cannot be fed from arrays")
    if array.dtype == target:
        return array
    if target == np.dtype(object):
        if array.dtype.kind in "US":
            return array.astype(object)
        raise DataError(f"{where}: input {info.name!r} takes strings, the array has {array.dtype}")
    if not _castable(array.dtype, target):
        raise DataError(f"{where}: input {info.name!r} takes {target}, the array has {array.dtype}; convert it")
    if array.dtype.kind in "iu" and target.kind in "iu" and array.size:
        limits = np.iinfo(target)
        low, high = int(array.min()), int(array.max())
        if low < limits.min or high > limits.max:
            raise DataError(f"{where}: input {info.name!r} takes {target}, values run from {low} to {high}")
    with np.errstate(over="ignore"):
        return array.astype(target)


def _castable(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    if source.kind not in "biuf" and not is_float(source):
        return False
    if is_float(target):
        return True
    return target.kind in "iu" and source.kind in "biu"


def is_float(dtype: np.dtype[Any]) -> bool:
    """True for float types, those of ml_dtypes (bfloat16, float8) included."""
    return dtype.kind == "f" or "float" in dtype.name


def check_finite(array: Array, name: str, where: str) -> None:
    """Raise DataError that gives the first NaN or Inf and how many there are."""
    if not is_float(array.dtype) or array.size == 0:
        return
    finite = np.isfinite(array)
    if finite.all():
        return
    bad = np.argwhere(~finite)
    first = tuple(int(i) for i in bad[0])
    kind = "NaN" if np.isnan(array[first]) else "Inf"
    raise DataError(f"{where}: array {name!r} holds {kind} at index {list(first)} ({len(bad)} non-finite values)")


def check_dims(shape: tuple[int, ...], info: TensorInfo, where: str, skip_first: bool = False) -> None:
    """Raise DataError when ``shape`` breaks the rank or a fixed dim; ``skip_first`` leaves axis 0 out."""
    if info.shape is None:
        return
    fits = len(shape) == len(info.shape) and all(
        not isinstance(dim, int) or dim == size or (skip_first and axis == 0)
        for axis, (dim, size) in enumerate(zip(info.shape, shape, strict=True))
    )
    if not fits:
        raise DataError(f"{where}: the array for {info.describe()} has shape {list(shape)}")


def check_symbols(shapes: dict[str, tuple[int, ...]], interface: Interface, where: str) -> None:
    """Raise DataError when one symbolic dim would take two sizes. ``shapes`` are the shapes that are fed."""
    seen: dict[str, tuple[int, str]] = {}
    for info in interface.inputs:
        shape = shapes.get(info.name)
        if shape is None or info.shape is None:
            continue
        for dim, size in zip(info.shape, shape, strict=True):
            if not isinstance(dim, str):
                continue
            known, owner = seen.setdefault(dim, (size, info.name))
            if known != size:
                raise DataError(f"{where}: dim {dim!r} is {known} in {owner!r} but {size} in {info.name!r}")
