"""Kernels of the profiler find the nodes of the file again, whatever ONNX Runtime fused them into."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from chain_net import chain, quantized
from qdq_net import Flavour, qdq_net

from graphopt import load
from graphopt.analysis.node_profile import profile_model
from graphopt.runtime.session import SessionConfig


def feeds(width: int = 16):
    return {"x": np.random.default_rng(0).normal(size=(2, width, 8, 8)).astype(np.float32)}


@pytest.mark.parametrize("optimize", ["all", "extended", "off"])
def test_every_node_is_in_one_kernel(optimize):
    model = load(chain(3))
    times = profile_model(model, feeds(), SessionConfig(optimize=optimize))
    found = sorted(name for t in times for name in t.nodes)
    assert found == sorted(n.name for n in model.graph.nodes)
    assert sum(t.macs for t in times) == 3 * 2 * 8 * 8 * 16 * 16 * 9
    if optimize == "all":
        assert {("tconv0", "trelu0"), ("tconv1", "trelu1"), ("tconv2", "trelu2")} <= {t.nodes for t in times}


def test_a_quantized_kernel_has_its_layer_and_what_it_took_over():
    model = quantized(chain(4, width=64))
    times = profile_model(model, feeds(64))
    kernels = [t for t in times if t.op == "QLinearConv"]
    assert kernels
    for kernel in kernels:
        convs = [n for n in model.graph.nodes if n.op == "Conv" and n.name in kernel.nodes]
        assert len(convs) == 1
        assert kernel.macs == 2 * 8 * 8 * 64 * 64 * 9


def test_a_layer_that_stays_in_float():
    model = load(qdq_net(Flavour()))
    shape = [d if isinstance(d, int) else 1 for d in model.graph.inputs[0].shape]
    times = profile_model(model, {model.graph.inputs[0].name: np.ones(shape, np.float32)})
    conv = next(t for t in times if "conv" in t.nodes)
    assert conv.macs > 0


def test_a_graph_that_cannot_be_written_is_still_profiled(monkeypatch):
    from graphopt.analysis import node_profile
    from graphopt.errors import UnsupportedError

    real = node_profile.profile_nodes

    def refuse(source, feeds, config):
        if config.optimized_path is not None:
            raise UnsupportedError("cannot be serialized")
        return real(source, feeds, config)

    monkeypatch.setattr(node_profile, "profile_nodes", refuse)
    times = profile_model(load(chain(2)), feeds())
    assert times
    assert all(t.nodes == () for t in times)


def test_nested_graphs():
    text = """<ir_version: 8, opset_import: ["" : 17]> g (bool c, float[2,16,8,8] x) => (float[2,16,8,8] y) {
        a = Relu(x)
        y = If (c) <then_branch = t () => (float[2,16,8,8] u) { u = Exp(a) },
                    else_branch = e () => (float[2,16,8,8] v) { v = Neg(a) }> }"""
    times = profile_model(load(onnx.parser.parse_model(text)), {**feeds(), "c": np.array(True)})
    assert any("Exp" in t.op for t in times)
    assert sum(len(t.nodes) for t in times) == 2
