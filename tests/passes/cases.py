"""Before/after graphs as ONNX text: reading them, and comparing graphs without regard to names and order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from graphopt import Model, load
from graphopt.graph import Graph
from graphopt.ir import Constant, Tensor, constant_value, is_constant

CASES = Path(__file__).resolve().parent.parent / "cases"
SEPARATOR = "\n----\n"


@dataclass(frozen=True)
class Case:
    """One case: what it shows, the pass with its options, the graph before, and after (None: unchanged)."""

    name: str
    title: str
    step: str
    before: str
    after: str | None

    def model(self) -> Model:
        """The graph before, as a model."""
        return load(onnx.parser.parse_model(self.before))

    def expected(self) -> Model:
        """The graph that the pass should leave."""
        return load(onnx.parser.parse_model(self.after or self.before))


def read_case(path: Path) -> Case:
    """Read a case file."""
    before, _, after = path.read_text("utf-8").partition(SEPARATOR)
    comments = [line[1:].strip() for line in before.splitlines() if line.startswith("#")]
    graph = "\n".join(line for line in before.splitlines() if not line.startswith("#"))
    fields = dict(c.split(": ", 1) for c in comments[1:])
    header = f'<ir_version: 8, opset_import: ["" : {fields.get("opset", "17")}]>\n'
    options = fields.get("options")
    step = path.parent.name + (f":{options}" if options else "")
    text = None if after.strip() == "unchanged" else header + after
    return Case(f"{path.parent.name}/{path.stem}", comments[0], step, header + graph, text)


def read_text(name: str) -> str:
    """The text of a case, by ``pass/case``."""
    return (CASES / f"{name}.txt").read_text("utf-8")


def all_cases() -> list[Case]:
    """Every case, sorted."""
    return [read_case(p) for p in sorted(CASES.glob("*/*.txt"))]


def structure(model: Model) -> Any:
    """What a model computes, without names and order: the interface, and each output as a term over the inputs."""
    graph = model.graph
    interface = [(t.name, str(t.dtype), str(t.shape)) for t in (*graph.inputs, *graph.outputs)]
    return interface, _terms(graph, {}), sum(1 for n in model.graph.walk() if n.op != "Constant")


def _terms(graph: Graph, known: dict[Tensor, Any]) -> list[Any]:
    known = {**known, **{t: ("input", i) for i, t in enumerate(graph.inputs)}}
    for node in graph.nodes:
        if node.op == "Constant":
            continue
        inputs = tuple(_term(t, known) for t in node.inputs)
        attrs = tuple(sorted((k, _attribute(v, known)) for k, v in node.attrs.items()))
        for index, tensor in enumerate(node.outputs):
            known[tensor] = hash((node.op, node.domain, inputs, attrs, index))
    return [_term(t, known) for t in graph.outputs]


def _term(tensor: Tensor, known: dict[Tensor, Any]) -> Any:
    if tensor.is_empty():
        return None
    if is_constant(tensor):
        values = np.asarray(constant_value(tensor))
        return str(values.dtype), values.shape, tuple(values.reshape(-1).tolist())
    return known[tensor]


def _attribute(value: Any, known: dict[Tensor, Any]) -> str:
    if isinstance(value, Graph):
        return str(_terms(value, known))
    if isinstance(value, Constant):
        return f"{value.dtype} {value.values.tolist()}"
    return re.sub(r"\s+", " ", str(value))
