"""Tiny models and arrays for the data tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx.parser
import pytest

from graphopt.data.interface import Interface, read_interface


@pytest.fixture
def interface_of() -> Callable[[str], Interface]:
    def make(signature: str) -> Interface:
        text = f'<ir_version: 10, opset_import: ["" : 21]> g ({signature}) => (float[N] out) {{ }}'
        return read_interface(onnx.parser.parse_model(text).SerializeToString())

    return make


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
