"""What watches a run: verification, dumps, timing. An instrument hears before and after every pass, and of failures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from graphopt.checker import checker_problem
from graphopt.errors import InvalidModelError, PassError, UsageError
from graphopt.model import Model
from graphopt.pipeline.context import Settings
from graphopt.pipeline.passes import Guarantee
from graphopt.pipeline.registry import AnyPass
from graphopt.pipeline.rollback import Checkpoint
from graphopt.pipeline.signature import Signature, difference, signature
from graphopt.verifier import verify

Numerics: TypeAlias = Callable[[Model, Model, Guarantee], str]
"""Compares the model before and after a pass; returns the evidence, raises ValidationError."""


@dataclass(frozen=True)
class PassEvent:
    """A pass that runs.

    Attributes:
        index: its position in the pipeline, or in the composite that contains it.
        depth: 0 for a pass of the pipeline, 1 for one inside a composite, and so on.
        step: the pass with its options.
        guarantee: what it promises under these options.
        model: the model as it is now.
        settings: those of the run.
        limit: how many rewrites may still be applied, or None.
        entered: the model as it was before the pass; None for a pass inside a composite.
    """

    index: int
    depth: int
    step: AnyPass
    guarantee: Guarantee
    model: Model
    settings: Settings
    limit: int | None
    entered: Checkpoint | None = None


class Instrument:
    """Base of all instruments; every method may be left out."""

    def before_pass(self, event: PassEvent) -> None:
        """Hear that a pass is about to run."""

    def after_pass(self, event: PassEvent, changed: bool) -> str:
        """Hear that a pass is done. Raise to fail it; the text returned goes into the result as evidence."""
        return ""

    def on_failure(self, event: PassEvent, error: Exception) -> str:
        """Hear that a pass failed. The model is as it was before the pass. The text returned ends the message."""
        return ""


class Verify(Instrument):
    """Checks the model after every pass that changed it.

    Links, names and order, the interface, the ONNX checker, and numerics if given. Passes inside a composite are
    checked together, unless ``inner``. A model that the checker refused when it came in is not held to it afterwards;
    whether it did is looked up when it matters.
    """

    def __init__(self, numerics: Numerics | None = None, inner: bool = False) -> None:
        self._numerics = numerics
        self._inner = inner
        self._entered: Checkpoint | None = None
        self._refused_before = ""
        self._before: list[Model] = []
        self._signature: Signature = ((), ())

    def before_pass(self, event: PassEvent) -> None:
        """Keep what the comparison needs."""
        if event.index == 0 and event.depth == 0:
            self._refused_before = ""
            self._entered = event.entered
            self._before.clear()
        if event.depth == 0:
            self._signature = signature(event.model.graph)
        if self._numerics is not None and event.guarantee != "lossy" and self._watches(event):
            self._before.append(event.model.clone())

    def after_pass(self, event: PassEvent, changed: bool) -> str:
        """Raise PassError for an invalid model, ValidationError for one that computes something else."""
        if not self._watches(event):
            return ""
        compared = self._numerics is not None and event.guarantee != "lossy"
        before = self._before.pop() if compared and self._before else None
        if not changed:
            return "unchanged"
        self._check_structure(event)
        evidence = ["structure"]
        evidence.append(self._checked(event.model))
        if self._numerics is not None and before is not None:
            evidence.append(self._numerics(before, event.model, event.guarantee))
        return ", ".join(evidence)

    def _checked(self, model: Model) -> str:
        problem = "" if self._refused_before else checker_problem(model)
        if problem and self._entered is not None:
            self._refused_before = self._entered.look(checker_problem)
        self._entered = None
        if self._refused_before:
            return "checker skipped: it refused the input model"
        if problem:
            raise PassError(f"the pass left a model that the ONNX checker refuses: {problem}")
        return "checker"

    def on_failure(self, event: PassEvent, error: Exception) -> str:
        """Forget the kept models."""
        self._before.clear()
        return ""

    def _check_structure(self, event: PassEvent) -> None:
        try:
            verify(event.model.graph)
        except InvalidModelError as error:
            raise PassError(f"the pass left an invalid graph: {error}") from error
        broken = difference(self._signature, signature(event.model.graph))
        if broken and not event.step.changes_interface():
            raise PassError(
                f"the pass changed the model's interface: {broken}. "
                "A pass that is meant to says so in changes_interface()"
            )

    def _watches(self, event: PassEvent) -> bool:
        return self._inner or event.depth == 0


class Dump(Instrument):
    """Writes the model that came in, and the model after each pass of the pipeline that changed it.

    ``00-input.onnx``, ``01-cleanup.onnx``, ...: the file before a pass's own is the state before it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def before_pass(self, event: PassEvent) -> None:
        """Write the input, once."""
        if event.index == 0 and event.depth == 0:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UsageError(f"cannot dump to {str(self._folder)!r}: {error}") from error
            event.model.save(self._folder / "00-input.onnx", force=True)

    def after_pass(self, event: PassEvent, changed: bool) -> str:
        """Write what changed."""
        if event.depth == 0 and changed:
            event.model.save(self._folder / f"{event.index + 1:02d}-{event.step.name}.onnx", force=True)
        return ""


@dataclass(frozen=True)
class PassTime:
    """How long a pass took, in seconds; passes inside it are included."""

    name: str
    depth: int
    wall: float
    cpu: float


class Timing(Instrument):
    """Collects wall and CPU time of every pass, passes inside composites included, in the order of their start."""

    def __init__(self) -> None:
        self._running: list[tuple[int, float, float]] = []
        self._times: list[PassTime] = []

    @property
    def times(self) -> tuple[PassTime, ...]:
        """The times so far."""
        return tuple(self._times)

    def before_pass(self, event: PassEvent) -> None:
        """Start the clocks."""
        self._running.append((len(self._times), time.perf_counter(), time.process_time()))
        self._times.append(PassTime(event.step.name, event.depth, 0.0, 0.0))

    def after_pass(self, event: PassEvent, changed: bool) -> str:
        """Stop the clocks."""
        self._stop()
        return ""

    def on_failure(self, event: PassEvent, error: Exception) -> str:
        """Stop the clocks of the failed pass and of those inside it."""
        while len(self._running) > event.depth:
            self._stop()
        return ""

    def _stop(self) -> None:
        place, wall, cpu = self._running.pop()
        started = self._times[place]
        self._times[place] = PassTime(
            started.name, started.depth, time.perf_counter() - wall, time.process_time() - cpu
        )
