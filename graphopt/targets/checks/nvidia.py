"""NVIDIA's parser and builder as a check: their errors as problems, and how each layer runs in the engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from graphopt.data.interface import read_interface
from graphopt.ir import Node
from graphopt.results import BuiltKernel, EngineReport, LayerPrecision, Problem
from graphopt.targets.checks.base import COMPUTE, LEAVE_IN_FLOAT, View, dequantized, fixed_source, quantized_layers
from graphopt.targets.checks.tensorrt import IN_PLUGIN_LIBRARY
from graphopt.targets.marking import display_names
from graphopt.targets.tensorrt_rtx import Build, Inspection, Profiles, inspect

_PARSER_DECIDES = frozenset({"operator", "operator-restricted", "constant-input", "tensor-type", "opset"})
_TYPES = {
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Int8": "int8",
    "FP8": "float8",
    "Int4": "int4",
}
_FLOATS = ("Float", "Half", "BFloat16", "FP8")
_ROUNDED = "it is in one kernel with what it adds, where its Q/DQ only round"
_PLAIN_NO = "not supported"
_NO_LIBRARY = "not decided: TensorRT has this operator in its plugin library, which TensorRT for RTX lacks"
_POINTWISE = "kgen"
_NO_INT8 = {"sm75": "this builder has no int8 kernels for sm75"}


@dataclass(frozen=True)
class Verdict:
    """The static problems, corrected by what NVIDIA's code said, its engines, and notes."""

    problems: tuple[Problem, ...]
    engines: tuple[EngineReport, ...]
    evidence: tuple[str, ...]
    not_checked: tuple[str, ...]


def ask_nvidia(view: View, problems: Sequence[Problem], capabilities: Sequence[str], seconds: float) -> Verdict:
    """Parse and build. Without numbers for all free dims the model is only parsed."""
    profiles, missing = build_profiles(view)
    found = inspect(view.model, () if missing else capabilities, profiles, seconds)
    tool = f"NVIDIA TensorRT for RTX {found.version or '(no answer)'}, no GPU"
    not_checked = [] if found.parsed else ["not built: NVIDIA's parser refuses the model"]
    if missing and found.parsed:
        not_checked = [f"not built: give numbers for {', '.join(missing)} (--dim NAME=N)"]
    if found.crash:
        not_checked.append(f"not known: {found.crash}")
    merged = _merge(problems, found)
    engines = tuple(_engine(view, build, merged) for build in found.builds)
    for engine in engines:
        merged = (*merged, *_engine_problems(engine))
    said = "parses it" if found.parsed else "refuses it"
    return Verdict(merged, engines, (f"{tool}: {said}",), tuple(not_checked))


def build_profiles(view: View) -> tuple[Profiles, list[str]]:
    """One shape for each input with free dims (the batch is 1 unless given), and the dims without a number."""
    interface = read_interface(view.model.stub_proto().SerializeToString())
    known = {k: v for k, v in view.dims.items() if k in interface.free_dims()}
    bound = interface.bind(known, 1 if interface.batch_dims() else None)
    missing = list(bound.free_dims())
    if missing:
        return {}, missing
    profiles = {}
    for before, after in zip(interface.required, bound.required, strict=True):
        if before.free_dims():
            shape = [int(d) for d in after.shape or () if d is not None]
            profiles[before.name] = (shape, shape, shape)
    return profiles, []


def _merge(problems: Sequence[Problem], found: Inspection) -> tuple[Problem, ...]:
    """Static problems beside the parser's: its text is added where both name a node; where it says no, that counts."""
    texts = {e.node: e.message for e in found.errors if e.node}
    merged = []
    for problem in problems:
        if found.parsed and problem.rule in _PARSER_DECIDES and problem.severity == "error":
            message = f"{problem.message}; but NVIDIA's parser {found.version} takes it"
            problem = replace(problem, severity="note", message=message)
        elif problem.severity == "error" and texts.get(problem.node, _PLAIN_NO) != _PLAIN_NO:
            problem = replace(problem, message=f"{problem.message} (NVIDIA's parser: {texts[problem.node]})")
        merged.append(problem)
    named = {p.node for p in merged if p.severity == "error"}
    for error in found.errors:
        known = not error.node and any(p.severity == "error" for p in merged)
        if error.op in IN_PLUGIN_LIBRARY:
            merged.append(Problem("plugin", "warning", error.node, error.op, _NO_LIBRARY, "parse with TensorRT itself"))
        elif error.node not in named and not known:
            merged.append(Problem("parser", "error", error.node, error.op, f"NVIDIA's parser: {error.message}"))
            named.add(error.node)
    if not (found.parsed or found.crash or found.errors or any(p.severity == "error" for p in merged)):
        merged.append(Problem("parser", "error", "", "", "NVIDIA's parser refuses the model and names no node"))
    return tuple(merged)


def _engine(view: View, build: Build, problems: Sequence[Problem]) -> EngineReport:
    names = dict(zip((id(n) for n in view.nodes), display_names(view.nodes), strict=True))
    quantized = {id(n) for n in (*quantized_layers(view), *quantized_adds(view))}
    said: Mapping[str, str] = {p.node: f"{p.rule}: {p.message}" for p in reversed(problems) if p.severity == "warning"}
    layers = []
    for node in view.nodes if build.built else ():
        if node.domain or (node.op not in COMPUTE and id(node) not in quantized):
            continue
        kernel = _kernel_of(names[id(node)], build.kernels)
        precision = "" if kernel is None else kernel_precision(kernel, node.op in COMPUTE)
        reason = ""
        if precision != "int8":
            own = "the builder chose it" if node.op in COMPUTE else _ROUNDED
            around = [names[id(node)], *(names[id(d)] for d in map(dequantized, node.inputs[:2]) if d is not None)]
            known = next((said[n] for n in around if n in said), _NO_INT8.get(build.capability, own))
            reason = known if id(node) in quantized else "it has no Q/DQ on both its input and its weight"
        layers.append(
            LayerPrecision(
                names[id(node)],
                node.op,
                id(node) in quantized,
                precision,
                "" if kernel is None else kernel.name,
                reason,
            )
        )
    return EngineReport(build.capability, build.built, build.seconds, build.message, build.kernels, tuple(layers))


def _kernel_of(name: str, kernels: Sequence[BuiltKernel]) -> BuiltKernel | None:
    """The kernel that computes a layer: one that names it and is more than pointwise, else any that names it."""
    naming = [k for k in kernels if name in k.nodes]
    return next((k for k in naming if k.kind != _POINTWISE), naming[0] if naming else None)


def quantized_adds(view: View) -> Iterator[Node]:
    """Additions with a dequantized activation: they should read int8."""
    for node in view.ops("Add"):
        if any(d is not None and not fixed_source(d.inputs[0]) for d in map(dequantized, node.inputs)):
            yield node


def kernel_precision(kernel: BuiltKernel, weighted: bool = True) -> str:
    """In what a kernel computes.

    ``int8`` when activation and weight are (``weighted``), or when it reads int8 at all (an addition);
    ``int8 weights`` when only the weight is; else the type of the first input.
    """
    integers = kernel.inputs.count("Int8")
    if integers and not weighted:
        return "int8"
    alone = len(kernel.inputs) == 1 and not kernel.constants
    if integers and (integers > 1 or "Int8" in kernel.constants or alone):
        return "int8"
    packed = next((t for t in ("Int8", "Int4") if weighted and not integers and t in kernel.constants), "")
    if packed:
        return f"{_TYPES[packed]} weights"
    first = next((t for t in (*kernel.inputs, *kernel.constants, *kernel.outputs) if t in _FLOATS), "")
    return _TYPES.get(first, first.lower())


def _engine_problems(engine: EngineReport) -> list[Problem]:
    if not engine.built:
        message = f"does not build for {engine.capability}: {engine.message}"
        return [Problem("build", "error", "", "", message, "see the message; another --sm may build")]
    return [
        Problem(
            "float-layer",
            "warning",
            layer.node,
            layer.op,
            f"Q/DQ, yet {layer.precision or 'unknown'} on {engine.capability}: {layer.reason}",
            LEAVE_IN_FLOAT,
        )
        for layer in engine.float_anyway
    ]
