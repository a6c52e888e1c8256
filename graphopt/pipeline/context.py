"""What a pass is given besides the model: settings of the run, cached analyses, remarks, counts and the budget."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.ir import Constant, Node, Tensor, Variable
from graphopt.model import Model
from graphopt.pipeline.analyses import Analyses, Analysis
from graphopt.pipeline.budget import Application, Budget
from graphopt.pipeline.origin import Origins
from graphopt.results import Remark, RemarkKind

if TYPE_CHECKING:
    from graphopt.data.feeds import Dataset
    from graphopt.pipeline.extensions import Rules
    from graphopt.pipeline.registry import Registry
    from graphopt.transforms.prune.criteria import Criterion

T = TypeVar("T")
Where: TypeAlias = "Node | Tensor | str | None"
Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is done, how much of it is done, and of how much (0 when unknown)."""


Precision: TypeAlias = Literal["float32", "int8"]


def silent(what: str, done: int, total: int) -> None:
    """Report progress to nobody."""


@dataclass(frozen=True)
class Settings:
    """What all passes of a run share.

    Attributes:
        target: name of the target that the model is for.
        seed: of everything random.
        data: calibration data, or None. Labels are not read.
        cache_dir: folder for statistics that are worth keeping, or None.
        progress: called during long work.
        threads: of ONNX Runtime and of linear algebra.
    """

    target: str = "ort-cpu"
    seed: int = 0
    data: Dataset | None = None
    cache_dir: Path | None = None
    progress: Progress = silent
    threads: int = 1


@dataclass
class RunState:
    """What one run of a pipeline carries from pass to pass."""

    settings: Settings
    budget: Budget
    analyses: Analyses
    origins: Origins = field(default_factory=Origins)
    reference: Model | None = None
    reference_analyses: Analyses | None = None
    precision: Precision = "float32"
    registry: Registry | None = None


class Context:
    """One pass's view of the run.

    Attributes:
        settings: target, seed, data, cache folder, progress.
        origins: how tensors relate to those of the reference.
        asked: whether the pass asked for leave to apply a rewrite.
        changed: whether the pass reported a change.
    """

    def __init__(self, pass_name: str, state: RunState) -> None:
        self._pass_name = pass_name
        self._state = state
        self._remarks: dict[Remark, None] = {}
        self._statistics: dict[str, float] = {}
        self.settings = state.settings
        self.origins = state.origins
        self.asked = False
        self.changed = False

    @property
    def precision(self) -> Precision:
        """The precision that the whole pipeline ends in; widths are aligned for it."""
        return self._state.precision

    @property
    def reference(self) -> Model | None:
        """The model that entered the first lossy pass, to be read only; None before that."""
        return self._state.reference

    @property
    def registry(self) -> Registry:
        """Where plugins and installed packages are found by name."""
        from graphopt.pipeline.registry import Registry

        if self._state.registry is None:
            self._state.registry = Registry()
        return self._state.registry

    def rules(self) -> Rules:
        """Propagation rules of plugins and installed packages, by (domain, operator)."""
        from graphopt.pipeline.extensions import rules_of

        return rules_of(self.registry)

    def criterion(self, name: str) -> Criterion:
        """The function that ranks units under this name.

        Raises:
            UsageError: there is none.
        """
        from graphopt.pipeline.extensions import criterion_of

        return criterion_of(self.registry, name)

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """The remarks made so far, without repeats."""
        return tuple(self._remarks)

    @property
    def statistics(self) -> dict[str, float]:
        """The counts made so far."""
        return dict(self._statistics)

    def get(self, analysis: Analysis[T]) -> T:
        """The result of an analysis of the model, from the cache if nothing changed since.

        A pass that changed the model and wants fresh facts calls ``invalidate`` first.
        """
        return self._state.analyses.get(analysis)

    def get_reference(self, analysis: Analysis[T]) -> T:
        """The result of an analysis of the reference."""
        if self._state.reference_analyses is None:
            raise GraphoptError(f"{self._pass_name} asks for the reference before the first lossy pass; there is none")
        return self._state.reference_analyses.get(analysis)

    def invalidate(self, *preserved: str) -> None:
        """Drop cached analyses, except those named, because the pass changed the model."""
        self._state.analyses.keep(preserved)

    def report_change(self) -> None:
        """Say that the model changed. Passes with ``reports`` must; for others the manager finds out by looking."""
        self.changed = True

    def allow(self, where: Where, rewrite: str = "") -> bool:
        """Whether the pass may apply a rewrite here. Ask before every rewrite; ``--limit`` says no from the Nth on."""
        self.asked = True
        return self._state.budget.take(Application(self._pass_name, rewrite, label(where)))

    def did(self, where: Where, message: str) -> None:
        """Say what was done, and to which node or tensor (None: the whole model)."""
        self.remark("did", where, message)

    def skipped(self, where: Where, reason: str) -> None:
        """Say what was not done, and why."""
        self.remark("skipped", where, reason)

    def note(self, where: Where, message: str) -> None:
        """Say something worth knowing."""
        self.remark("note", where, message)

    def warn(self, where: Where, message: str) -> None:
        """Say something that the user should look at."""
        self.remark("warning", where, message)

    def remark(self, kind: RemarkKind, where: Where, message: str) -> None:
        """Add a remark; the same one twice counts once."""
        self._remarks[Remark(kind, self._pass_name, label(where), message)] = None

    def count(self, statistic: str, amount: float = 1) -> None:
        """Add to one of the pass's counts."""
        self._statistics[statistic] = self._statistics.get(statistic, 0) + amount

    def rng(self) -> np.random.Generator:
        """A generator that depends on the seed and the pass's name only."""
        digest = hashlib.sha256(self._pass_name.encode()).digest()
        return np.random.default_rng([self.settings.seed, int.from_bytes(digest[:8], "little")])


def label(where: Where) -> str:
    """The name under which a remark lists a node or tensor; an unnamed node goes by its first output."""
    match where:
        case None:
            return ""
        case str():
            return where
        case Node():
            return where.name or next((t.name for t in where.outputs if t.name), where.op)
        case Variable() | Constant():
            return where.name
