"""A model's state before a pass, to go back to when the pass fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from graphopt import snapshot
from graphopt.model import Model
from graphopt.pipeline.context import RunState

T = TypeVar("T")


class Checkpoint:
    """Remembers the model, its graphs and the origins. Weights are shared, not copied."""

    def __init__(self, model: Model, state: RunState) -> None:
        self._model = model
        self._state = state
        self._fields = {f.name: _copy(getattr(model, f.name)) for f in fields(model)}
        self._graph = snapshot.take(model.graph)
        self._origins = state.origins.snapshot()

    def restore(self) -> None:
        """Put everything back and drop cached analyses."""
        for name, value in self._fields.items():
            setattr(self._model, name, _copy(value))
        snapshot.restore(self._model.graph, self._graph)
        self._state.origins.restore(self._origins)
        self._state.analyses.keep(())


    def look(self, at: Callable[[Model], T]) -> T:
        """What ``at`` finds in the model as it was; the model is as before afterwards."""
        now = Checkpoint(self._model, self._state)
        self.restore()
        try:
            return at(self._model)
        finally:
            now.restore()


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, list | dict) else value
