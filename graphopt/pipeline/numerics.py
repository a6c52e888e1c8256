"""The differential check of one pass: the model before and after it, on the same feeds, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphopt.data.feeds import Dataset
from graphopt.errors import GraphoptError, ValidationError
from graphopt.ir import constant_value
from graphopt.model import Model
from graphopt.pipeline.passes import Guarantee
from graphopt.results import Comparison
from graphopt.runtime.compare import compare
from graphopt.runtime.materialize import session_source
from graphopt.runtime.session import Session, SessionConfig

_DRAWS = 3
TOLERANCE = {"float64": 1e-10, "float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
"""Largest error that an equivalent rewrite may make, as a share of the output's range."""


class Numerics:
    """Compares models on a few samples, with the runtime's own optimizations off."""

    def __init__(self, data: Dataset, samples: int = 4) -> None:
        self._data = few(data, samples)
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
            comparison = compare(reference, result, self._data, score=False)
            problem = _other_type(reference, result) or excess(comparison, guarantee)
            if problem and guarantee == "equivalent":
                noise = rounding_noise(before, self._data, self._config)
                problem = _other_type(reference, result) or excess(comparison, guarantee, noise)
        if problem:
            raise ValidationError(f"the pass promises {guarantee} outputs, but {problem}")
        return f"outputs {guarantee} on {comparison.samples} samples"


def _other_type(reference: Session, result: Session) -> str:
    """Which output has another type, in words; "" when none has."""
    for old, new in zip(reference.interface.outputs, result.interface.outputs, strict=False):
        if (old.kind, old.elem_type) != (new.kind, new.elem_type):
            return f"output {new.name!r} is {new.dtype or new.kind}, it was {old.dtype or old.kind}"
    return ""


def few(data: Dataset, samples: int = 4) -> Dataset:
    """The first samples of the data."""
    return data.select(range(min(samples, len(data))))


def rounding_noise(model: Model, data: Dataset, config: SessionConfig) -> dict[str, float]:
    """For each output, by how much of its range it moves when float weights move in their last place.

    The worst of three draws; zeros stay. A rewrite that folds rounds weights once more: none can stay nearer.
    """
    worst: dict[str, float] = {}
    with session_source(model) as source:
        reference = Session(source, config)
        for seed in range(_DRAWS):
            with session_source(_nudged(model, seed)) as moved:
                noise = compare(reference, Session(moved, config), data, score=False)
            for output in noise.outputs:
                if np.isfinite(output.relative_to_range):
                    worst[output.name] = max(worst.get(output.name, 0.0), output.relative_to_range)
    return worst


def _nudged(model: Model, seed: int) -> Model:
    """A clone in which every float weight that is not zero moved up or down by one unit in its last place."""
    rng = np.random.default_rng(seed)
    clone = model.clone()
    for graph in list(clone.graph.graphs()):
        tensors = [*graph.initializers, *(n.outputs[0] for n in graph.nodes if n.is_op("Constant"))]
        for tensor in tensors:
            value = constant_value(tensor)
            if value is not None and value.ndim and value.dtype.kind == "f":
                way = np.where(rng.random(value.shape) < 0.5, -np.inf, np.inf).astype(value.dtype)
                clone.graph.set_weight(tensor, np.where(value == 0, value, np.nextafter(value, way)))
    return clone


def excess(comparison: Comparison, guarantee: Guarantee, noise: Mapping[str, float] | None = None) -> str:
    """What breaks the guarantee, in words; "" when nothing does.

    ``noise``: an equivalent result may differ by as much as the original does when its weights are rounded anew.
    """
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
        floor = (noise or {}).get(output.name, 0.0)
        limit = 0.0 if guarantee == "exact" else max(TOLERANCE.get(output.dtype, 1e-5), floor)
        if output.max_abs > 0 and not output.relative_to_range <= limit:
            return (
                f"output {output.name!r} differs by {output.relative_to_range:.3g} of its range ({limit:g} is allowed)"
            )
    return ""
