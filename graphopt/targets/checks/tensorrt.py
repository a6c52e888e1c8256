"""Rules of TensorRT about operators, types, opset and shapes. The operator table is made by NVIDIA's parser."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

import numpy as np

from graphopt.ir import constant_value
from graphopt.targets.builtin import TENSORRT
from graphopt.targets.checks.base import DEQUANTIZE, MICROSOFT, QUANTIZE, Finding, Rule, View
from graphopt.targets.checks.tensorrt_qdq import QDQ_RULES
from graphopt.targets.qoperators import QOPERATORS, convertible

TABLE = "tensorrt-operators.json"
MIN_OPSET = 9
_MICROSOFT_KNOWN = frozenset(
    {"Gelu", QUANTIZE, DEQUANTIZE, "GroupQueryAttention", "RotaryEmbedding", "MultiHeadAttention", "MatMulNBits"}
)
IN_PLUGIN_LIBRARY = frozenset({"NonZero", "RoiAlign", "DeformConv"})
_REFUSED_TYPES = frozenset({"int16", "uint16", "uint32", "uint64", "object", "complex64", "complex128"})
_DYNAMIC = frozenset({"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"})


@dataclass(frozen=True)
class Support:
    """How NVIDIA's parser treats an operator: whether it knows it, and how many of onnx's variants it takes."""

    known: bool
    passed: int
    cases: int
    with_constants: int = 0
    refusals: tuple[str, ...] = ()


@cache
def operator_table() -> Mapping[str, Support]:
    """The shipped table, by operator of ``ai.onnx``."""
    rows = json.loads(files("graphopt.targets").joinpath(TABLE).read_text("utf-8"))["operators"]
    return MappingProxyType(
        {
            op: Support(
                row["known"],
                row["passed"],
                row["cases"],
                row.get("with_constants", 0),
                tuple(row.get("refusals", ())),
            )
            for op, row in rows.items()
        }
    )


@cache
def table_origin() -> str:
    """Which parser made the table."""
    head = json.loads(files("graphopt.targets").joinpath(TABLE).read_text("utf-8"))
    return f"operator table of {head['parser']} ({head['cases']} node tests of onnx {head['onnx']})"


def _unknown_operators(view: View) -> Iterator[Finding]:
    table = operator_table()
    functions = {(f.domain, f.name) for f in view.model.functions}
    for node in view.nodes:
        domain = node.domain or ""
        if (domain, node.op) in functions or domain == "trt.plugins":
            continue
        if domain == "":
            row = table.get(node.op)
            if node.op in IN_PLUGIN_LIBRARY:
                yield Finding(node, _PLUGIN_TEXT.format(node.op), "build with the plugin library", severity="note")
            elif node.op in _DYNAMIC:
                yield Finding(node, f"{node.op} (dynamic quantization) is not supported", _STATIC)
            elif node.op in QOPERATORS:
                yield Finding(node, f"{node.op} is not supported", _QDQ_FORM, convertible(node))
            elif row is None or not row.known:
                yield Finding(node, f"{node.op} is not supported", "replace it, or write a plugin")
        elif domain == MICROSOFT and node.op in QOPERATORS:
            yield Finding(node, f"{domain}.{node.op} is not supported", _QDQ_FORM, convertible(node))
        elif domain == MICROSOFT and node.op in (QUANTIZE, DEQUANTIZE):
            yield Finding(node, f"{domain}.{node.op} is better known as {node.op}", _PLAIN, True, "note")
        elif domain == MICROSOFT and node.op in _MICROSOFT_KNOWN:
            yield Finding(node, f"the parser knows {domain}.{node.op}, with restrictions", severity="note")
        else:
            yield Finding(node, f"{domain}.{node.op} is not supported", _UNOPTIMIZED if domain == MICROSOFT else None)


def _restricted_operators(view: View) -> Iterator[Finding]:
    table = operator_table()
    for node in view.nodes:
        row = None if node.domain else table.get(node.op)
        if row is None or not row.known or row.passed or not row.cases or node.op in IN_PLUGIN_LIBRARY:
            continue
        if node.op == "LayerNormalization" and sum(not t.is_empty() for t in node.outputs) == 1:
            continue
        yield Finding(node, f"none of onnx's {row.cases} tests of {node.op} passed: {row.refusals[0]}")


def _constant_inputs(view: View) -> Iterator[Finding]:
    """Operators that pass only with constant axes or sizes, here with computed ones."""
    table = operator_table()
    for node in view.nodes:
        row = None if node.domain else table.get(node.op)
        if row is None or row.with_constants < row.cases or not row.cases:
            continue
        for tensor in node.inputs[1:]:
            if not tensor.is_empty() and tensor.dtype == np.int64 and constant_value(tensor) is None:
                yield Finding(node, f"{node.op} needs a constant for {tensor.name!r}, which is computed")


def _tensor_types(view: View) -> Iterator[Finding]:
    graph = view.model.graph
    constants = [c for g in graph.graphs() for c in g.initializers]
    for tensor in (*graph.inputs, *graph.outputs, *constants):
        kind = tensor.dtype
        if tensor.outputs and all(n.op in (QUANTIZE, DEQUANTIZE) for n in tensor.outputs):
            continue
        if kind is not None and kind.name in _REFUSED_TYPES:
            name = "string" if kind.name == "object" else kind.name
            yield Finding(None, f"tensor {tensor.name!r} is {name}, which TensorRT does not have")


def _opset(view: View) -> Iterator[Finding]:
    highest = TENSORRT.max_opset or view.opset
    if view.opset > highest:
        yield Finding(None, f"opset {view.opset} is newer than the {highest} that TensorRT 11 documents")
    elif view.opset < MIN_OPSET:
        yield Finding(None, f"opset {view.opset} is older than {MIN_OPSET}", "export it again", False, "error")


def _dynamic_shapes(view: View) -> Iterator[Finding]:
    for tensor in view.model.graph.inputs:
        free = [
            str(d) if d is not None else f"axis {i}"
            for i, d in enumerate(tensor.shape or ())
            if not isinstance(d, int) and d not in view.dims
        ]
        if free:
            yield Finding(None, f"input {tensor.name!r} has free dims ({', '.join(free)}): no engine without a profile")


_STATIC = "quantize statically: graphopt run --passes quantize --target tensorrt --data ..."
_QDQ_FORM = "use the Q/DQ form"
_PLAIN = "use the operator of ai.onnx"
_UNOPTIMIZED = "use the model as exported, not one that ONNX Runtime optimized"
_PLUGIN_TEXT = "{} is listed as supported, through TensorRT's plugin library; the parser used here has none"

RULES = (
    Rule("operator", "error", "replace it, or keep it out of the engine", _unknown_operators),
    Rule(
        "operator-restricted", "warning", "see the text; parse with NVIDIA's parser to be sure", _restricted_operators
    ),
    Rule("constant-input", "error", "run the cleanup pass, or fix the shape with --dim", _constant_inputs),
    Rule("tensor-type", "error", "export with int32, int64 or float", _tensor_types),
    Rule("opset", "warning", "--fix stamps a lower one where no operator changed in between", _opset, fixable=True),
    Rule("dynamic-shape", "warning", "give --dim NAME=N; graphopt export writes the profile", _dynamic_shapes),
    *QDQ_RULES,
)
