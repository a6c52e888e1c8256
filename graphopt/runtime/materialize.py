"""A model as ONNX Runtime takes it: bytes while it is small, else a temporary file with its weights beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graphopt.model import Model

INLINE_BYTES = 1 << 29


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
