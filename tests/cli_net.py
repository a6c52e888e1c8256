"""The small model of the command line tests."""

from __future__ import annotations

import numpy as np
import onnx

NET = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,4] x) => (float[N,3] y) {
    a = MatMul(x, w)  b = Relu(a)  d = Identity(b)  y = MatMul(d, v) }"""


def make_net() -> onnx.ModelProto:
    """MatMul, Relu, Identity, MatMul, with 8 hidden units."""
    proto = onnx.parser.parse_model(NET)
    rng = np.random.default_rng(0)
    for name, shape in (("w", (4, 8)), ("v", (8, 3))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal(shape, np.float32), name))
    return proto
