"""Writes ``docs/passes/*.md``: one page a pass, from its docstring, its options and the cases that test it.

    python docs/generate.py
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

from graphopt.pipeline.registry import AnyPass, Registry
from graphopt.report.options import describe

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "passes"
CASES = ROOT / "tests" / "cases"


def pages() -> dict[str, str]:
    """File name to text of every page."""
    registry = Registry()
    kinds = [registry.passes.get(name) for name in registry.passes.names()]
    own = [k for k in kinds if k.__module__.startswith("graphopt.")]
    found = {f"{k.name}.md": page(k) for k in own}
    rows = [f"| [{k.name}]({k.name}.md) | {k.guarantee} | {k.summary()} |" for k in own]
    index = ["# Passes", "", "Made by `python docs/generate.py`.", "", "| pass | guarantee | what |", "|---|---|---|"]
    return {"README.md": "\n".join([*index, *rows]) + "\n", **found}


def page(kind: type[AnyPass]) -> str:
    """The page of one pass."""
    row = describe(kind)
    lines = [f"# {kind.name}", "", inspect.cleandoc(kind.__doc__ or ""), "", f"Guarantee: {kind.guarantee}.", ""]
    if row.options:
        lines += ["## Options", "", "| option | allowed | default | meaning |", "|---|---|---|---|"]
        for option in row.options:
            cells = (f"`{option.name}`", option.allowed, option.default, option.description)
            lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
        lines.append("")
    lines += _cases(kind.name)
    return "\n".join(lines).rstrip() + "\n"


def _cases(name: str) -> Iterator[str]:
    """Before and after in ONNX text, as the tests have them."""
    files = sorted((CASES / name).glob("*.txt")) if (CASES / name).is_dir() else []
    if files:
        yield from ("## Before and after", "", f"From `tests/cases/{name}/`; each is a test.", "")
    for file in files:
        before, _, after = file.read_text(encoding="utf-8").partition("----\n")
        comments = [line[1:].strip() for line in before.splitlines() if line.startswith("#")]
        graph = "\n".join(line.rstrip() for line in before.splitlines() if not line.startswith("#"))
        title = comments[0].rstrip(".") if comments else file.stem
        notes = "; ".join(comments[1:])
        yield from (f"### {title}", "")
        if notes:
            yield from (f"({notes})", "")
        verb = "becomes" if after.strip() != "unchanged" else "stays as it is"
        yield from ("```", graph.strip(), "```", "", verb, "")
        if after.strip() != "unchanged":
            yield from ("```", "\n".join(line.rstrip() for line in after.strip().splitlines()), "```", "")


def main() -> int:
    """Write the pages and remove those of passes that are gone."""
    PAGES.mkdir(exist_ok=True)
    made = pages()
    for stale in set(PAGES.glob("*.md")) - {PAGES / name for name in made}:
        stale.unlink()
    for name, text in made.items():
        (PAGES / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
