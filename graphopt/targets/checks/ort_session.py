"""What ONNX Runtime itself says: whether it loads the model, which provider gets which node, what runs on integers."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import onnx

from graphopt.errors import GraphoptError
from graphopt.model import Model
from graphopt.results import EngineReport, LayerPrecision, Problem
from graphopt.runtime.materialize import session_source
from graphopt.runtime.ort_errors import node_of
from graphopt.runtime.session import Session, SessionConfig
from graphopt.targets.checks.base import COMPUTE, View, listed, name_of, quantized_layers
from graphopt.targets.marking import MARK, mark_nodes

_INTEGER = re.compile(r"^(QLinear\w+|QGemm|MatMulIntegerToFloat|DynamicQuantizeMatMul|ConvInteger|MatMulInteger)$")
_UNREGISTERED = re.compile(r"(?P<domain>[\w.]*):(?P<op>\w+)\(-?\d+\) is not a registered")


def load_problems(model: Model, provider: str) -> tuple[list[Problem], str]:
    """Load the model on a provider: problems, and what was found out in a few words."""
    import onnxruntime

    where = f"onnxruntime {onnxruntime.__version__}"
    try:
        with session_source(model) as source:
            session = Session(source, SessionConfig(provider), name="the model")
    except GraphoptError as error:
        places = _places(model, str(error))
        problems = [Problem("load", "error", name, op, str(error), "see the message") for name, op in places]
        return problems, f"{where} does not load it"
    wanted = session.providers[0]
    left = [n for n in session.assignments() or () if n.provider != wanted]
    problems = [
        Problem("provider", "warning", n.name, n.op, f"runs on {n.provider}, not on {wanted}", "see the rules above")
        for n in left
    ]
    return problems, f"{where} loads it on {', '.join(session.providers)}"


def _places(model: Model, message: str) -> list[tuple[str, str]]:
    """Name and operator of the nodes that a message is about; it may name only an operator. ("", "") when nothing."""
    name, _, op = node_of(message).partition(" (")
    if name:
        return [(name, op.rstrip(")"))]
    found = _UNREGISTERED.search(message)
    if found is None:
        return [("", "")]
    domain = found["domain"].removeprefix("ai.onnx")
    nodes = [
        n for n in model.graph.walk() if n.op == found["op"] and (n.domain or "").removeprefix("ai.onnx") == domain
    ]
    return [(name_of(n), n.op) for n in nodes] or [("", found["op"])]


def cpu_kernels(model: Model) -> EngineReport:
    """Which convolutions and matrix products ONNX Runtime's CPU provider runs on integers, from its optimized graph."""
    import onnxruntime

    work = model.clone()
    nodes = list(work.graph.walk())
    names = mark_nodes(nodes)
    quantized = {n.name for n in quantized_layers(View(work))}
    runs_as: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder, session_source(work) as source:
        path = Path(folder) / "optimized.onnx"
        extra = {
            "session.optimized_model_external_initializers_file_name": "optimized.bin",
            "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
        }
        session = Session(source, SessionConfig(optimized_path=path, session_options=extra), name="the model")
        for kernel in onnx.load(str(path), load_external_data=False).graph.node:
            for mark in MARK.findall(kernel.name):
                runs_as.setdefault(mark, []).append(kernel.op_type)
    layers = []
    for node in nodes:
        if node.op in COMPUTE and not node.domain:
            ops = runs_as.get(node.name, [])
            integer = next((op for op in ops if _INTEGER.match(op)), "")
            precision = "int8" if integer else "float" if ops or node.name not in quantized else ""
            layers.append(
                LayerPrecision(names[node.name], node.op, node.name in quantized, precision, integer or listed(ops, 1))
            )
    label = f"onnxruntime {onnxruntime.__version__} cpu"
    return EngineReport(label, True, session.load_ms / 1000, layers=tuple(layers))
