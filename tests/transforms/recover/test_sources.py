"""Targets that lost positions on an axis other than that of their channels, as in models that mix along tokens."""

from dataclasses import dataclass, field

import numpy as np
from onnx import numpy_helper, parser

import graphopt
from graphopt.data.interface import read_interface
from graphopt.data.npz import ArrayDataset
from graphopt.ir import constant_value
from graphopt.runtime.session import Session
from graphopt.transforms.recover.reconstruction import reconstruct
from graphopt.transforms.recover.sources import Cut, Sources

MIXER = """
<ir_version: 8, opset_import: ["" : 17]>
mixer (float[n, 6, 4] x) => (float[n, m, 4] y) {
    e = Gather<axis=1>(x, rows)
    h = MatMul(e, w1)
    y = MatMul(h, w2)
}
"""


@dataclass(frozen=True)
class Source:
    tensor: str
    kept: dict = field(default_factory=dict)
    scales: dict = field(default_factory=dict)


def mixer(rng):
    """Of the 8 hidden positions the last two are sums of others, so 6 are enough."""
    w1 = rng.standard_normal((4, 8)).astype(np.float32)
    w1[:, 6:] = w1[:, :2] + w1[:, 2:4]
    proto = parser.parse_model(MIXER)
    constants = {"rows": np.arange(6), "w1": w1, "w2": rng.standard_normal((8, 4)).astype(np.float32)}
    proto.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    return graphopt.load(proto)


def cut(model, cuts):
    changed = model.clone()
    for name, (axis, kept) in cuts.items():
        tensor = changed.graph.tensors()[name]
        changed.graph.set_weight(tensor, np.take(constant_value(tensor), kept, axis))
    return changed


def test_layers_are_recovered_exactly_where_another_axis_was_cut():
    rng = np.random.default_rng(0)
    model, channels, hidden = mixer(rng), np.array([0, 2, 5]), np.arange(6)
    x = rng.standard_normal((256, 6, 4)).astype(np.float32)
    changed = cut(model, {"rows": (0, channels), "w1": (1, hidden), "w2": (0, hidden)})
    known = {
        "e": Source("e", {1: channels}),
        "h": Source("h", {1: channels, 2: hidden}),
        "y": Source("y", {1: channels}),
        "w1": Source("w1", {1: hidden}),
        "w2": Source("w2", {0: hidden}),
    }
    wanted = Session(model.serialize()).run({"x": x})["y"][:, channels]
    assert not np.allclose(Session(changed.serialize()).run({"x": x})["y"], wanted, atol=0.1)
    data = ArrayDataset({"x": x}, read_interface(model.serialize()), "arrays")
    steps = reconstruct(changed, model, data, lambda n: known.get(n, Source(n)))
    assert "y" in {s.output for s in steps}
    np.testing.assert_allclose(Session(changed.serialize()).run({"x": x})["y"], wanted, atol=1e-4)


def test_an_axis_from_the_end_is_counted_with_the_rank_that_inference_finds():
    model = mixer(np.random.default_rng(0))
    hidden = model.graph.tensors()["h"]
    assert hidden.shape is None
    kept = np.array([1, 3])
    aim = Sources(model, lambda n: Source(n, {1: kept})).aim(hidden, -1)
    assert aim.kept is None
    assert [(c.axis, c.kept.tolist()) for c in aim.elsewhere] == [(1, [1, 3])]
    channels = Sources(model, lambda n: Source(n, {2: kept})).aim(hidden, -1)
    assert channels.kept.tolist() == [1, 3]
    assert channels.elsewhere == ()


def test_a_cut_keeps_and_scales_positions_of_its_axis():
    value = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    got = Cut(1, np.array([2, 0]), np.array([10.0, 1.0])).apply(value)
    np.testing.assert_array_equal(got, np.stack([value[:, 2] * 10, value[:, 0]], 1))
    assert got.dtype == np.float32
