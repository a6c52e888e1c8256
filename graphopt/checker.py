"""The ONNX checker on a model of any size, without writing its weights."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from graphopt.model import Model


def checker_problem(model: Model) -> str:
    """What the ONNX checker has against the model, or "".

    Large weights are left out: the checker sees their types and shapes, and an empty data file.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-check-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.stub_proto().SerializeToString())
        (path.parent / "weights").touch()
        try:
            onnx.checker.check_model(str(path))
        except onnx.checker.ValidationError as error:
            return next((line.strip() for line in str(error).splitlines() if line.strip()), "refused")
    return ""
