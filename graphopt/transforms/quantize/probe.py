"""A first look at every float tensor on real data: its shape and extremes, without holding its values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import onnx

from graphopt.analysis.statistics.exposure import session_of, topological_order
from graphopt.data.feeds import Dataset, Feeds
from graphopt.errors import DataError
from graphopt.ir import Tensor, Variable
from graphopt.model import Model

PROBED_RUNS = 4
MASK_MAGNITUDE = 1e4


@dataclass(frozen=True)
class Probe:
    """What one float32 tensor looked like: ``shape`` in the first run, extremes over the first few runs."""

    shape: tuple[int, ...]
    low: float
    high: float

    @property
    def elements(self) -> int:
        """Number of values in a run."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def masked(self) -> bool:
        """Whether it holds what attention masks hold: infinities, or magnitudes that no activation has."""
        return not (np.isfinite(self.low) and np.isfinite(self.high)) or max(-self.low, self.high) >= MASK_MAGNITUDE


def probe(model: Model, data: Dataset, batch: int = 1, runs: int | None = PROBED_RUNS) -> dict[str, Probe]:
    """Look at the float32 tensors of the main graph that the first few ``runs`` (None: all) compute.

    Raises:
        DataError: there is no data, an input of the model is not finite, or an inner tensor is NaN.
    """
    names = [t.name for t in float_tensors(model)]
    clone = model.clone()
    graph = clone.graph
    tensors = graph.tensors()
    kept = {o.name: o for o in graph.outputs}
    made = [graph.add_node(op, [tensors[n]], attrs=_attrs(op)).outputs[0] for n in names for op in _OPS]
    graph.outputs = [*kept.values(), *made]
    graph.sort()
    shapes: dict[str, tuple[int, ...]] = {}
    low, high = dict.fromkeys(names, np.inf), dict.fromkeys(names, -np.inf)
    inputs = {t.name for t in model.graph.inputs}
    with session_of(clone, 1) as session:
        for item in islice(data.iter_batches(batch), runs):
            found = session.run(item.feeds)
            for name, (shape, least, most) in zip(names, _triples(found[t.name] for t in made), strict=True):
                shapes.setdefault(name, tuple(int(d) for d in shape))
                if np.isnan(least) or np.isnan(most):
                    first = _first_nan(model, names, item.feeds) or name
                    raise DataError(f"tensor {first!r} is NaN on the calibration data; look at what feeds it")
                if name in inputs and least <= most and not (np.isfinite(least) and np.isfinite(most)):
                    raise DataError(f"input {name!r} holds infinite values in the calibration data")
                low[name], high[name] = min(low[name], float(least)), max(high[name], float(most))
    if not shapes and names:
        raise DataError(f"{data.source} holds no samples; quantization needs some to find ranges")
    return {n: Probe(shapes[n], low[n], high[n]) for n in names}


def float_tensors(model: Model) -> list[Variable]:
    """Variables of the main graph that are float32, declared or inferred."""
    types = element_types(model)
    found: dict[str, Tensor] = model.graph.tensors()
    return [t for n, t in found.items() if isinstance(t, Variable) and types.get(n) == onnx.TensorProto.FLOAT]


def element_types(model: Model) -> dict[str, int]:
    """Element type (TensorProto enum) of the main graph's tensors, as far as shape inference tells."""
    inferred = onnx.shape_inference.infer_shapes(model.stub_proto())
    graph = inferred.graph
    return {
        v.name: v.type.tensor_type.elem_type
        for v in (*graph.input, *graph.value_info, *graph.output)
        if v.type.WhichOneof("value") == "tensor_type"
    }


_OPS = ("Shape", "ReduceMin", "ReduceMax")


def _attrs(op: str) -> dict[str, int]:
    return {} if op == "Shape" else {"keepdims": 0}


def _triples(values: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    flat = iter(values)
    return zip(flat, flat, flat, strict=True)


def _first_nan(model: Model, names: Sequence[str], feeds: Feeds) -> str | None:
    """The first tensor in the order of computation that holds a NaN; extremes may pass over one."""
    clone = model.clone()
    graph, tensors = clone.graph, clone.graph.tensors()
    made = []
    for name in names:
        found = graph.add_node("IsNaN", [tensors[name]])
        number = graph.add_node("Cast", found.outputs, attrs={"to": int(onnx.TensorProto.FLOAT)})
        made.append(graph.add_node("ReduceMax", number.outputs, attrs={"keepdims": 0}).outputs[0])
    graph.outputs = made
    graph.sort()
    order = topological_order(model)
    with session_of(clone, 1) as session:
        values = session.run(feeds)
    bad = [name for name, tensor in zip(names, made, strict=True) if values[tensor.name] > 0]
    return min(bad, key=lambda name: order[name], default=None)
