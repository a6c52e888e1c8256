"""Files from before IR version 4, which list their weights among the inputs: every pass, and the order of the file."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphopt import load
from graphopt.pipeline import PassManager, Pipeline, Registry, Settings
from graphopt.verifier import verify

TEXT = """<ir_version: 3, opset_import: ["" : 9]>
g (float[8,4] w, float[2,8] x, float[4] b, float[4,3] v) => (float[2,3] y) {
  h = MatMul(x, w) a = Add(h, b) r = Relu(a) y = MatMul(r, v)
}"""


@pytest.fixture
def proto() -> onnx.ModelProto:
    made = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    for name, shape in (("w", (8, 4)), ("b", (4,)), ("v", (4, 3))):
        made.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    onnx.checker.check_model(made)
    return made


def test_the_weights_are_no_inputs_and_the_order_of_the_file_is_kept(proto) -> None:
    model = load(proto)
    assert [t.name for t in model.graph.inputs] == ["x"]
    assert [i.name for i in model.to_proto().graph.input] == ["w", "x", "b", "v"]
    assert [i.name for i in model.clone().to_proto().graph.input] == ["w", "x", "b", "v"]


@pytest.mark.parametrize(
    "passes", ["cleanup", "prune:ratio=0.5:align=1", "cast", "quantize_weights:least=0", "clip:below=p50"]
)
def test_passes_leave_a_valid_file(proto, passes) -> None:
    model = load(proto)
    registry = Registry()
    run = PassManager(registry, Settings()).run(model, Pipeline.parse(passes, registry))
    verify(model.graph)
    made = model.to_proto()
    onnx.checker.check_model(made)
    assert {i.name for i in made.graph.initializer} <= {i.name for i in made.graph.input} or made.ir_version >= 4
    if passes.startswith("prune"):
        assert run.changed
        assert [list(t.dims) for t in made.graph.initializer if t.name == "v"] == [[2, 3]]
