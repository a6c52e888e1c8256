"""Finds the first rewrite after which a check fails, by running a pipeline with ever closer limits."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from graphopt.errors import GraphoptError, UsageError
from graphopt.model import Model
from graphopt.pipeline.budget import Application, Budget
from graphopt.pipeline.context import Settings
from graphopt.pipeline.instruments import Instrument
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.pipeline import Pipeline
from graphopt.pipeline.registry import Registry

Check = Callable[[Model], bool]
"""Says whether a model is good."""


@dataclass(frozen=True)
class BisectResult:
    """What bisection found.

    Attributes:
        limit: with this many rewrites the check fails, with one less it passes.
        culprit: the rewrite number ``limit``.
        total: rewrites of the full run, as far as it came.
        runs: how often the pipeline was run.
        error: how the pipeline itself failed at ``limit``; empty when it ran and the check said no.
    """

    limit: int
    culprit: Application
    total: int
    runs: int
    error: str = ""


def bisect(
    model: Model,
    pipeline: Pipeline,
    registry: Registry,
    check: Check,
    settings: Settings | None = None,
    instruments: Sequence[Instrument] | None = None,
) -> BisectResult:
    """The first rewrite of the pipeline for which ``check`` fails. ``model`` is not changed.

    A pipeline that fails counts as a failed check. Binary search, so a check that fails, passes and fails again over
    the rewrites gives one of its first failures, not surely the very first.

    Raises:
        UsageError: the check fails without any rewrite, or passes with all of them.
    """
    manager = PassManager(registry, settings, instruments=instruments)
    trials: dict[int | None, _Trial] = {}

    def good(limit: int | None) -> bool:
        if limit not in trials:
            trials[limit] = _try(model.clone(), pipeline, manager, check, limit)
        return trials[limit].good

    if not good(0):
        why = trials[0].error or "the check fails on the input model already"
        raise UsageError(f"no rewrite is to blame: {why}")
    if good(None):
        raise UsageError(f"the check passes after all {len(trials[None].applied)} rewrites; there is nothing to find")
    applied = trials[None].applied
    low, high = 0, len(applied)
    trials[high] = trials[None]
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(middle) else (low, middle)
    if not high:
        raise UsageError(f"no rewrite is to blame, the pipeline changes nothing: {trials[None].error}")
    return BisectResult(high, applied[high - 1], len(applied), len(trials) - 1, trials[high].error)


@dataclass(frozen=True)
class _Trial:
    good: bool
    applied: Sequence[Application]
    error: str = ""


def _try(model: Model, pipeline: Pipeline, manager: PassManager, check: Check, limit: int | None) -> _Trial:
    """Run the pipeline with a limit and check what comes out."""
    budget = Budget(limit)
    try:
        manager.run(model, pipeline, budget)
    except GraphoptError as error:
        return _Trial(False, budget.applied, str(error))
    return _Trial(check(model), budget.applied)


def command_check(command: str, timeout: float | None = None) -> Check:
    """A check that runs a command on the model, saved to a file; exit status 0 is good.

    ``{}`` in the command stands for the file; without it the file becomes the last argument. ``timeout`` in seconds;
    a command that takes longer fails the check. No shell is involved.

    Raises:
        UsageError: the command is empty, cannot be split into words, or (when run) does not start.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"check command {command!r}: {error}") from error
    if not words:
        raise UsageError("the check command is empty")

    def check(model: Model) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "model.onnx")
            model.save(path)
            line = [w.replace("{}", path) for w in words] if any("{}" in w for w in words) else [*words, path]
            try:
                done = subprocess.run(line, stdout=subprocess.DEVNULL, timeout=timeout, check=False)
            except subprocess.TimeoutExpired:
                return False
            except OSError as error:
                raise UsageError(f"check command {words[0]!r} does not start: {error}") from error
            return done.returncode == 0

    return check
