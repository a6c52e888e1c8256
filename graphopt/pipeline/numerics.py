"""The differential check of one pass: the model before and after it, on the same feeds, in ONNX Runtime."""

from __future__ import annotations

import numpy as np

from graphopt.data.feeds import Dataset
from graphopt.errors import GraphoptError, ValidationError
from graphopt.model import Model
from graphopt.pipeline.passes import Guarantee
from graphopt.results import Comparison
from graphopt.runtime.compare import compare
from graphopt.runtime.materialize import session_source
from graphopt.runtime.session import Session, SessionConfig

TOLERANCE = {"float64": 1e-10, "float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
"""Largest error that an equivalent rewrite may make, as a share of the output's range."""


class Numerics:
    """Compares models on a few samples, with the runtime's own optimizations off."""

    def __init__(self, data: Dataset, samples: int = 4) -> None:
        self._data = data.select(range(min(samples, len(data))))
        self._config = SessionConfig(optimize="off")

    def __call__(self, before: Model, after: Model, guarantee: Guarantee) -> str:
        """Evidence in words.

        Raises:
            ValidationError: an output differs by more than the guarantee allows.
        """
        with session_source(before) as one, session_source(after) as two:
            try:
                reference = Session(one, self._config)
            except GraphoptError as error:
                return f"numerics skipped, the model did not run before the pass: {error}"
            result = Session(two, self._config, role="result")
            comparison = compare(reference, result, self._data)
        problem = _other_type(reference, result) or excess(comparison, guarantee)
        if problem:
            raise ValidationError(f"the pass promises {guarantee} outputs, but {problem}")
        return f"outputs {guarantee} on {comparison.samples} samples"


def _other_type(reference: Session, result: Session) -> str:
    """Which output has another type, in words; "" when none has."""
    for old, new in zip(reference.interface.outputs, result.interface.outputs, strict=False):
        if (old.kind, old.elem_type) != (new.kind, new.elem_type):
            return f"output {new.name!r} is {new.dtype or new.kind}, it was {old.dtype or old.kind}"
    return ""


def excess(comparison: Comparison, guarantee: Guarantee) -> str:
    """What breaks the guarantee, in words; "" when nothing does."""
    if guarantee == "lossy":
        return ""
    for output in comparison.outputs:
        if output.new_non_finite or output.lost_non_finite:
            return f"output {output.name!r} has other NaN or infinite values than before"
        if output.shape_mismatches:
            return f"output {output.name!r} has another shape"
        if output.equal_share is not None:
            if output.equal_share < 1.0 and np.dtype(output.dtype).kind != "f":
                return f"{1 - output.equal_share:.2%} of the elements of output {output.name!r} changed"
            continue
        if guarantee == "exact" and output.zero_signs:
            return f"{output.zero_signs} zeros of output {output.name!r} changed their sign"
        limit = 0.0 if guarantee == "exact" else TOLERANCE.get(output.dtype, 1e-5)
        if output.max_abs > 0 and not output.relative_to_range <= limit:
            return (
                f"output {output.name!r} differs by {output.relative_to_range:.3g} of its range ({limit:g} is allowed)"
            )
    return ""
