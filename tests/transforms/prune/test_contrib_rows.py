"""One tiny model per row of quantized, fused and rarer operators, as test_prune_rows does for the others."""

from __future__ import annotations

import pytest
from transforms.pruning import prune_and_check, random_keep, tiny, units_of

QUANT = "float s = {0.05}, uint8 z = {120}, float sw = {0.01}, int8 zw = {0}"

# name: (graph, opset, families that must be found)
CASES: dict[str, tuple[str, int, int]] = {
    "qlinear_conv": (
        f"""(float[1,3,6,6] x, int8[8,3,3,3] w1, int32[8] w3, int8[4,8,1,1] w2) => (uint8 y) <{QUANT}> {{
        q = QuantizeLinear(x, s, z) a = QLinearConv(q, s, z, w1, sw, zw, s, z, w3)
        y = QLinearConv(a, s, z, w2, sw, zw, s, z) }}""",
        17,
        1,
    ),
    "qlinear_conv_per_channel": (
        """(float[1,3,6,6] x, int8[8,3,3,3] w1, float[8] bv1, int8[8] i8, int8[4,8,1,1] w2) => (uint8 y)
        <float s = {0.05}, uint8 z = {120}, float sw = {0.01}, int8 zw = {0}, int8[8] zr = {0,0,0,0,0,0,0,0}> {
        q = QuantizeLinear(x, s, z) a = QLinearConv(q, s, z, w1, bv1, zr, s, z)
        y = QLinearConv(a, s, z, w2, sw, zw, s, z) }""".replace("int8[8] i8, ", ""),
        17,
        1,
    ),
    "conv_integer": (
        f"""(float[1,3,6,6] x, int8[8,3,3,3] w1, int8[4,8,1,1] w2) => (int32 y) <{QUANT}> {{
        q = QuantizeLinear(x, s, z) a = QLinearConv(q, s, z, w1, sw, zw, s, z)
        y = ConvInteger(a, w2, z, zw) }}""",
        17,
        1,
    ),
    "dynamic_quantization": (
        """(float[3,5] x, float[5,8] w1, int8[8,4] w2, float[4] b) => (float y) <float sw = {0.02}, int8 zw = {0}> {
        a = MatMul(x, w1) q, s, z = DynamicQuantizeLinear(a) p = MatMulInteger(q, w2, z, zw) f = Cast<to=1>(p)
        t = Mul(s, sw) g = Mul(f, t) y = Add(g, b) }""",
        17,
        1,
    ),
    "qlinear_matmul": (
        f"""(float[3,5] x, int8[5,8] w1, int8[8,4] w2) => (uint8 y) <{QUANT}> {{
        q = QuantizeLinear(x, s, z) a = QLinearMatMul(q, s, z, w1, sw, zw, s, z)
        y = QLinearMatMul(a, s, z, w2, sw, zw, s, z) }}""",
        17,
        1,
    ),
    "qlinear_add_mul_pool_concat": (
        f"""(float[1,3,6,6] x, int8[8,3,3,3] w1, int8[8,3,3,3] w2, int8[4,16,1,1] w4) => (uint8 y) <{QUANT}> {{
        q = QuantizeLinear(x, s, z) a = QLinearConv(q, s, z, w1, sw, zw, s, z)
        b = QLinearConv(q, s, z, w2, sw, zw, s, z) c = com.microsoft.QLinearAdd(a, s, z, b, s, z, s, z)
        d = com.microsoft.QLinearMul(a, s, z, c, s, z, s, z)
        e = com.microsoft.QLinearLeakyRelu<alpha=0.1>(d, s, z, s, z)
        f = com.microsoft.QLinearSigmoid(c, s, z, s, z)
        g = com.microsoft.QLinearConcat<axis=1>(s, z, e, s, z, f, s, z)
        h = com.microsoft.QLinearAveragePool<kernel_shape=[2,2]>(g, s, z, s, z)
        j = com.microsoft.QLinearGlobalAveragePool<channels_last=0>(h, s, z, s, z)
        y = QLinearConv(j, s, z, w4, sw, zw, s, z) }}""",
        17,
        1,
    ),
    "channels_last_qlinear_conv": (
        f"""(float[1,6,6,3] x, int8[8,3,3,3] w1, int8[4,8,1,1] w2) => (uint8 y) <{QUANT}> {{
        q = QuantizeLinear(x, s, z) a = com.microsoft.QLinearConv<channels_last=1>(q, s, z, w1, sw, zw, s, z)
        p = com.microsoft.NhwcMaxPool<kernel_shape=[2,2]>(a)
        y = com.microsoft.QLinearConv<channels_last=1>(p, s, z, w2, sw, zw, s, z) }}""",
        17,
        1,
    ),
    "qgemm": (
        f"""(float[3,5] x, int8[8,5] w1, int32[8] w3, int8[8,4] w2) => (uint8 y) <{QUANT}> {{
        q = QuantizeLinear(x, s, z) a = com.microsoft.QGemm<transB=1>(q, s, z, w1, sw, zw, w3, s, z)
        y = com.microsoft.QGemm(a, s, z, w2, sw, zw, , s, z) }}""",
        17,
        1,
    ),
    "matmul_integer_to_float": (
        f"""(float[3,5] x, int8[5,8] w1, float[8] bv1, float[8] b2, float[8,4] w2) => (float y) <{QUANT}> {{
        q = QuantizeLinear(x, s, z) a = com.microsoft.MatMulIntegerToFloat(q, w1, s, bv1, z, , b2)
        y = MatMul(a, w2) }}""",
        17,
        1,
    ),
    "dynamic_quantize_matmul": (
        f"""(float[3,5] x, float[5,8] w1, int8[8,6] w2, float[6] b2, float[6,4] w3) => (float y) <{QUANT}> {{
        a = MatMul(x, w1) c = com.microsoft.DynamicQuantizeMatMul(a, w2, sw, zw, b2) y = MatMul(c, w3) }}""",
        17,
        2,
    ),
    "skip_layer_norm": (
        """(float[2,3,5] x, float[5,8] w1, float[5,8] w2, float[8] b1, float[8] b2, float[8] b3, float[8,4] w3)
        => (float y) { a = MatMul(x, w1) c = MatMul(x, w2)
        n, , , t = com.microsoft.SkipLayerNormalization<epsilon=0.00001>(a, c, b1, b2, b3)
        u = Add(n, t) y = MatMul(u, w3) }""",
        17,
        1,
    ),
    "skip_simplified_layer_norm": (
        """(float[2,3,5] x, float[5,8] w1, float[5,8] w2, float[8] b1, float[8,4] w3) => (float y) {
        a = MatMul(x, w1) c = MatMul(x, w2)
        n, , , t = com.microsoft.SkipSimplifiedLayerNormalization<epsilon=0.00001>(a, c, b1)
        u = Add(n, t) y = MatMul(u, w3) }""",
        17,
        1,
    ),
    "embed_layer_norm": (
        """(int32[2,3] ids, int32[2,3] seg, float[7,8] w1, float[5,8] w2, float[2,8] w3, float[8] b1, float[8] b2,
        float[8,4] w4) => (float y) {
        n, m, t = com.microsoft.EmbedLayerNormalization(ids, seg, w1, w2, w3, b1, b2) u = Add(n, t)
        y = MatMul(u, w4) }""",
        17,
        1,
    ),
    "packed_attention": (
        """(float[2,5,12] x, float[12,6] w0, float[6,48] w1, float[48] b1, float[16,6] w4) => (float y) {
        h = MatMul(x, w0) o = com.microsoft.Attention<num_heads=4>(h, w1, b1) y = MatMul(o, w4) }""",
        17,
        3,
    ),
    "multi_head": (
        """(float[2,5,12] x, float[12,16] w1, float[12,16] w2, float[12,16] w3, float[16,6] w4) => (float y) {
        q = MatMul(x, w1) k = MatMul(x, w2) v = MatMul(x, w3)
        o = com.microsoft.MultiHeadAttention<num_heads=4>(q, k, v) y = MatMul(o, w4) }""",
        17,
        3,
    ),
    "multi_head_bias": (
        """(float[2,5,12] x, float[12,16] w1, float[12,16] w2, float[12,16] w3, float[48] b1, float[16,6] w4)
        => (float y) { q = MatMul(x, w1) k = MatMul(x, w2) v = MatMul(x, w3)
        o = com.microsoft.MultiHeadAttention<num_heads=4>(q, k, v, b1) y = MatMul(o, w4) }""",
        17,
        2,
    ),
    "fused_matmul_gelu": (
        """(float[3,5] x, float[8,5] w1, float[8] b1, float[8] b2, float[8,4] w2) => (float y) {
        a = com.microsoft.FusedMatMul<transB=1, alpha=0.5>(x, w1) c = com.microsoft.BiasGelu(a, b1)
        d = com.microsoft.FastGelu(c, b2) e = com.microsoft.QuickGelu<alpha=1.7>(d) y = MatMul(e, w2) }""",
        17,
        1,
    ),
    "fused_gemm": (
        """(float[3,5] x, float[5,8] w1, float[8] b1, float[8,4] w2) => (float y) {
        a = com.microsoft.FusedGemm<activation="Relu">(x, w1, b1) y = MatMul(a, w2) }""",
        17,
        1,
    ),
    "fused_conv": (
        """(float[1,3,6,6] x, float[8,3,3,3] w1, float[8,3,3,3] w2, float[8] b1, float[4,8,1,1] w3) => (float y) {
        a = Conv(x, w1) c = com.microsoft.FusedConv<activation="Relu">(x, w2, b1, a) y = Conv(c, w3) }""",
        17,
        1,
    ),
    "mixture_of_experts": (
        """(float[3,5] x, float[5,8] w0, float[5,4] wr, float[4,12,8] w1, float[4,12] b1, float[4,8,12] w2,
        float[8,6] w3) => (float y) {
        a = MatMul(x, w0) r = MatMul(x, wr) m = com.microsoft.MoE<k=2, activation_type="gelu">(a, r, w1, b1, w2)
        y = MatMul(m, w3) }""",
        17,
        3,
    ),
    "matmul_nbits": (
        """(float[3,5] x, float[5,64] w0, uint8[96,4,8] w1, float[384] b1, float[96] b2, uint8[6,6,8] w2, float[36] b3)
        => (float y) { a = MatMul(x, w0)
        m = com.microsoft.MatMulNBits<K=64, N=96, bits=4, block_size=16>(a, w1, b1, , , b2) r = Relu(m)
        y = com.microsoft.MatMulNBits<K=96, N=6, bits=4, block_size=16>(r, w2, b3) }""",
        17,
        2,
    ),
    "matmul_nbits_zero_points": (
        """(float[3,5] x, float[5,32] w0, uint8[12,2,8] w1, float[12,2] b1, uint8[12,1] w3, float[12,4] w2)
        => (float y) { a = MatMul(x, w0)
        m = com.microsoft.MatMulNBits<K=32, N=12, bits=4, block_size=16>(a, w1, b1, w3) r = Relu(m)
        y = MatMul(r, w2) }""",
        17,
        1,
    ),
    "blocked_dequantize": (
        """(float[3,5] x, float[5,32] w0, int8[32,12] w1, float[8,12] b1, int8[12,4] w2, float[3,4] b2) => (float y) {
        a = MatMul(x, w0) d = DequantizeLinear<axis=0, block_size=4>(w1, b1) m = MatMul(a, d) r = Relu(m)
        e = DequantizeLinear<axis=0, block_size=4>(w2, b2) y = MatMul(r, e) }""",
        21,
        2,
    ),
    "dynamic_quantize_lstm": (
        """(float[5,2,6] x, float[6,8] w0, int8[1,8,12] w1, int8[1,3,12] w2, float[1,24] b1, float[1] bv1, int8[1] w3,
        float[1] bv2, int8[1] w4, float[3,4] w5) => (float y) <int64[1] i = {1}, float t = {0.02}> {
        a = MatMul(x, w0) m = Mul(a, t)
        h, j, k = com.microsoft.DynamicQuantizeLSTM<hidden_size=3>(m, w1, w2, b1, , , , , bv1, w3, bv2, w4)
        s = Squeeze(h, i) y = MatMul(s, w5) }""",
        17,
        1,
    ),
    "expand_dims": (
        """(float[3,5] x, float[5,8] w1, float[8,4] w2) => (float y) <int32 i = {1}> {
        a = MatMul(x, w1) c = com.microsoft.ExpandDims(a, i) y = MatMul(c, w2) }""",
        17,
        1,
    ),
    "col2im": (
        """(float[1,4,16] x, float[24,4] w1, float[3,6,1,1] w2) => (float y) <int64[2] i = {5,5}, int64[2] k = {2,2}> {
        a = MatMul(w1, x) c = Col2Im(a, i, k) y = Conv(c, w2) }""",
        18,
        1,
    ),
    "compress_other_axis": (
        """(float[4,5] x, float[5,8] w1, float[8,4] w2) => (float y) <bool[4] c = {1,0,1,1}> {
        a = MatMul(x, w1) v = Compress<axis=0>(a, c) y = MatMul(v, w2) }""",
        17,
        1,
    ),
    "center_crop_pad": (
        """(float[1,3,6,6] x, float[8,3,1,1] w1, float[4,8,1,1] w2) => (float y) <int64[4] i = {1,8,4,7}> {
        a = Conv(x, w1) v = CenterCropPad(a, i) y = Conv(v, w2) }""",
        18,
        1,
    ),
    "deform_conv": (
        """(float[1,3,6,6] x, float[6,3,1,1] w0, float[8,6,3,3] w1, float[18,3,3,3] w2, float[4,8,1,1] w3)
        => (float y) { a = Conv(x, w0) o = Conv(x, w2) c = DeformConv(a, w1, o) y = Conv(c, w3) }""",
        19,
        2,
    ),
    "einsum_implicit": (
        """(float[3,5] x, float[5,8] w1, float[8,4] w2) => (float y) {
        a = MatMul(x, w1) y = Einsum<equation="ij,jk">(a, w2) }""",
        17,
        1,
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_row(name: str, seed: int) -> None:
    text, opset, families = CASES[name]
    model = tiny(text, opset, microsoft=True, seed=seed)
    units = units_of(model)
    assert len(units.families) == families, [(f.name, len(f)) for f in units.families]
    keep = random_keep(units, seed=seed)
    assert not keep.empty()
    found = prune_and_check(model, keep, units, seed)
    assert found.passed, found
    assert not found.ill_conditioned
    assert found.tested
    assert not found.inconclusive


def test_channels_last_conv_labels() -> None:
    """ONNX Runtime has no float kernel for it on a CPU, so only the labels are looked at."""
    text = """(float[1,6,6,3] x, float[8,3,3,3] w1, float[8] b1, float[4,8,1,1] w2) => (float y) {
        a = com.microsoft.NhwcConv(x, w1, b1) y = com.microsoft.NhwcConv(a, w2) }"""
    model = tiny(text, microsoft=True)
    units = units_of(model)
    assert [len(f) for f in units.families] == [8]
    assert {(t.name, place) for t, place in units.families[0].tensors} == {("w1", 0), ("b1", 0), ("w2", 1)}


def test_bias_softmax_and_relative_bias_labels() -> None:
    """No kernel on a CPU either: heads go with the columns of the bias table."""
    text = """(float[2,5,12] x, float[12,16] w1, float[12,16] w2, float[12,16] w3, float[32,4] w5, float[16,6] w4)
        => (float y) <int64[4] i1 = {2,5,4,4}, int64[3] i2 = {2,5,16}, int64 n = {5}> {
        q = MatMul(x, w1) k = MatMul(x, w2) v = MatMul(x, w3)
        q4 = Reshape(q, i1) k4 = Reshape(k, i1) v4 = Reshape(v, i1) qt = Transpose<perm=[0,2,1,3]>(q4)
        kt = Transpose<perm=[0,2,3,1]>(k4) vt = Transpose<perm=[0,2,1,3]>(v4) l = MatMul(qt, kt)
        r = com.microsoft.RelativePositionBias<max_distance=128>(w5, n, n)
        p = com.microsoft.BiasSoftmax<axis=3, is_inner_broadcast=0>(l, r) o = MatMul(p, vt)
        e = Transpose<perm=[0,2,1,3]>(o) f = Reshape(e, i2) y = MatMul(f, w4) }"""
    families = units_of(tiny(text, microsoft=True)).families
    assert [len(f) for f in families] == [4, 4, 4]
    assert any(("w5", 1) in {(t.name, place) for t, place in f.tensors} for f in families)


@pytest.mark.parametrize(("op", "output"), [("PackedAttention", "float[2,8] s"), ("GroupNorm", "float[2,8] s")])
def test_what_has_no_form_stays_and_is_named(op: str, output: str) -> None:
    from graphopt.transforms.prune.inspection import prunable

    text = f"""(float[2,5] x, float[5,8] w1, float[8,4] w2) => (float y) <{output}> {{
        a = MatMul(x, w1) s = com.microsoft.{op}(a) y = MatMul(s, w2) }}"""
    model = tiny(text, microsoft=True)
    node = next(n for n in model.graph.nodes if n.op == op)
    node.outputs[0].shape = [2, 8]
    units = units_of(model)
    assert not units.families
    assert any(line.startswith(op) for line in prunable(units).without_rule)
