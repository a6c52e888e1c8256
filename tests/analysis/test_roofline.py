"""What bounds a node follows from its MACs and bytes and the peaks of the profile, by hand."""

from __future__ import annotations

import onnx
import pytest
from chain_net import chain, quantized

from graphopt import load
from graphopt.analysis.roofline import Peaks, layer_bounds, peaks_of
from graphopt.targets import get_target

PEAKS = Peaks({"float32": 1000.0, "int8": 4000.0}, 100.0, {"float32": 2.0, "int8": 3.0}, "by hand")


def bounds_of(text: str):
    model = load(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}'))
    return {b.op: b for b in layer_bounds(model, PEAKS)}


def test_arithmetic_memory_and_the_cost_of_a_node():
    found = bounds_of(
        "(float[256,256] x, float[256,256] w, float[1,64] v, float[64,4096] u)"
        " => (float[256,256] y, float[1,4096] z, float[4] r)"
        " <float[4] c = {1,2,3,4}> { y = MatMul(x, w) z = Gemm(v, u) r = Relu(c) }"
    )
    assert found["MatMul"].bound == "compute"
    assert found["MatMul"].macs == 256**3
    assert found["MatMul"].bytes == 3 * 256 * 256 * 4
    assert found["MatMul"].floor_us == found["MatMul"].compute_us == 256**3 / 1000
    assert found["Gemm"].bound == "memory"
    assert found["Gemm"].floor_us == pytest.approx((64 + 64 * 4096 + 4096) * 4 / 100)
    assert (found["Relu"].bound, found["Relu"].floor_us) == ("fixed", 2.0)


def test_an_integer_layer_takes_its_quantizers_and_moves_bytes():
    model = quantized(chain(4, width=64))
    bounds = layer_bounds(model, PEAKS)
    integer = [b for b in bounds if b.precision == "int8" and b.op == "Conv"]
    assert integer
    for row in integer:
        assert row.compute_us == row.macs / 4000
        assert row.bytes < 2 * 64 * 64 + 64 * 64 * 9 + 1000
    nodes = {b.node for b in bounds}
    dequantizers = [n for n in model.graph.nodes if n.op == "DequantizeLinear" and n.outputs[0].outputs]
    inner = [n for n in dequantizers if n.outputs[0].outputs[0].op == "Conv"]
    assert inner
    assert not nodes & {n.name for n in inner}


def test_the_shipped_profile():
    peaks = peaks_of(get_target("ort-cpu"))
    assert peaks is not None
    assert 2 < peaks.macs_us["int8"] / peaks.macs_us["float32"] < 8
    assert peaks.ridge("int8") > peaks.ridge("float32")
    assert peaks_of(get_target("tensorrt")) is None
