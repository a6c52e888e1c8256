"""The cut that fits move through a model: the rest gives what the whole model gives."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.data.interface import read_interface
from graphopt.data.npz import ArrayDataset
from graphopt.runtime.session import Session
from graphopt.transforms.recover.frontier import Frontier, KeptBatches

TEXT = """
<ir_version: 8, opset_import: ["" : 17]> g (float[N,4,6] x, float[N,4,6] z) => (float[N,24] y, float[N,4,6] early)
{
  early = Relu(x)
  a = MatMul(early, w1)
  s = Add(a, z)
  t = Tanh(s)
  shape = Shape(early)
  two = Constant<value: tensor = int64[1] {24}>()
  zero = Constant<value: tensor = int64[1] {0}>()
  first = Gather(shape, zero)
  wanted = Concat<axis = 0>(first, two)
  b = MatMul(t, w2)
  c = Add(b, early)
  y = Reshape(c, wanted)
}
"""


@pytest.fixture
def model():
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(TEXT)
    for name in ("w1", "w2"):
        proto.graph.initializer.append(
            onnx.numpy_helper.from_array(rng.standard_normal((6, 6)).astype(np.float32), name)
        )
    return graphopt.load(proto)


@pytest.fixture
def feeds():
    rng = np.random.default_rng(1)
    return {n: rng.standard_normal((7, 4, 6)).astype(np.float32) for n in ("x", "z")}


def layer(model, weight):
    return next(n for n in model.graph.nodes if any(t.name == weight for t in n.inputs))


def test_the_rest_gives_what_the_whole_gives(model, feeds):
    data = ArrayDataset(feeds, read_interface(model.serialize()), "arrays")
    frontier = Frontier(model, data, 3, 1, 1 << 20)
    frontier.advance([layer(model, "w1"), layer(model, "w2")])
    frontier.advance([layer(model, "w2")])
    tensors = model.graph.tensors()
    model.graph.set_weight(tensors["w2"], np.full((6, 6), 0.5, np.float32))
    rest = frontier.rest()
    assert {t.name for t in rest.graph.inputs} == {"t", "early", "wanted"}
    assert [t.name for t in rest.graph.outputs] == ["y"]
    assert not any(n.op == "Tanh" for n in rest.graph.nodes)
    session = Session(rest.serialize())
    assert [b.valid for b in frontier.dataset.iter_batches(2)] == [3, 3, 1]
    found = np.concatenate([session.run(b.feeds)["y"] for b in frontier.dataset])
    assert np.allclose(found, Session(model.serialize()).run(feeds)["y"], atol=1e-5)


def test_values_over_the_memory_are_not_kept(model, feeds):
    data = ArrayDataset(feeds, read_interface(model.serialize()), "arrays")
    frontier = Frontier(model, data, 3, 1, 500)
    frontier.advance([layer(model, "w2")])
    assert frontier.rest() is model
    assert not isinstance(frontier.dataset, KeptBatches)
