"""The counter of rewrites that one run may still apply. ``--limit`` and ``bisect`` rest on it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Application:
    """One application of a rewrite: which pass, which of its rewrites, at which node."""

    pass_name: str
    rewrite: str
    node: str

    def __str__(self) -> str:
        rewrite = f" ({self.rewrite})" if self.rewrite else ""
        return f"{self.pass_name}{rewrite} at {self.node or 'the whole model'}"


class Budget:
    """Grants the first ``limit`` applications of a run and denies the rest; no limit grants all.

    Passes are deterministic, so a run with limit N does exactly the first N applications of the full run.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.applied: list[Application] = []
        self._denied: dict[Application, None] = {}

    @property
    def denied(self) -> tuple[Application, ...]:
        """The distinct applications that were asked for after the limit was reached."""
        return tuple(self._denied)

    @property
    def exhausted(self) -> bool:
        """Whether the next application will be denied."""
        return self.limit is not None and len(self.applied) >= self.limit

    def take(self, application: Application) -> bool:
        """Whether the application may happen; it is counted if so."""
        if self.exhausted:
            self._denied[application] = None
            return False
        self.applied.append(application)
        return True
