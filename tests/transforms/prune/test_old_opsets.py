"""Models from before opset 9, as the first model zoos have them: pruned, and proven without Where."""

from __future__ import annotations

import pytest
from transforms.pruning import prune_and_check, random_keep, tiny, units_of

OLD = """(float[1,3,8,8] x, float[16,3,3,3] w1, float[16] w2, float[16] b2, float[16] b3, float[16] bv,
    float[8,8,3,3] w3, float[20,24,1,1] w4, float[20,1,1] w5, float[32,320] w6, float[32] b6, float[32,5] w7)
    => (float y) {
    a = Conv<pads=[1,1,1,1]>(x, w1) n = BatchNormalization(a, w2, b2, b3, bv) r = Relu(n)
    p, q = Split<axis=1, split=[8,8]>(r) f = Pad<pads=[0,0,1,1,0,0,1,1]>(p) g = Conv(f, w3) c = Concat<axis=1>(g, q)
    s = Slice<starts=[2], ends=[10], axes=[1]>(c) d = Concat<axis=1>(c, s) e = Conv(d, w4) h = PRelu(e, w5)
    m = ReduceMax<axes=[1]>(h) k = Sub(h, m) i = AveragePool<kernel_shape=[2,2], strides=[2,2]>(k) t = Dropout(i)
    j = Flatten(t) o = Gemm<transB=1>(j, w6, b6) u = Tanh(o) y = MatMul(u, w7) }"""


@pytest.mark.parametrize("opset", [7, 8, 9])
@pytest.mark.parametrize("seed", range(3))
def test_an_old_model_is_pruned(opset: int, seed: int) -> None:
    model = tiny(OLD, opset)
    units = units_of(model)
    found = prune_and_check(model, random_keep(units, seed=seed), units, seed)
    assert found.passed
    assert not found.inconclusive
    assert model.graph.tensors()["w6"].shape == (16, 160)
