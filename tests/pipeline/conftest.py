"""Contexts and small helpers for the pipeline tests."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from graphopt import Model
from graphopt.pipeline.analyses import Analyses
from graphopt.pipeline.budget import Budget
from graphopt.pipeline.context import Context, RunState, Settings
from graphopt.pipeline.registry import Registry


@pytest.fixture
def context() -> Callable[..., Context]:
    def make(model: Model, limit: int | None = None, name: str = "test", **settings: object) -> Context:
        return Context(name, RunState(Settings(**settings), Budget(limit), Analyses(model)))

    return make


@pytest.fixture
def execute() -> Callable[..., list[np.ndarray]]:
    """Run a model in ONNX Runtime without optimizations."""
    ort = pytest.importorskip("onnxruntime")

    def run(model: Model, **feeds: np.ndarray) -> list[np.ndarray]:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(model.serialize(), options, providers=["CPUExecutionProvider"])
        return session.run(None, feeds)

    return run


@pytest.fixture
def registry() -> Registry:
    """A registry with the sample passes."""
    return samples().make_registry()


@pytest.fixture
def sample() -> ModuleType:
    """The module of sample passes."""
    return samples()


def samples() -> ModuleType:
    name = "graphopt_sample_passes"
    if name not in sys.modules:
        path = Path(__file__).with_name("sample_passes.py")
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]
