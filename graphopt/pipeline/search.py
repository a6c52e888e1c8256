"""The search driver behind ``--max-drop``: turns the knobs of a pipeline as far as a score allows.

A knob is an option that its pass declares ``tunable`` and that the user left open. Each knob goes from its mild end
towards its strong end by bisection, one knob after the other in pipeline order; the later ones stay mild meanwhile.
Every step builds a model and scores it, so a result is what was verified, never what was predicted. Source of the
idea: bracketing by bisection on a monotone function; non-monotone knobs only cost optimality, never the bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from graphopt.errors import BudgetError, UsageError, ValidationError
from graphopt.pipeline.context import Progress, silent
from graphopt.pipeline.options import Tunable
from graphopt.pipeline.pipeline import Pipeline

T = TypeVar("T")


@dataclass(frozen=True)
class Knob:
    """A tunable option of one pass of a pipeline. ``whole``: it takes whole numbers only."""

    index: int
    option: str
    range: Tunable
    whole: bool

    def value(self, position: float) -> float:
        """The value at a position from 0 (mild) to 1 (strong)."""
        value = self.range.mild + position * (self.range.strong - self.range.mild)
        return round(value) if self.whole else value

    @property
    def resolution(self) -> float:
        """Positions nearer than this are not told apart."""
        span = abs(self.range.strong - self.range.mild)
        return 1.0 if span == 0 else max(self.range.tolerance, 1.0 if self.whole else 0.0) / span


@dataclass(frozen=True)
class Trial:
    """One model that was built and scored. ``drop``: how much worse than the baseline; below 0 is better."""

    pipeline: str
    drop: float
    accepted: bool


@dataclass(frozen=True)
class SearchResult(Generic[T]):
    """What a search kept.

    Attributes:
        best: the result of the accepted trial with the strongest knobs; without any, of the one with the least drop.
        pipeline: the pipeline that made it.
        drop: its drop.
        met: whether the drop is allowed.
        trials: every trial, in order.
    """

    best: T
    pipeline: Pipeline
    drop: float
    met: bool
    trials: tuple[Trial, ...]


def open_knobs(pipeline: Pipeline) -> tuple[Knob, ...]:
    """The knobs that the user left open, in pipeline order."""
    found = []
    for index, step in enumerate(pipeline):
        for option, knob in step.options.open_knobs().items():
            annotation = type(step.options).model_fields[option].annotation
            found.append(Knob(index, option, knob, annotation is int or annotation == int | None))
    return tuple(found)


def turned(pipeline: Pipeline, knob: Knob, position: float) -> Pipeline:
    """The pipeline with a knob at a position from 0 (mild) to 1 (strong)."""
    step = pipeline.passes[knob.index]
    options = step.options.replaced(step.name, **{knob.option: knob.value(position)})
    return pipeline.replaced(knob.index, type(step)(options))


def search(
    pipeline: Pipeline,
    build: Callable[[Pipeline], T],
    drop_of: Callable[[T], float],
    max_drop: float,
    max_trials: int = 12,
    progress: Progress = silent,
) -> SearchResult[T]:
    """Find the strongest setting of the open knobs whose drop is at most ``max_drop``.

    ``build`` makes a result from a pipeline (from a clone of the input each time), ``drop_of`` scores it on samples
    that the final score does not use. Only the best result so far is kept alive. Every knob gets an equal part of
    ``max_trials``, at least three. Without open knobs the pipeline is built once.

    Raises:
        UsageError: ``max_drop`` is negative or not a number, or there are fewer than three trials.
    """
    if not max_drop >= 0:
        raise UsageError(f"--max-drop must be 0 or more, not {max_drop}")
    if max_trials < 3:
        raise UsageError(f"a search needs 3 trials or more, not {max_trials}")
    driver = _Driver(build, drop_of, max_drop, max_trials, progress)
    knobs = open_knobs(pipeline)
    for knob in knobs:
        pipeline = turned(pipeline, knob, 0.0)
    if not knobs:
        driver.accepts(pipeline, 0.0)
    share = max(3, max_trials // max(1, len(knobs)))
    for level, knob in enumerate(knobs):
        pipeline = turned(pipeline, knob, driver.furthest(pipeline, knob, level, share))
        if not driver.met:
            break
    return driver.result()


class _Driver(Generic[T]):
    def __init__(
        self,
        build: Callable[[Pipeline], T],
        drop_of: Callable[[T], float],
        max_drop: float,
        max_trials: int,
        progress: Progress,
    ) -> None:
        self._build = build
        self._drop_of = drop_of
        self._max_drop = max_drop
        self._max_trials = max_trials
        self._progress = progress
        self._known: dict[str, bool] = {}
        self._trials: list[Trial] = []
        self._best: list[SearchResult[T]] = []
        self._strength = -math.inf

    @property
    def met(self) -> bool:
        """Whether any trial was accepted."""
        return bool(self._best) and self._best[0].met

    def furthest(self, pipeline: Pipeline, knob: Knob, level: int, share: int) -> float:
        """The strongest accepted position of one knob; knobs before it are set, later ones mild."""
        stop = len(self._trials) + share
        if self.accepts(turned(pipeline, knob, 1.0), level + 1.0):
            return 1.0
        if not self.accepts(turned(pipeline, knob, 0.0), float(level)):
            return 0.0
        low, high = 0.0, 1.0
        while high - low > knob.resolution and len(self._trials) < stop:
            middle = (low + high) / 2
            accepted = self.accepts(turned(pipeline, knob, middle), level + middle)
            low, high = (middle, high) if accepted else (low, middle)
        return low

    def accepts(self, pipeline: Pipeline, strength: float) -> bool:
        """Build and score a pipeline, once; keep the result if it is the best so far."""
        text = str(pipeline)
        if text not in self._known:
            self._progress("searching", len(self._trials), self._max_trials)
            try:
                candidate = self._build(pipeline)
                drop = self._drop_of(candidate)
            except (ValidationError, BudgetError):
                if strength == 0.0:
                    raise
                self._known[text] = False
                self._trials.append(Trial(text, math.inf, False))
                return False
            accepted = drop <= self._max_drop
            self._known[text] = accepted
            self._trials.append(Trial(text, drop, accepted))
            if self._improves(drop, accepted, strength):
                self._best = [SearchResult(candidate, pipeline, drop, accepted, ())]
                self._strength = strength
        return self._known[text]

    def _improves(self, drop: float, accepted: bool, strength: float) -> bool:
        if not self._best:
            return True
        best = self._best[0]
        if accepted:
            return not best.met or strength > self._strength
        return not best.met and (drop < best.drop or math.isnan(best.drop))

    def result(self) -> SearchResult[T]:
        """The best result with the record of all trials."""
        return replace(self._best[0], trials=tuple(self._trials))
