"""Finds targets: the built-in ones and those of entry-point group ``graphopt.targets``."""

from __future__ import annotations

import difflib
from importlib.metadata import entry_points

from graphopt.errors import UsageError
from graphopt.targets.base import Target
from graphopt.targets.builtin import BUILTIN

GROUP = "graphopt.targets"


def target_names() -> list[str]:
    """Names of all known targets, built-in ones first."""
    found = entry_points(group=GROUP)
    return [*BUILTIN, *sorted(e.name for e in found if e.name not in BUILTIN)]


def get_target(name: str) -> Target:
    """The target called ``name``. An entry point may replace a built-in one.

    Raises:
        UsageError: there is none, or the entry point does not give a ``Target``.
    """
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            target = entry.load()
            if not isinstance(target, Target):
                raise UsageError(f"entry point {entry.value!r} of {GROUP} gives no Target but {type(target).__name__}")
            return target
    if name in BUILTIN:
        return BUILTIN[name]
    near = difflib.get_close_matches(name, target_names(), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(target_names())}"
    raise UsageError(f"there is no target {name!r}; {hint}")
