"""The pages of the passes say what the code says; the house has the rooms and names it should."""

from __future__ import annotations

import importlib.util
import tomllib

from conftest import ROOT


def generator():
    spec = importlib.util.spec_from_file_location("graphopt_docs", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pass_pages_are_up_to_date():
    made = generator().pages()
    on_disk = {p.name: p.read_text(encoding="utf-8") for p in (ROOT / "docs" / "passes").glob("*.md")}
    assert on_disk == made, "run: python docs/generate.py"


def test_file_name_is_pass_name_and_entry_point():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = project["project"]["entry-points"]["graphopt.passes"]
    files = {p.stem for p in (ROOT / "passes").glob("*.py")} - {"__init__"}
    assert set(declared) == files
    for name, target in declared.items():
        assert target.startswith(f"graphopt.passes.{name}:")


def test_every_package_is_in_the_wheel():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {p.parent for p in (ROOT / "graphopt").rglob("__init__.py") if "passes" not in p.parts}
    packages = {".".join(f.relative_to(ROOT).parts) for f in folders} | {"graphopt.passes"}
    assert set(project["tool"]["setuptools"]["packages"]) == packages
