"""Writes docs/rewrites.md: every clean-up pass with its before/after graphs, taken from the tests.

Run from the repository root: ``python docs/make_rewrites.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from graphopt.pipeline import Registry
from tests.passes.cases import SEPARATOR, all_cases, read_text

TARGET = Path(__file__).resolve().parent / "rewrites.md"
HEAD = """# Rewrites

Made by `docs/make_rewrites.py` from `tests/cases/`; each picture is a test. "Unchanged" shows what a pass leaves alone.
Run them with `--passes NAME`; `cleanup` runs most of them to a fixed point, `fuse` stands apart.
"""


def page() -> str:
    """The whole page."""
    registry = Registry()
    parts = [HEAD]
    last = ""
    for case in all_cases():
        name = case.name.partition("/")[0]
        if name != last:
            kind = registry.passes.get(name)
            parts.append(f"## {name}\n\n{(kind.__doc__ or '').strip()}\n".replace("\n    ", "\n"))
            last = name
        before, after = read_text(case.name).split(SEPARATOR)
        graph = "\n".join(line for line in before.splitlines() if not line.startswith("#"))
        shown = "Unchanged." if case.after is None else f"becomes\n\n```\n{after.strip()}\n```"
        parts.append(f"### {case.title}\n\n`{case.step}`\n\n```\n{graph.strip()}\n```\n\n{shown}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    TARGET.write_text(page(), "utf-8")
