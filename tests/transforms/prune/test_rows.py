"""One tiny model per operator row: random keep-sets, masked equivalence, power."""

from __future__ import annotations

import numpy as np
import pytest
from transforms.pruning import prune_and_check, random_keep, tiny, units_of

# name -> (text, opset, how many unit families there are)
CASES: dict[str, tuple[str, int, int]] = {
    "conv": (
        """(float[2,3,8,8] x, float[8,3,3,3] w1, float[8] b1, float[4,8,1,1] w2) => (float y) {
        a = Conv(x, w1, b1) r = Relu(a) y = Conv(r, w2) }""",
        17,
        1,
    ),
    "conv1d": (
        "(float[2,3,9] x, float[8,3,3] w1, float[4,8,1] w2) => (float y) { a = Conv(x, w1) y = Conv(a, w2) }",
        17,
        1,
    ),
    "conv3d": (
        "(float[1,2,4,4,4] x, float[6,2,3,3,3] w1, float[4,6,1,1,1] w2) => (float y) { a = Conv(x, w1) y = "
        "Conv(a, w2) }",
        17,
        1,
    ),
    "depthwise": (
        """(float[1,3,8,8] x, float[8,3,1,1] w1, float[8,1,3,3] w2, float[8] b2, float[4,8,1,1] w3) => (float y) {
        a = Conv(x, w1) c = Conv<group=8>(a, w2, b2) y = Conv(c, w3) }""",
        17,
        1,
    ),
    "depthwise_multiplier": (
        """(float[1,3,8,8] x, float[4,3,1,1] w1, float[8,1,3,3] w2, float[4,8,1,1] w3) => (float y) {
        a = Conv(x, w1) c = Conv<group=4>(a, w2) y = Conv(c, w3) }""",
        17,
        2,
    ),
    "grouped": (
        """(float[1,3,8,8] x, float[16,3,1,1] w1, float[24,4,3,3] w2, float[24] b2, float[4,24,1,1] w3) => (float y) {
        a = Conv(x, w1) c = Conv<group=4>(a, w2, b2) y = Conv(c, w3) }""",
        17,
        3,
    ),
    "conv_transpose": (
        """(float[1,3,5,5] x, float[8,3,1,1] w1, float[8,6,2,2] w2, float[6] b2, float[4,6,1,1] w3) => (float y) {
        a = Conv(x, w1) c = ConvTranspose<strides=[2,2]>(a, w2, b2) y = Conv(c, w3) }""",
        17,
        2,
    ),
    "conv_transpose_grouped": (
        """(float[1,3,5,5] x, float[8,3,1,1] w1, float[8,3,2,2] w2, float[6] b2, float[4,6,1,1] w3) => (float y) {
        a = Conv(x, w1) c = ConvTranspose<group=2>(a, w2, b2) y = Conv(c, w3) }""",
        17,
        3,
    ),
    "gemm": (
        """(float[2,5] x, float[8,5] w1, float[8] b1, float[8,4] w2, float[1,4] b2) => (float y) {
        a = Gemm<transB=1>(x, w1, b1) t = Tanh(a) y = Gemm(t, w2, b2) }""",
        17,
        1,
    ),
    "matmul_left_constant": (
        "(float[2,5,3] x, float[8,5] w1, float[4,8] w2) => (float y) { a = MatMul(w1, x) t = Sigmoid(a) y = "
        "MatMul(w2, t) }",
        17,
        1,
    ),
    "einsum": (
        """(float[2,5] x, float[5,8] w1, float[8,4] w2) => (float y) {
        a = Einsum<equation="bi,ij->bj">(x, w1) e = Exp(a) y = Einsum<equation="bj,jk->bk">(e, w2) }""",
        17,
        1,
    ),
    "batchnorm": (
        """(float[1,3,6,6] x, float[8,3,3,3] w1, float[8] bs, float[8] bb, float[8] bm, float[8] bv, float[4,8,1,1] w2)
        => (float y) { a = Conv(x, w1) n = BatchNormalization(a, bs, bb, bm, bv) y = Conv(n, w2) }""",
        17,
        1,
    ),
    "instance_norm": (
        """(float[1,3,6,6] x, float[8,3,3,3] w1, float[8] bs, float[8] bb, float[4,8,1,1] w2)
        => (float y) { a = Conv(x, w1) n = InstanceNormalization(a, bs, bb) y = Conv(n, w2) }""",
        17,
        1,
    ),
    "layer_norm": (
        """(float[2,3,5] x, float[5,8] w1, float[8] bs, float[8] bb, float[8,4] w2) => (float y) {
        a = MatMul(x, w1) n = LayerNormalization<axis=-1>(a, bs, bb) y = MatMul(n, w2) }""",
        17,
        1,
    ),
    "rms_norm": (
        """(float[2,3,5] x, float[5,8] w1, float[8] bs, float[8,4] w2) => (float y) {
        a = MatMul(x, w1) n = RMSNormalization<axis=-1>(a, bs) y = MatMul(n, w2) }""",
        23,
        1,
    ),
    "group_norm_21": (
        """(float[2,3,6,6] x, float[12,3,3,3] w1, float[12] bs, float[12] bb, float[4,12,1,1] w2) => (float y) {
        a = Conv(x, w1) n = GroupNormalization<num_groups=3>(a, bs, bb) y = Conv(n, w2) }""",
        21,
        2,
    ),
    "decomposed_layer_norm": (
        """(float[2,3,5] x, float[5,8] w1, float[8] bs, float[8,4] w2) => (float y) {
        a = MatMul(x, w1) m = ReduceMean<axes=[-1]>(a) d = Sub(a, m) q = Mul(d, d) v = ReduceMean<axes=[-1]>(q)
        e = Constant<value_float=0.00001>() ve = Add(v, e) s = Sqrt(ve) n = Div(d, s) k = Mul(n, bs) y =
        MatMul(k, w2) }""",
        17,
        1,
    ),
    "decomposed_group_norm": (
        """(float[2,3,4,4] x, float[12,3,3,3] w1, float[3] bs, float[3] bb, float[12,1,1] b1, float[4,12,1,1] w2)
        => (float y) <int64[3] s1 = {0,3,-1}, int64[4] s2 = {2,12,2,2}> {
        a = Conv(x, w1) r = Reshape(a, s1) n = InstanceNormalization(r, bs, bb) u = Reshape(n, s2) k = Mul(u, b1)
        y = Conv(k, w2) }""",
        17,
        2,
    ),
    "residual": (
        """(float[2,5] x, float[5,8] w1, float[8,6] w2, float[6,8] w3, float[8,4] w4) => (float y) {
        a = MatMul(x, w1) b = MatMul(a, w2) r = Relu(b) c = MatMul(r, w3) s = Add(a, c) y = MatMul(s, w4) }""",
        17,
        2,
    ),
    "squeeze_excite": (
        """(float[1,3,8,8] x, float[8,3,1,1] w1, float[4,8,1,1] w2, float[8,4,1,1] w3, float[4,8,1,1] w4) => (float y) {
        a = Conv(x, w1) p = GlobalAveragePool(a) q = Conv(p, w2) r = Relu(q) s = Conv(r, w3) g = Sigmoid(s) m =
        Mul(a, g)
        y = Conv(m, w4) }""",
        17,
        2,
    ),
    "flatten": (
        """(float[2,3,6,6] x, float[8,3,3,3] w1, float[128,10] w2) => (float y) {
        a = Conv(x, w1) f = Flatten(a) y = MatMul(f, w2) }""",
        17,
        1,
    ),
    "concat_split": (
        """(float[2,5] x, float[5,8] w1, float[5,6] w2, float[7,4] w3, float[7,4] w4) => (float y, float z)
        <int64[2] s = {7,7}> {
        a = MatMul(x, w1) b = MatMul(x, w2) c = Concat<axis=1>(a, b) d, e = Split<axis=1>(c, s) y = MatMul(d, w3)
        z = MatMul(e, w4) }""",
        17,
        3,
    ),
    "split_equal": (
        """(float[2,5] x, float[5,8] w1, float[4,4] w2) => (float y) {
        a = MatMul(x, w1) d, e = Split<axis=1, num_outputs=2>(a) g = Sigmoid(e) h = Mul(d, g) y = MatMul(h, w2) }""",
        18,
        1,
    ),
    "slice": (
        """(float[2,5] x, float[5,8] w1, float[5,4] w2) => (float y)
        <int64[1] s = {1}, int64[1] e = {-2}, int64[1] a1 = {1}> {
        a = MatMul(x, w1) c = Slice(a, s, e, a1) y = MatMul(c, w2) }""",
        17,
        2,
    ),
    "slice_strided": (
        """(float[2,5] x, float[5,8] w1, float[4,4] w2) => (float y)
        <int64[1] s = {1}, int64[1] e = {8}, int64[1] a1 = {1}, int64[1] st = {2}> {
        a = MatMul(x, w1) c = Slice(a, s, e, a1, st) y = MatMul(c, w2) }""",
        17,
        2,
    ),
    "gather_constant": (
        """(float[2,5] x, float[5,8] w1, float[6,4] w2) => (float y) <int64[6] i = {7,0,3,-2,1,3}> {
        a = MatMul(x, w1) c = Gather<axis=1>(a, i) y = MatMul(c, w2) }""",
        17,
        2,
    ),
    "pad_channels": (
        """(float[1,3,4,4] x, float[4,3,1,1] w1, float[8,4,1,1] w2, float[4,8,1,1] w3) => (float y)
        <int64[8] p = {0,2,0,0,0,2,0,0}> {
        a = Conv(x, w1) c = Pad(a, p) b = Conv(a, w2) s = Add(b, c) y = Conv(s, w3) }""",
        17,
        2,
    ),
    "tile_expand": (
        """(float[2,5] x, float[5,1] w1, float[1,6] b1, float[12,4] w2) => (float y)
        <int64[2] r = {1,2}, int64[2] e = {2,6}> {
        a = MatMul(x, w1) c = Expand(a, e) d = Mul(c, b1) t = Tile(d, r) y = MatMul(t, w2) }""",
        17,
        1,
    ),
    "depth_to_space": (
        """(float[1,3,4,4] x, float[12,3,1,1] w1, float[4,3,1,1] w2) => (float y) {
        a = Conv(x, w1) d = DepthToSpace<blocksize=2>(a) y = Conv(d, w2) }""",
        17,
        1,
    ),
    "depth_to_space_crd": (
        """(float[1,3,4,4] x, float[12,3,1,1] w1, float[4,3,1,1] w2) => (float y) {
        a = Conv(x, w1) d = DepthToSpace<blocksize=2, mode="CRD">(a) y = Conv(d, w2) }""",
        17,
        1,
    ),
    "space_to_depth": (
        """(float[1,3,4,4] x, float[6,3,1,1] w1, float[4,24,1,1] w2) => (float y) {
        a = Conv(x, w1) d = SpaceToDepth<blocksize=2>(a) y = Conv(d, w2) }""",
        17,
        1,
    ),
    "channel_shuffle": (
        """(float[1,3,4,4] x, float[8,3,1,1] w1, float[4,8,1,1] w2) => (float y)
        <int64[5] s = {1,2,4,4,4}, int64[4] t = {1,8,4,4}> {
        a = Conv(x, w1) b = Reshape(a, s) c = Transpose<perm=[0,2,1,3,4]>(b) d = Reshape(c, t) y = Conv(d, w2) }""",
        17,
        2,
    ),
    "resize_pool": (
        """(float[1,3,8,8] x, float[8,3,1,1] w1, float[4,8,1,1] w2) => (float y)
        <float[0] n = {}, int64[4] s = {1,8,8,8}> {
        a = Conv(x, w1) b = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a) c = Resize<mode="nearest">(b, n, n, s)
        d = AveragePool<kernel_shape=[3,3]>(c) y = Conv(d, w2) }""",
        17,
        1,
    ),
    "reduce": (
        """(float[2,3,5] x, float[5,8] w1, float[8,4] w2) => (float y, float z, float v) {
        a = MatMul(x, w1) y = ReduceMax<axes=[2]>(a) z = ReduceL2<axes=[2]>(a) m = ReduceMean<axes=[1], keepdims=0>(a)
        v = MatMul(m, w2) }""",
        17,
        1,
    ),
    "prelu_clip": (
        """(float[1,3,4,4] x, float[8,3,1,1] w1, float[8,1,1] b1, float[4,8,1,1] w2) => (float y)
        <float lo = {-1.0}, float hi = {1.0}> {
        a = Conv(x, w1) p = PRelu(a, b1) c = Clip(p, lo, hi) y = Conv(c, w2) }""",
        17,
        1,
    ),
    "where": (
        """(float[2,5] x, float[5,8] w1, float[8] b1, float[8,4] w2) => (float y) <float z = {0.0}> {
        a = MatMul(x, w1) g = Greater(a, z) c = Where(g, a, b1) y = MatMul(c, w2) }""",
        17,
        1,
    ),
    "embedding": (
        """(int64[2,3] ids, float[10,8] w1, float[3,8] w2, float[8,4] w3) => (float y) {
        e = Gather(w1, ids) p = Add(e, w2) y = MatMul(p, w3) }""",
        17,
        1,
    ),
    "tied_embedding": (
        """(int64[2,3] ids, float[10,8] w1, float[8,8] w2) => (float y) {
        e = Gather(w1, ids) h = MatMul(e, w2) t = Transpose<perm=[1,0]>(w1) y = MatMul(h, t) }""",
        17,
        1,
    ),
    "attention_heads": (
        """(float[2,5,12] x, float[12,16] w1, float[12,16] w2, float[12,16] w3, float[16,6] w4) => (float y)
        <int64[4] s = {0,0,4,4}, int64[3] t = {0,0,16}, float c = {0.5}> {
        q = MatMul(x, w1) k = MatMul(x, w2) v = MatMul(x, w3) q4 = Reshape(q, s) k4 = Reshape(k, s) v4 = Reshape(v, s)
        qt = Transpose<perm=[0,2,1,3]>(q4) kt = Transpose<perm=[0,2,3,1]>(k4) vt = Transpose<perm=[0,2,1,3]>(v4)
        l = MatMul(qt, kt) m = Mul(l, c) p = Softmax<axis=-1>(m) o = MatMul(p, vt) r = Transpose<perm=[0,2,1,3]>(o)
        f = Reshape(r, t) y = MatMul(f, w4) }""",
        17,
        3,
    ),
    "attention_packed_qkv": (
        """(float[2,5,12] x, float[12,48] w1, float[48] b1, float[16,6] w4) => (float y)
        <int64[5] s = {2,5,3,4,4}, int64[3] t = {2,5,16}, int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2}> {
        a = MatMul(x, w1) ab = Add(a, b1) r = Reshape(ab, s) u = Transpose<perm=[2,0,3,1,4]>(r)
        q = Gather(u, i0) k = Gather(u, i1) v = Gather(u, i2) kt = Transpose<perm=[0,1,3,2]>(k) l = MatMul(q, kt)
        p = Softmax<axis=-1>(l) o = MatMul(p, v) e = Transpose<perm=[0,2,1,3]>(o) f = Reshape(e, t) y =
        MatMul(f, w4) }""",
        17,
        2,
    ),
    "grouped_query": (
        """(float[2,5,12] x, float[12,16] w1, float[12,8] w2, float[12,8] w3, float[16,6] w4) => (float y)
        <int64[4] s = {2,5,4,4}, int64[4] sk = {2,5,2,4}, int64[5] ex = {2,2,2,5,4}, int64[4] rs = {2,4,5,4},
         int64[1] a2 = {2}, int64[3] t = {2,5,16}> {
        q = MatMul(x, w1) k = MatMul(x, w2) v = MatMul(x, w3) q4 = Reshape(q, s) k4 = Reshape(k, sk) v4 = Reshape(v, sk)
        qt = Transpose<perm=[0,2,1,3]>(q4) kt = Transpose<perm=[0,2,1,3]>(k4) vt = Transpose<perm=[0,2,1,3]>(v4)
        ku = Unsqueeze(kt, a2) ke = Expand(ku, ex) kr = Reshape(ke, rs) vu = Unsqueeze(vt, a2) ve = Expand(vu, ex)
        vr = Reshape(ve, rs) kk = Transpose<perm=[0,1,3,2]>(kr) l = MatMul(qt, kk) p = Softmax<axis=-1>(l)
        o = MatMul(p, vr) r = Transpose<perm=[0,2,1,3]>(o) f = Reshape(r, t) y = MatMul(f, w4) }""",
        17,
        4,
    ),
    "rope_pairs": (
        """(float[2,5,8] x, float[8,8] w1, float[8,8] w2, float[5,8] wc, float[5,8] ws) => (float y)
        <int64[1] z = {0}, int64[1] h = {4}, int64[1] e = {8}, int64[1] ax = {2}> {
        q = MatMul(x, w1) k = MatMul(x, w2)
        q1 = Slice(q, z, h, ax) q2 = Slice(q, h, e, ax) qn = Neg(q2) qr = Concat<axis=2>(qn, q1)
        qc = Mul(q, wc) qs = Mul(qr, ws) qq = Add(qc, qs)
        k1 = Slice(k, z, h, ax) k2 = Slice(k, h, e, ax) kn = Neg(k2) kr = Concat<axis=2>(kn, k1)
        kc = Mul(k, wc) ks = Mul(kr, ws) kk = Add(kc, ks)
        kt = Transpose<perm=[0,2,1]>(kk) y = MatMul(qq, kt) }""",
        17,
        1,
    ),
    "gated_ffn": (
        """(float[2,5] x, float[5,16] w1, float[8,4] w2) => (float y)
        <int64[1] z = {0}, int64[1] h = {8}, int64[1] e = {16}, int64[1] ax = {1}> {
        a = MatMul(x, w1) u = Slice(a, z, h, ax) v = Slice(a, h, e, ax) s = Sigmoid(v) m = Mul(u, s) y =
        MatMul(m, w2) }""",
        17,
        1,
    ),
    "lstm": (
        """(float[5,2,3] x, float[1,32,3] w1, float[1,32,8] w2, float[1,64] b1, float[8,4] w3) => (float y)
        <int64[1] ax = {1}> {
        a, h, c = LSTM<hidden_size=8>(x, w1, w2, b1) s = Squeeze(a, ax) y = MatMul(s, w3) }""",
        17,
        1,
    ),
    "bilstm": (
        """(float[5,2,3] x, float[2,32,3] w1, float[2,32,8] w2, float[2,64] b1, float[16,4] w3) => (float y)
        <int64[3] s = {0,0,-1}> {
        a, h, c = LSTM<hidden_size=8, direction="bidirectional">(x, w1, w2, b1) t = Transpose<perm=[0,2,1,3]>(a)
        r = Reshape(t, s) y = MatMul(r, w3) }""",
        17,
        1,
    ),
    "gru": (
        """(float[5,2,3] x, float[1,24,3] w1, float[1,24,8] w2, float[1,48] b1, float[8,4] w3) => (float y)
        <int64[1] ax = {0}> {
        a, h = GRU<hidden_size=8, linear_before_reset=1>(x, w1, w2, b1) s = Squeeze(h, ax) y = MatMul(s, w3) }""",
        17,
        1,
    ),
    "rnn": (
        """(float[5,2,3] x, float[1,8,3] w1, float[1,8,8] w2, float[8,4] w3) => (float y) <int64[1] ax = {1}> {
        a, h = RNN<hidden_size=8>(x, w1, w2) s = Squeeze(a, ax) y = MatMul(s, w3) }""",
        17,
        1,
    ),
    "attention_op": (
        """(float[2,5,12] x, float[12,16] w1, float[12,8] w2, float[12,8] w3, float[16,6] w4) => (float y) {
        q = MatMul(x, w1) k = MatMul(x, w2) v = MatMul(x, w3) o = Attention<q_num_heads=4, kv_num_heads=2>(q, k, v)
        y = MatMul(o, w4) }""",
        23,
        4,
    ),
    "qdq_per_channel": (
        """(float[1,3,6,6] x, int8[8,3,3,3] w1, float[8] bv, float[4,8,1,1] w2) => (float y)
        <float s = {0.05}, uint8 z = {128}> {
        d = DequantizeLinear<axis=0>(w1, bv) a = Conv(x, d) q = QuantizeLinear(a, s, z) e = DequantizeLinear(q, s, z)
        y = Conv(e, w2) }""",
        17,
        1,
    ),
    "scatter_nd": (
        """(float[4,5] x, float[5,8] w1, float[2,5] w5, float[8,4] w2) => (float y) <int64[2,1] i = {0,2}> {
        a = MatMul(x, w1) u = MatMul(w5, w1) s = ScatterND(a, i, u) y = MatMul(s, w2) }""",
        17,
        1,
    ),
    "top_k_other_axis": (
        """(float[4,5] x, float[5,8] w1, float[8,4] w2) => (float y) <int64[1] k = {2}> {
        a = MatMul(x, w1) v, i = TopK<axis=0>(a, k) y = MatMul(v, w2) }""",
        17,
        1,
    ),
    "cumsum_other_axis": (
        """(float[4,5] x, float[5,8] w1, float[8,4] w2) => (float y) <int64 k = {0}> {
        a = MatMul(x, w1) v = CumSum(a, k) y = MatMul(v, w2) }""",
        17,
        1,
    ),
    "weight_standardisation": (
        """(float[1,3,6,6] x, float[8,3,3,3] w1, float[4,8,3,3] w2) => (float y) {
        a = Conv(x, w1) m = ReduceMean<axes=[1,2,3]>(w2) d = Sub(w2, m) y = Conv(a, d) }""",
        17,
        1,
    ),
    "dynamic_dims": (
        """(float[N,S,12] x, float[12,16] w1, float[12,16] w2, float[16,6] w4) => (float y)
        <int64 i0 = {0}, int64 i1 = {1}, int64[1] z = {0}, int64[1] h = {4}, int64[1] d = {4}, int64[1] hd = {16}> {
        q = MatMul(x, w1) s = Shape(q) n = Gather(s, i0) t = Gather(s, i1) n1 = Unsqueeze(n, z) t1 = Unsqueeze(t, z)
        c = Concat<axis=0>(n1, t1, h, d) q4 = Reshape(q, c) e = Transpose<perm=[0,2,1,3]>(q4) v = Relu(e)
        b = Transpose<perm=[0,2,1,3]>(v) c2 = Concat<axis=0>(n1, t1, hd) f = Reshape(b, c2) y = MatMul(f, w4) }""",
        17,
        2,
    ),
    "scale_from_shape": (
        """(float[2,5,12] x, float[12,8] w1, float[12,8] w2) => (float y)
        <int64[1] m = {-1}, int64[1] e = {9223372036854775807}> {
        q = MatMul(x, w1) k = MatMul(x, w2) kt = Transpose<perm=[0,2,1]>(k) l = MatMul(q, kt) s = Shape(q)
        d = Slice(s, m, e) f = Cast<to=1>(d) r = Sqrt(f) y = Div(l, r) }""",
        17,
        1,
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_row(name: str, seed: int) -> None:
    text, opset, families = CASES[name]
    model = tiny(text, opset, seed=seed)
    units = units_of(model)
    assert len(units.families) == families, [(f.name, len(f)) for f in units.families]
    keep = random_keep(units, seed=seed)
    assert not keep.empty()
    found = prune_and_check(model, keep, units, seed)
    assert found.passed, found
    assert found.tested
    unread = {"slice", "slice_strided", "gather_constant"}
    assert len(found.inconclusive) <= (name in unread), found


FROZEN: dict[str, tuple[str, int]] = {
    "softmax_axis": (
        "(float[2,5] x, float[5,8] w1, float[8,4] w2) => (float y) { a = MatMul(x, w1) s = Softmax<axis=1>(a) y "
        "= MatMul(s, w2) }",
        17,
    ),
    "cumsum_axis": (
        """(float[2,5] x, float[5,8] w1, float[8,4] w2) => (float y) <int64 k = {1}> {
        a = MatMul(x, w1) s = CumSum(a, k) y = MatMul(s, w2) }""",
        17,
    ),
    "lrn": (
        "(float[1,3,4,4] x, float[8,3,1,1] w1, float[4,8,1,1] w2) => (float y) { a = Conv(x, w1) s = "
        "LRN<size=3>(a) y = Conv(s, w2) }",
        17,
    ),
}


@pytest.mark.parametrize("name", FROZEN)
def test_frozen_rows_name_the_node(name: str) -> None:
    from graphopt.transforms.prune.inspection import prunable

    text, opset = FROZEN[name]
    units = units_of(tiny(text, opset))
    assert not units.families
    op = {"softmax_axis": "Softmax", "cumsum_axis": "CumSum", "lrn": "LRN"}[name]
    assert any(f.reason.startswith(op) for f in prunable(units).frozen)


def test_control_flow_freezes_what_it_captures() -> None:
    text = """(float[2,5] x, bool c, float[5,8] w1, float[8,4] w2) => (float y) {
        a = MatMul(x, w1)
        s = If(c) <then_branch = t () => (float[2,8] p) { p = Relu(a) },
                   else_branch = e () => (float[2,8] q) { q = Abs(a) }>
        y = MatMul(s, w2) }"""
    units = units_of(tiny(text))
    assert not units.families
    assert units.coupling.record.opaque


def test_a_weight_that_a_nested_graph_reads_stays_whole() -> None:
    from graphopt.transforms.prune.inspection import prunable

    text = """(float[2,5] x, bool c, float[5,8] w1, float[8,6] w2, float[6,4] w3) => (float y, float z) {
        a = MatMul(x, w1) h = MatMul(a, w2) y = MatMul(h, w3)
        z = If(c) <then_branch = t () => (float[8,6] p) { p = Relu(w2) },
                  else_branch = e () => (float[8,6] q) { q = Abs(w2) }> }"""
    units = units_of(tiny(text))
    assert not units.families
    assert any("captured by a nested graph" in f.reason for f in prunable(units).frozen)


def test_a_missing_row_freezes_and_a_users_row_opens() -> None:
    from graphopt.analysis.labels import analyse
    from graphopt.analysis.labels.rows.elementwise import unary
    from graphopt.transforms.prune.selection_units import find_units

    text = """(float[2,5] x, float[5,8] w1, float[8,4] w2) => (float y) {
        a = MatMul(x, w1) s = com.microsoft.MyOp(a) y = MatMul(s, w2) }"""
    model = tiny(text, microsoft=True)
    node = next(n for n in model.graph.nodes if n.op == "MyOp")
    node.outputs[0].dtype, node.outputs[0].shape = np.dtype(np.float32), [2, 8]
    assert not units_of(model).families
    opened = find_units(analyse(model.graph, rules={("com.microsoft", "MyOp"): unary}))
    assert [len(f) for f in opened.families] == [8]
