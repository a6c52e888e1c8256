"""The analysis cache: facts about a model, computed once and dropped when a pass does not preserve them.

An analysis is any callable that takes the model, usually a class built from it: ``Shapes(model)``. One that builds
on others names them in an attribute ``requires`` and gets their results as further arguments: with
``requires = (Shapes,)`` it is called as ``Cost(model, shapes)``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeAlias, TypeVar

from graphopt.errors import GraphoptError
from graphopt.model import Model

T = TypeVar("T")
Analysis: TypeAlias = Callable[..., T]


class Analyses:
    """Results of analyses of one model, by analysis."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._results: dict[Analysis[Any], Any] = {}
        self._running: list[Analysis[Any]] = []

    def get(self, analysis: Analysis[T]) -> T:
        """The result of an analysis, computed on first use.

        Raises:
            GraphoptError: the analysis requires itself, directly or through others.
        """
        if analysis not in self._results:
            if analysis in self._running:
                chain = " -> ".join(map(analysis_name, [*self._running, analysis]))
                raise GraphoptError(f"analyses require each other in a circle: {chain}")
            self._running.append(analysis)
            try:
                self._results[analysis] = analysis(self._model, *map(self.get, requirements(analysis)))
            finally:
                self._running.pop()
        result: T = self._results[analysis]
        return result

    def keep(self, preserved: Collection[str]) -> None:
        """Drop all results except those of the analyses named; ``*`` names all.

        A result goes too when one that it was computed from goes.
        """
        if "*" in preserved:
            return
        self._results = {a: r for a, r in self._results.items() if self._survives(a, preserved)}

    def cached(self) -> list[str]:
        """Names of the analyses that have a result."""
        return [analysis_name(a) for a in self._results]

    def _survives(self, analysis: Analysis[Any], preserved: Collection[str]) -> bool:
        return analysis_name(analysis) in preserved and all(
            self._survives(a, preserved) for a in requirements(analysis)
        )


def analysis_name(analysis: Analysis[Any]) -> str:
    """The name by which passes declare that they preserve the analysis: that of its class or function."""
    return str(getattr(analysis, "__name__", type(analysis).__name__))


def requirements(analysis: Analysis[Any]) -> tuple[Analysis[Any], ...]:
    """The analyses whose results an analysis is computed from."""
    return tuple(getattr(analysis, "requires", ()))
