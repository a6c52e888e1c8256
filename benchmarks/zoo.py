"""What the benchmarks over the zoo share: its graphs, records that are kept, and the options for both."""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ZOO = Path(os.environ.get("GRAPHOPT_ZOO", ROOT.parent / "shared" / "zoo"))
Record = dict[str, Any]


def zoo_module() -> ModuleType:
    """The zoo's own loader."""
    spec = importlib.util.spec_from_file_location("zoo_fill", ZOO / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def graphs(match: str, part: str, large: int) -> list[str]:
    """The files to clean, smallest first, dealt out so that all parts take about as long."""
    index = sorted(json.loads((ZOO / "index.json").read_text()), key=lambda entry: entry["params"])
    chosen = [e["file"] for e in index if fnmatch.fnmatch(e["file"], match) and e["nodes"] > large]
    number, _, parts = part.partition("/")
    return chosen[int(number) - 1 :: int(parts)]


def read(path: Path) -> list[Record]:
    """The records of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def keep(path: Path, record: Record) -> None:
    """Add a record to a file, which is made with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        stream.write(json.dumps(record) + "\n")


def options_of(description: str | None, records: str) -> argparse.ArgumentParser:
    """A parser with the options that choose graphs, keep records under ``build`` and write a table."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--match", default="*")
    parser.add_argument("--part", default="1/1")
    parser.add_argument("--records", type=Path, default=ROOT / "build" / records)
    parser.add_argument("--merge", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    return parser


def show(text: str, out: Path | None) -> None:
    """Print a table, and write it where asked."""
    print(text)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text)
