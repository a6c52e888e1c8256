"""``check_model``: will a model run on a target, as what, and what to do where it will not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graphopt.model import Model
from graphopt.results import CheckReport, EngineReport, Problem
from graphopt.targets.base import Target
from graphopt.targets.checks.base import LEAVE_IN_FLOAT, Rule, View

_ORDER = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True)
class CheckConfig:
    """How to check.

    Attributes:
        dims: numbers for symbolic dims.
        capabilities: GPUs that NVIDIA's builder builds for, such as ``sm86``.
        ask_runtime: also ask the target's own runtime, parser or builder, where it is installed.
        seconds: time limit of NVIDIA's code.
    """

    dims: Mapping[str, int] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ("sm86",)
    ask_runtime: bool = True
    seconds: float = 300


@dataclass
class _Findings:
    problems: list[Problem] = field(default_factory=list)
    engines: list[EngineReport] = field(default_factory=list)
    evidence: list[str] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)


def rules_of(target: Target) -> Sequence[Rule]:
    """The static rules of a target; () for one that has none."""
    from graphopt.targets.checks.ort import CPU_RULES, CUDA_RULES
    from graphopt.targets.checks.tensorrt import RULES

    return {"tensorrt": RULES, "ort-cpu": CPU_RULES, "ort-cuda": CUDA_RULES}.get(target.name, ())


def check_model(model: Model, target: Target, config: CheckConfig | None = None) -> CheckReport:
    """Check a model against a target: static rules, then the target's own runtime where it is installed.

    The model is not changed.
    """
    config = config or CheckConfig()
    view = View(model, config.dims)
    found = _Findings([p for rule in rules_of(target) for p in rule.problems(view)])
    if not config.ask_runtime:
        found.not_checked.append("the target's own runtime was not asked")
    elif target.name == "tensorrt":
        _tensorrt(view, found, config)
    elif target.name == "openvino":
        _openvino(model, found)
    elif target.provider:
        _onnxruntime(model, target, found)
    if target.name == "tensorrt":
        from graphopt.targets.checks.tensorrt import table_origin

        found.evidence.append(table_origin())
    found.problems.sort(key=lambda p: _ORDER[p.severity])
    return CheckReport(
        target.name, tuple(found.problems), tuple(found.engines), tuple(found.evidence), tuple(found.not_checked)
    )


def _tensorrt(view: View, found: _Findings, config: CheckConfig) -> None:
    from graphopt.targets.checks.nvidia import ask_nvidia
    from graphopt.targets.tensorrt_rtx import installed

    if not installed():
        found.not_checked.append(
            "NVIDIA's parser and builder are not installed (pip install 'graphopt[tensorrt]'): "
            "the precision of kernels is not known"
        )
        return
    verdict = ask_nvidia(view, found.problems, config.capabilities, config.seconds)
    found.problems[:] = verdict.problems
    found.engines.extend(verdict.engines)
    found.evidence.extend(verdict.evidence)
    found.not_checked.extend(verdict.not_checked)


def _onnxruntime(model: Model, target: Target, found: _Findings) -> None:
    from graphopt.runtime.providers import PROVIDERS, availability
    from graphopt.targets.checks.ort_session import cpu_kernels, load_problems

    name = next(row.name for row in PROVIDERS.values() if row.execution_provider == target.provider)
    state = availability(name)
    if not state.usable:
        found.not_checked.append(f"not loaded on {target.provider}: {state.reason}")
        name = "cpu"
    problems, evidence = load_problems(model, name)
    found.problems.extend(problems)
    found.evidence.append(evidence)
    if target.name == "ort-cpu" and not any(p.severity == "error" for p in problems):
        engine = cpu_kernels(model)
        found.engines.append(engine)
        flagged = {p.node for p in found.problems if p.severity == "warning"}
        found.problems.extend(
            Problem(
                "float-layer",
                "warning",
                layer.node,
                layer.op,
                f"Q/DQ, yet it runs as {layer.kernel or 'unknown'}",
                LEAVE_IN_FLOAT,
            )
            for layer in engine.float_anyway
            if layer.node not in flagged
        )


def _openvino(model: Model, found: _Findings) -> None:
    from graphopt.targets.checks.openvino import compile_openvino, installed

    if not installed():
        found.not_checked.append("the OpenVINO runtime is not installed (pip install openvino): nothing was checked")
        return
    problems, engine, evidence = compile_openvino(model)
    found.problems.extend(problems)
    found.engines.extend([] if engine is None else [engine])
    found.evidence.append(evidence)
