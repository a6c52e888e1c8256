"""Where output goes: results to stdout, progress and messages to stderr, one JSON object with --json."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from graphopt.results import as_json


@dataclass(frozen=True)
class Output:
    """The two streams. ``as_json``: stdout gets one JSON object and nothing else. ``verbosity``: -1 quiet, 1 more."""

    as_json: bool = False
    verbosity: int = 0
    out: Console = field(default_factory=lambda: Console(soft_wrap=False))
    err: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))

    def show(self, *items: Any) -> None:
        """Print results, unless stdout is for JSON."""
        if not self.as_json:
            for item in items:
                self.out.print(item, highlight=False)

    def json(self, value: Any) -> None:
        """Print the JSON object, when asked for."""
        if self.as_json:
            sys.stdout.write(json.dumps(as_json(value), indent=2, sort_keys=False) + "\n")

    def say(self, message: str, style: str = "") -> None:
        """A message on stderr, unless quiet."""
        if self.verbosity >= 0:
            self.err.print(message, style=style or None, markup=False)

    @contextmanager
    def progress(self) -> Iterator[Progress | None]:
        """A progress bar on stderr; None when quiet or not a terminal."""
        if self.verbosity < 0 or not self.err.is_terminal:
            yield None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.err, transient=True) as bar:
            yield bar
