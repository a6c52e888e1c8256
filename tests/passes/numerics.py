"""Runs two models on the same seeded inputs, edge values included, and compares them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

ORT_ERRORS = tuple(
    v for v in vars(ort.capi.onnxruntime_pybind11_state).values() if isinstance(v, type) and issubclass(v, Exception)
)
TOLERANCE = {8: 1e-5, 4: 1e-5, 2: 2e-3, 1: 0.1}
SPECIAL = (-0.0, 0.0, np.inf, -np.inf, np.nan, 1e-30, 3.4e38)


def session(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def draw(model: onnx.ModelProto, seed: int, extent: int, special: bool) -> dict[str, Any]:
    """Inputs for a model; each symbolic extent becomes ``extent`` plus a number of its own."""
    rng = np.random.default_rng(seed)
    names: dict[str, int] = {}
    feeds = {}
    initialized = {t.name for t in model.graph.initializer}
    for info in model.graph.input:
        if info.name in initialized:
            continue
        tensor = info.type.tensor_type
        shape = [
            d.dim_value if d.HasField("dim_value") else names.setdefault(d.dim_param, extent + len(names))
            for d in tensor.shape.dim
        ]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if dtype.kind == "f":
            values = rng.standard_normal(shape)
            if special and values.size:
                flat = values.reshape(-1)
                flat[rng.integers(0, flat.size, min(len(SPECIAL), flat.size))] = SPECIAL[: flat.size]
            feeds[info.name] = values.astype(dtype)
        elif dtype.kind == "b":
            feeds[info.name] = rng.integers(0, 2, shape).astype(bool)
        else:
            feeds[info.name] = rng.integers(-3, 4, shape).astype(dtype)
    return feeds


def bits(array: Any) -> bytes:
    """The bytes, with every NaN the same."""
    array = np.asarray(array)
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), np.array(np.nan, array.dtype), array)
    return np.ascontiguousarray(array).tobytes()


def assert_equal(before: list[Any], after: list[Any], exact: bool) -> None:
    """Bit-equal, or within 1e-5 of the range of each output (half precision: two units in the last place)."""
    assert len(before) == len(after)
    for a, b in zip(before, after, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        if exact or a.dtype.kind != "f":
            assert a.dtype == object or bits(a) == bits(b)
            continue
        finite = np.isfinite(a)
        assert np.array_equal(finite, np.isfinite(b))
        spread = float(np.abs(a[finite]).max(initial=0.0)) or 1.0
        assert np.abs(a[finite].astype(np.float64) - b[finite]).max(initial=0.0) <= TOLERANCE[a.dtype.itemsize] * spread


def compare(before: onnx.ModelProto, after: bytes, exact: bool, seeds: int = 2) -> None:
    """Run both on normal values, and, when they must be bit-equal, on NaN, infinities and -0 too."""
    first, second = session(before.SerializeToString()), session(after)
    for seed in range(seeds):
        for extent, special in ((2, False), (3, exact)):
            feeds = draw(before, seed, extent, special)
            assert_equal(first.run(None, feeds), second.run(None, feeds), exact)
