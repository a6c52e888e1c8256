"""MACs, parameters and bytes counted by hand."""

from __future__ import annotations

import numpy as np
import onnx

from graphopt import Model, load
from graphopt.analysis.cost import node_costs, total_macs, unbound_dims


def model(text: str, **weights: tuple[int, ...]) -> Model:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}')
    for name, shape in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), name))
    return load(proto)


def test_counts_by_hand():
    net = model(
        """(float[2,3,8,8] x) => (float y) {
        a = Conv<pads=[1,1,1,1]>(x, w1, b1) c = Conv<group=6>(a, w2) f = Flatten(c) y = MatMul(f, w3) }""",
        w1=(6, 3, 3, 3), b1=(6,), w2=(6, 1, 3, 3), w3=(216, 10),
    )  # fmt: skip
    conv, depthwise, matmul = 2 * 64 * 6 * 3 * 9, 2 * 36 * 6 * 9, 2 * 216 * 10
    assert total_macs(net) == conv + depthwise + matmul
    costs = {c.op: c for c in node_costs(net)}
    assert costs["MatMul"].parameters == 2160
    assert costs["MatMul"].bytes_written == 2 * 10 * 4


def test_transposed_gemm_and_recurrent():
    gemm = model("(float[5,4] x) => (float y) { y = Gemm<transA=1>(x, w) }", w=(5, 3))
    assert total_macs(gemm) == 4 * 3 * 5
    lstm = model("(float[7,2,3] x) => (float y) { y = LSTM<hidden_size=4>(x, w, r) }", w=(1, 16, 3), r=(1, 16, 4))
    assert total_macs(lstm) == 7 * 2 * (16 * 3 + 16 * 4)


def test_the_batch_counts_as_one_and_other_dims_need_a_value():
    net = model("(float[N,T,4] x) => (float y) { y = MatMul(x, w) }", w=(4, 3))
    assert unbound_dims(net) == ["T"]
    assert total_macs(net) is None
    assert total_macs(net, {"T": 5}) == 5 * 4 * 3
    assert total_macs(net, {"T": 5, "N": 2}) == 2 * 5 * 4 * 3
