"""Whether a model will run on a target, and what an engine builder made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from graphopt.results.passes import Remark

Severity: TypeAlias = Literal["error", "warning", "note"]
"""``error``: it will not run on the target. ``warning``: it runs, but slower or in another way than it looks."""


@dataclass(frozen=True)
class Problem:
    """One finding of ``check``. ``fix`` says what to do; ``fixable``: the ``legalize`` pass does it."""

    rule: str
    severity: Severity
    node: str
    op: str
    message: str
    fix: str = ""
    fixable: bool = False


@dataclass(frozen=True)
class BuiltKernel:
    """One kernel of a built engine: its kind, the nodes of the model in it, and the types that it reads and writes."""

    name: str
    kind: str
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class LayerPrecision:
    """How one convolution, matrix product or quantized addition of the model runs in an engine.

    ``quantized``: the model has Q/DQ on its inputs, so it should be integer (an addition should read integers).
    ``precision`` is ``int8``, ``float32``, ..., or ``int8 weights`` for a float kernel that unpacks integer weights;
    "" when no kernel names it.
    ``reason`` says why it is not integer, where that is known.
    """

    node: str
    op: str
    quantized: bool
    precision: str
    kernel: str
    reason: str = ""


@dataclass(frozen=True)
class EngineReport:
    """What NVIDIA's builder made of a model for one class of GPUs (``capability``, such as ``sm86``), without a GPU."""

    capability: str
    built: bool
    seconds: float
    message: str = ""
    kernels: tuple[BuiltKernel, ...] = ()
    layers: tuple[LayerPrecision, ...] = ()

    @property
    def quantized(self) -> int:
        """Number of layers that have Q/DQ."""
        return sum(layer.quantized for layer in self.layers)

    @property
    def float_anyway(self) -> tuple[LayerPrecision, ...]:
        """Layers that have Q/DQ and yet do not compute on integers."""
        return tuple(layer for layer in self.layers if layer.quantized and layer.precision not in ("int8", "float8"))


@dataclass(frozen=True)
class CheckReport:
    """Whether a model will run on a target. ``evidence`` names what was asked, ``not_checked`` what could not be."""

    target: str
    problems: tuple[Problem, ...]
    engines: tuple[EngineReport, ...] = ()
    evidence: tuple[str, ...] = ()
    not_checked: tuple[str, ...] = ()
    fixed: tuple[Remark, ...] = ()

    @property
    def errors(self) -> tuple[Problem, ...]:
        """What keeps the model from running."""
        return tuple(p for p in self.problems if p.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What makes it slower or other than it looks."""
        return tuple(p for p in self.problems if p.severity == "warning")

    @property
    def runs(self) -> bool:
        """No error was found."""
        return not self.errors
