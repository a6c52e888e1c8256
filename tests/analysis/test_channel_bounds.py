"""Bounds of channels that no input can pass."""

import numpy as np
import onnx.parser
import onnxruntime as ort
import pytest

from graphopt import load
from graphopt.analysis.channel_bounds import channel_bounds, clip_limits

HEADER = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,3,8,8] x) => (float[1,4,M,K] y) <float lo = {0}, float hi = {6}> """
BODIES = {
    "sigmoid, conv": "{ p = Sigmoid(x) y = Conv(p, w, b) }",
    "relu6, conv, relu": "{ p = Clip(x, lo, hi) c = Conv<pads=[1,1,1,1]>(p, w, b) y = Relu(c) }",
    "two convs and a sum": "{ p = Tanh(x) c = Conv<pads=[1,1,1,1]>(p, w, b) d = Conv<pads=[1,1,1,1], group=2>(c, v) "
    "y = Add(c, d) }",
    "norm and pool": "{ p = HardSigmoid(x) c = Conv(p, w, b) n = BatchNormalization(c, s, b, b, q) "
    "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(n) }",
}


@pytest.mark.parametrize("name", BODIES)
def test_no_input_passes_the_bounds(name) -> None:
    random = np.random.default_rng(1)
    shapes = {"w": (4, 3, 3, 3), "b": (4,), "v": (4, 2, 3, 3), "s": (4,), "q": (4,)}
    values = {n: random.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    values["q"] = np.abs(values["q"]) + 0.1
    proto = onnx.parser.parse_model(HEADER + BODIES[name])
    used = {i for n in proto.graph.node for i in n.input}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for n, v in values.items() if n in used)
    model = load(proto)
    bounds = channel_bounds(model.graph)[id(model.graph.outputs[0])]
    assert len(bounds.low) == 4
    session = ort.InferenceSession(model.serialize(), providers=["CPUExecutionProvider"])
    reached = []
    for scale in (0.1, 1, 100, 1e6):
        for _ in range(20):
            x = scale * random.standard_normal((1, 3, 8, 8)).astype(np.float32)
            (y,) = session.run(None, {"x": x})
            assert (y.min(axis=(0, 2, 3)) >= bounds.low).all()
            assert (y.max(axis=(0, 2, 3)) <= bounds.high).all()
            reached.append((y.max(axis=(0, 2, 3)) / bounds.high).max())
    assert max(reached) > 0.2, "bounds this loose say nothing"


def test_nothing_is_known_of_an_input() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[1,3] x) => (float[1,3] y) { y = Neg(x) }'
    assert channel_bounds(load(onnx.parser.parse_model(text)).graph) == {}


def test_limits_of_a_clip_as_attributes_and_inputs() -> None:
    def limits(opset, call, given=""):
        text = f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[1,3] x{given}) => (float[1,3] y) '
        return clip_limits(load(onnx.parser.parse_model(text + call)).graph.nodes[0])

    assert limits(6, "{ y = Clip<min=-1.0, max=2.0>(x) }") == (-1, 2)
    assert limits(13, "<float lo = {0}> { y = Clip(x, lo) }") == (0, np.inf)
    assert limits(13, "{ y = Clip(x, m) }", ", float m") is None
