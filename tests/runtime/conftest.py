"""Tiny models for the runtime tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx.parser
import pytest

HEADER = '<ir_version: 10, opset_import: ["" : 21]> g '


@pytest.fixture
def build() -> Callable[[str], bytes]:
    """Serialize a model given as ONNX text without its header."""

    def make(text: str) -> bytes:
        data: bytes = onnx.parser.parse_model(HEADER + text).SerializeToString()
        return data

    return make


@pytest.fixture
def relu(build) -> bytes:
    return build("(float[N,3] x) => (float[N,3] y) { y = Relu(x) }")


@pytest.fixture
def mlp(build) -> Callable[[int, int], bytes]:
    """A chain of MatMul + Relu: (width, layers) -> model."""

    def make(width: int, layers: int) -> bytes:
        model = onnx.ModelProto.FromString(build(f"(float[N,{width}] x) => (float[N,{width}] y) {{ y = Identity(x) }}"))
        del model.graph.node[:]
        rng = np.random.default_rng(0)
        last = "x"
        for layer in range(layers):
            weight = (rng.standard_normal((width, width)) / np.sqrt(width)).astype(np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(weight, f"w{layer}"))
            model.graph.node.append(onnx.helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"], f"mm{layer}"))
            last = "y" if layer == layers - 1 else f"r{layer}"
            model.graph.node.append(onnx.helper.make_node("Relu", [f"m{layer}"], [last], f"relu{layer}"))
        return model.SerializeToString()

    return make
