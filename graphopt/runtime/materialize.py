"""A model as ONNX Runtime takes it: bytes while it is small, else a temporary file with its weights beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx

from graphopt.ir import Array
from graphopt.model import Model

INLINE_BYTES = 1 << 29
_SHARED_TYPES = frozenset({"float32", "float16", "float64", "int8", "uint8", "int32", "int64"})


@contextmanager
def session_source(model: Model) -> Iterator[bytes | Path]:
    """What a ``Session`` can be made of. A session must be made, and may be kept, inside the block."""
    if model.weight_bytes() < INLINE_BYTES:
        yield model.serialize()
        return
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        path = Path(folder) / "model.onnx"
        model.save(path, external="file")
        yield path


def shared_source(model: Model) -> tuple[bytes, dict[str, Array]] | None:
    """A large model without its large weights, and those by name: a session reads them where they are.

    Nothing is written or copied, so that many sessions of one model's variants cost little. None for small models, and
    where ONNX Runtime does not take weights so: in nested graphs, and of types that numpy lacks.
    """
    if model.weight_bytes() < INLINE_BYTES:
        return None
    stub = model.stub_proto()
    outside = {t.name for t in stub.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL}
    weights = {c.name: c for c in model.graph.initializers if c.name in outside}
    nested = [c for g in model.graph.graphs() if g is not model.graph for c in g.initializers]
    if nested or any(str(c.dtype) not in _SHARED_TYPES for c in weights.values()):
        return None
    return stub.SerializeToString(deterministic=True), {n: np.ascontiguousarray(c.values) for n, c in weights.items()}
