"""Where output goes: results to stdout, progress and messages to stderr, one JSON object with --json."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from graphopt.results import as_json

_FILE_WIDTH = 150


@dataclass(frozen=True)
class Output:
    """The two streams. ``as_json``: stdout gets one JSON object and nothing else. ``verbosity``: -1 quiet, 1 more."""

    as_json: bool = False
    verbosity: int = 0
    out: Console = field(default_factory=lambda: Console(width=None if sys.stdout.isatty() else _FILE_WIDTH))
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
            self.err.print(message, style=style or None, markup=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        """A warning on stderr, quiet or not."""
        self.err.print(f"warning: {message}", style="yellow", markup=False, soft_wrap=True)

    @contextmanager
    def following(self) -> Iterator[Callable[[str, int, int], None]]:
        """A progress bar on stderr, as the callback ``(what, done, total)``; silent when quiet or not a terminal."""
        if self.verbosity < 0 or not self.err.is_terminal:
            yield lambda what, done, total: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.err, transient=True) as bar:
            tasks: dict[str, TaskID] = {}

            def follow(what: str, done: int, total: int) -> None:
                if what not in tasks:
                    tasks[what] = bar.add_task(what, total=total or None)
                bar.update(tasks[what], completed=done, total=total or None)

            yield follow
