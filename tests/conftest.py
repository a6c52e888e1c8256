"""Fixtures and helpers that all tests share."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import onnx
import pytest
from hypothesis import settings

from graphopt import Model, load

settings.register_profile("graphopt", deadline=None)
settings.load_profile("graphopt")

ROOT = Path(__file__).resolve().parent.parent
ZOO = Path(os.environ.get("GRAPHOPT_ZOO", ROOT.parent / "shared" / "zoo"))


@pytest.fixture(scope="session")
def zoo() -> ModuleType:
    """The module that refills the skeletons of the architecture zoo; the test is skipped without it."""
    script = ZOO / "fill.py"
    if not script.is_file():
        pytest.skip("the architecture zoo is not here")
    spec = importlib.util.spec_from_file_location("graphopt_zoo_fill", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def parse():
    """ONNX text to a Model."""

    def _parse(text: str) -> Model:
        return load(onnx.parser.parse_model(text))

    return _parse
