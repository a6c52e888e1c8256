"""The ``equalize`` pass as users run it."""

import numpy as np
import pytest

from graphopt import load
from graphopt.data.interface import read_interface
from graphopt.data.open import open_data
from graphopt.errors import GraphoptError
from graphopt.pipeline.context import Settings
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.pipeline import Pipeline
from graphopt.pipeline.registry import Registry

MODEL = """<ir_version: 8, opset_import: ["": 17]>
g (float[1,4,6] x) => (float[1,4,3] y)
<float[6] s = {0.01, 0.1, 1, 10, 100, 1000}, float[6] b = {0, 0, 0, 0, 0, 0},
 float[6,3] w = {1, -1, 1, 1, -1, 1, 1, -1, 1, 1, 1, 1, -1, -1, 1, 1, 1, -1}>
{ n = LayerNormalization(x, s, b)  y = MatMul(n, w) }"""


def run(text, data=True):
    import onnx.parser

    proto = onnx.parser.parse_model(MODEL)
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal((1, 4, 6)).astype(np.float32)} for _ in range(8)]
    registry = Registry()
    model = load(proto)
    settings = Settings(data=open_data(feeds, read_interface(proto.SerializeToString())) if data else None)
    result = PassManager(registry, settings).run(model, Pipeline.parse(text, registry))
    return model, result.passes[-1]


def test_scale_and_weight_change_and_the_manager_finds_the_function_equivalent():
    model, record = run("equalize")
    assert record.statistics["tensors equalized"] == 1
    (scale,) = [c for c in model.graph.initializers if c.name.startswith("s")]
    assert scale.values.max() / scale.values.min() < 1000


def test_it_needs_data():
    with pytest.raises(GraphoptError, match="data"):
        run("equalize", data=False)


def test_a_second_run_finds_less():
    _, once = run("equalize")
    _, twice = run("equalize,equalize")
    first = float(once.remarks[0].message.split()[-2])
    gains = [float(r.message.split()[-2]) for r in twice.remarks if r.kind == "did"]
    assert all(g < first for g in gains)
