"""Inputs and outputs of types that numpy does not have: bfloat16 and the 8-bit floats of ml_dtypes.

ONNX Runtime's ``run`` refuses them, so they pass as raw bytes through OrtValue.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.data.checks import Array
from graphopt.data.feeds import Feeds
from graphopt.data.interface import Interface, TensorInfo
from graphopt.errors import UnsupportedError

_USER_DEFINED = 2
_PACKED = ("int2", "int4", "uint2", "uint4", "float4")


def is_exotic(dtype: np.dtype[Any] | None) -> bool:
    """True for types that numpy itself does not have."""
    return dtype is not None and dtype.isbuiltin == _USER_DEFINED


def run_with_exotic_types(session: Any, interface: Interface, outputs: Sequence[str], feeds: Feeds) -> list[Any]:
    """Run an onnxruntime session whose interface holds exotic types. Outputs are copied to numpy arrays."""
    values = {name: _to_ort(array, interface.input(name)) for name, array in feeds.items()}
    results = session.run_with_ort_values(list(outputs), values)
    return [_to_numpy(value, interface.output(name)) for name, value in zip(outputs, results, strict=True)]


def _to_ort(array: Array, info: TensorInfo) -> Any:
    from onnxruntime import OrtValue

    if not is_exotic(array.dtype):
        return OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array).reshape(array.shape))
    _refuse_packed(info)
    raw = np.ascontiguousarray(array).reshape(array.shape).view(f"u{array.dtype.itemsize}")
    return OrtValue.ortvalue_from_numpy_with_onnx_type(raw, info.elem_type)


def _to_numpy(value: Any, info: TensorInfo) -> Any:
    if not is_exotic(info.dtype) or info.dtype is None:
        return value.numpy()
    _refuse_packed(info)
    raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(raw, info.dtype).reshape(value.shape()).copy()


def _refuse_packed(info: TensorInfo) -> None:
    if info.dtype is not None and info.dtype.name.startswith(_PACKED):
        raise UnsupportedError(f"{info.describe()}: types under one byte cannot be fed or read; add a Cast")
