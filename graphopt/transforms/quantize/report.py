"""Which layers really became integer kernels: read from the graph that ONNX Runtime makes of the quantized model."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx

from graphopt.model import Model
from graphopt.runtime.materialize import session_source
from graphopt.runtime.session import Session, SessionConfig
from graphopt.transforms.quantize.units import Unit

INTEGER_KERNELS = frozenset(
    {
        "QLinearConv",
        "QLinearMatMul",
        "QGemm",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "QLinearAdd",
        "QLinearMul",
        "QLinearAveragePool",
        "QLinearGlobalAveragePool",
        "QLinearLeakyRelu",
        "QLinearSigmoid",
        "QLinearSoftmax",
        "QLinearConcat",
        "QLinearWhere",
    }
)
_MARK = re.compile(r"graphopt_unit_(\d+)_")


@dataclass(frozen=True)
class Kernel:
    """What became of one unit: the operator that runs it, and whether that computes on integers."""

    unit: Unit
    runs_as: str
    integer: bool


@dataclass(frozen=True)
class KernelReport:
    """Kernels of all units that were meant to be integer, and how often each operator runs in the whole model."""

    kernels: tuple[Kernel, ...]
    operators: Mapping[str, int]

    @property
    def missed(self) -> tuple[Kernel, ...]:
        """Compute, pointwise and unary units that run in float although Q/DQ were put around them."""
        return tuple(k for k in self.kernels if not k.integer)


def kernel_report(model: Model, units: Sequence[Unit]) -> KernelReport:
    """Load the model in ONNX Runtime and look up each unit in the optimized graph.

    Units are told apart by node names, which fused nodes keep as part of theirs; for the look-up each gets a unique
    one. Movers have no integer kernels of their own and are left out.

    Raises:
        ValidationError: ONNX Runtime does not load the model.
    """
    kept = [u for u in units if u.rule.kind != "mover"]
    with _marked(kept):
        optimized = _optimized(model)
    runs_as: dict[int, list[str]] = {}
    for node in optimized.node:
        for index in _MARK.findall(node.name):
            runs_as.setdefault(int(index), []).append(node.op_type)
    kernels = []
    for index, unit in enumerate(kept):
        ops = runs_as.get(index, [])
        integer = next((op for op in ops if op in INTEGER_KERNELS), "")
        kernels.append(Kernel(unit, integer or (ops[0] if ops else unit.node.op), bool(integer)))
    return KernelReport(tuple(kernels), Counter(n.op_type for n in optimized.node))


@contextmanager
def _marked(units: Sequence[Unit]) -> Iterator[None]:
    names = [u.node.name for u in units]
    try:
        for index, unit in enumerate(units):
            unit.node.name = f"graphopt_unit_{index}_"
        yield
    finally:
        for unit, name in zip(units, names, strict=True):
            unit.node.name = name


def _optimized(model: Model) -> onnx.GraphProto:
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        path = Path(folder) / "optimized.onnx"
        extra = {
            "session.optimized_model_external_initializers_file_name": "optimized.bin",
            "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
        }
        config = SessionConfig(optimized_path=path, session_options=extra)
        with session_source(model) as source:
            Session(source, config, role="result", name="the quantized model")
        return onnx.load(str(path), load_external_data=False).graph
