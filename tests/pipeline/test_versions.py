"""Versions are those of the modules that run, whichever distribution brought them."""

from __future__ import annotations

import importlib.metadata

import onnxruntime

from graphopt.pipeline.runner import PACKAGES, version_of


def test_onnxruntime_of_another_distribution_has_a_version(monkeypatch):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert version_of("onnxruntime") == onnxruntime.__version__
    assert all(version_of(name) for name in PACKAGES)
