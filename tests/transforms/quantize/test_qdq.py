"""Quantization of small models: what is inserted, what it computes, and every awkward but legal input."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt import load
from graphopt.data.interface import read_interface
from graphopt.data.open import open_data
from graphopt.errors import DataError, UnsupportedError
from graphopt.targets import get_target
from graphopt.transforms.quantize.qdq import QuantConfig, quantize_model
from graphopt.transforms.quantize.report import INTEGER_KERNELS

RNG = np.random.default_rng(0)
CHANNELS = 16
SHAPE = [1, CHANNELS, 12, 12]


def value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def conv_weight(out=CHANNELS, given=CHANNELS, kernel=3, seed=0):
    return (np.random.default_rng(seed).standard_normal((out, given, kernel, kernel)) * 0.1).astype(np.float32)


def model(nodes, weights, inputs, outputs, opset=17, ir=8):
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(v, k) for k, v in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def two_convs(opset=17, batch=1, names=("a", "b"), weight_names=("w1", "w2"), bias=None):
    """x -> Conv -> Relu -> Conv -> y, 16 channels, 12 x 12."""
    weights = {weight_names[0]: conv_weight(seed=1), weight_names[1]: conv_weight(seed=2)}
    extra = []
    if bias is not None:
        weights["b1"] = bias
        extra = ["b1"]
    nodes = [
        helper.make_node("Conv", ["x", weight_names[0], *extra], ["c"], names[0], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", weight_names[1]], ["y"], names[1], pads=[1] * 4),
    ]
    shape = [batch, CHANNELS, 12, 12]
    return model(nodes, weights, [value("x", shape)], [value("y", shape)], opset)


def samples(count=8, shape=(1, CHANNELS, 12, 12), name="x", seed=3):
    rng = np.random.default_rng(seed)
    return [{name: rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]


def run(proto, feeds, optimized=True):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def sqnr(wanted, got):
    wanted, got = np.float64(wanted), np.float64(got)
    return 10 * np.log10(np.square(wanted).sum() / max(np.square(wanted - got).sum(), 1e-30))


def quantize(proto, data, target="ort-cpu", **config):
    """The quantized proto and what was done. Every node is forced to integers unless the test says otherwise."""
    loaded = load(proto)
    config.setdefault("force", lambda node: True)
    config.setdefault("fidelity", 0.0)
    feeds = open_data(data, read_interface(proto.SerializeToString()))
    done = quantize_model(loaded, feeds, get_target(target), QuantConfig(**config))
    result = loaded.to_proto()
    onnx.checker.check_model(result, full_check=True)
    return result, done


def constants(proto):
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def nodes_of(proto, op):
    return [n for n in proto.graph.node if n.op_type == op]


def producer(proto, name):
    return next(n for n in proto.graph.node if name in n.output)


# -- what is inserted --------------------------------------------------------------------------------------------------


def test_ort_cpu_style():
    result, done = quantize(two_convs(bias=np.ones(CHANNELS, np.float32)), samples())
    known = constants(result)
    for node in nodes_of(result, "QuantizeLinear"):
        assert known[node.input[1]].shape == ()
        assert known[node.input[2]].dtype == np.uint8
    first = nodes_of(result, "Conv")[0]
    weight, bias = producer(result, first.input[1]), producer(result, first.input[2])
    assert known[weight.input[0]].dtype == np.int8
    assert known[weight.input[1]].shape == (CHANNELS,)
    assert not known[weight.input[2]].any()
    assert known[bias.input[0]].dtype == np.int32
    x_scale = known[producer(result, first.input[0]).input[1]]
    assert known[bias.input[1]] == pytest.approx(x_scale * known[weight.input[1]])
    assert not done.report.missed
    assert done.report.operators["QLinearConv"] == 2


def test_a_relu_stays_and_its_zero_point_is_0():
    result, _ = quantize(two_convs(), samples())
    relu = nodes_of(result, "Relu")[0]
    quantizer = next(n for n in nodes_of(result, "QuantizeLinear") if n.input[0] == relu.output[0])
    assert constants(result)[quantizer.input[2]] == 0


def test_tensorrt_style():
    result, _ = quantize(two_convs(bias=np.ones(CHANNELS, np.float32)), samples(), target="tensorrt")
    known = constants(result)
    for node in nodes_of(result, "QuantizeLinear"):
        assert known[node.input[1]].shape == ()
        assert known[node.input[2]].dtype == np.int8
        assert known[node.input[2]] == 0
    assert len(nodes_of(result, "QuantizeLinear")) == 2
    assert known[nodes_of(result, "Conv")[0].input[2]].dtype == np.float32
    assert producer(result, "y").op_type == "Conv"


def test_tensorrt_quantizes_the_skip_of_a_residual_and_not_the_other_branch():
    weights = {"w1": conv_weight(seed=1), "w2": conv_weight(seed=2), "w3": conv_weight(seed=4)}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["s"], "stem", pads=[1] * 4),
        helper.make_node("Conv", ["s", "w2"], ["c"], "branch", pads=[1] * 4),
        helper.make_node("Add", ["c", "s"], ["a"], "add"),
        helper.make_node("Conv", ["a", "w3"], ["y"], "last", pads=[1] * 4),
    ]
    shape = [1, CHANNELS, 12, 12]
    proto = model(nodes, weights, [value("x", shape)], [value("y", shape)])
    result, _ = quantize(proto, samples(), target="tensorrt")
    add = nodes_of(result, "Add")[0]
    assert add.input[0] == "c"
    assert producer(result, add.input[1]).op_type == "DequantizeLinear"


def test_openvino_keeps_biases_in_float():
    result, _ = quantize(two_convs(bias=np.ones(CHANNELS, np.float32)), samples(), target="openvino")
    assert constants(result)[nodes_of(result, "Conv")[0].input[2]].dtype == np.float32


def test_ort_cuda_is_refused_with_the_reason():
    with pytest.raises(UnsupportedError, match="has no int8"):
        quantize(two_convs(), samples(), target="ort-cuda")


@pytest.mark.parametrize("target", ["ort-cpu", "tensorrt"])
def test_reduced_range(target):
    """Asked for, it is kept on targets that would not reduce by themselves too."""
    result, _ = quantize(two_convs(), samples(), target, reduced=True)
    weights = [v for v in constants(result).values() if v.dtype == np.int8 and v.ndim == 4]
    assert max(int(np.abs(w.astype(int)).max()) for w in weights) <= 63


def test_four_bit_weights():
    result, _ = quantize(two_convs(), samples(), types="u8s4")
    weights = [v for v in constants(result).values() if v.dtype == np.int8 and v.ndim == 4]
    assert max(int(np.abs(w.astype(int)).max()) for w in weights) <= 7


def test_the_profile_keeps_a_lone_depthwise_layer_in_float():
    weights = {"w": conv_weight(CHANNELS, 1)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "dw", group=CHANNELS, pads=[1] * 4)]
    shape = [1, CHANNELS, 12, 12]
    proto = model(nodes, weights, [value("x", shape)], [value("y", shape)])
    _, done = quantize(proto, samples(), force=lambda node: False)
    assert done is None


def test_what_is_excluded_stays_in_float():
    _, done = quantize(two_convs(), samples(), keep_float=lambda node: node.name == "a")
    assert [u.node.name for u in done.plan.integer if u.rule.kind == "compute"] == ["b"]
    assert "excluded" in {u.node.name: why for u, why in done.plan.floating}["a"]


def test_shared_grid_through_movers():
    weights = {"w1": conv_weight(seed=1), "w2": conv_weight(seed=2)}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"], "a", pads=[1] * 4),
        helper.make_node("MaxPool", ["c"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "w2"], ["y"], "b", pads=[1] * 4),
    ]
    proto = model(nodes, weights, [value("x", [1, CHANNELS, 12, 12])], [value("y", [1, CHANNELS, 6, 6])])
    _, done = quantize(proto, samples())
    assert done.grids.params["c"] == done.grids.params["p"]


def test_the_same_input_gives_the_same_bytes():
    first, second = (quantize(two_convs(), samples())[0] for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


# -- what it computes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["ort-cpu", "tensorrt", "openvino"])
def test_the_result_means_the_same_to_the_onnx_reference(target):
    result, _ = quantize(two_convs(opset=21), samples(), target=target)
    feeds = samples(1, seed=9)[0]
    reference = ReferenceEvaluator(result).run(None, feeds)[0]
    plain = run(result, feeds, optimized=False)[0]
    step = np.abs(reference).max() / 100
    assert np.abs(reference - plain).max() < step
    assert np.abs(reference - plain).mean() < step / 50


@pytest.mark.parametrize("best", [False, True])
def test_it_is_near_the_float_model(best):
    proto = two_convs(bias=np.linspace(-1, 1, CHANNELS, dtype=np.float32))
    result, _ = quantize(proto, samples(), best=best)
    feeds = samples(1, seed=9)[0]
    assert sqnr(run(proto, feeds)[0], run(result, feeds)[0]) > 30


def test_best_beats_fast_with_four_bits():
    proto = two_convs(bias=np.linspace(-1, 1, CHANNELS, dtype=np.float32))
    feeds = samples(1, seed=9)[0]
    wanted = run(proto, feeds)[0]
    fast, best = (run(quantize(proto, samples(32), types="u8s4", best=b)[0], feeds)[0] for b in (False, True))
    assert sqnr(wanted, best) > sqnr(wanted, fast)


def test_ranges_from_parts_are_those_of_all_the_data():
    """The few samples of the trials are not run again for the final ranges."""
    data = samples(100)
    _, done = quantize(two_convs(), data, method="minmax")
    values = np.concatenate([run(two_convs(), item)[0] for item in data])
    found = done.grids.ranges["y"]
    assert (found.low, found.high) == (pytest.approx(values.min()), pytest.approx(values.max()))


def test_the_last_layer_takes_the_mean_error_out_though_it_stays_in_float():
    proto = two_convs(bias=np.zeros(CHANNELS, np.float32))
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(CHANNELS, np.float32), "b2"))
    proto.graph.node[2].input.append("b2")
    shift = {}
    for name, fidelity in (("without", 0.0), ("with", 45.0)):
        result, done = quantize(
            proto, samples(32), "openvino", fidelity=fidelity, method="percentile", equalize=False,
            keep_float=lambda node: node.name == "b", force=lambda node: node.name == "a",
        )  # fmt: skip
        errors = [run(result, item, False)[0] - run(proto, item)[0] for item in samples(32, seed=9)]
        shift[name] = float(np.square(np.mean(errors, axis=(0, 1, 3, 4))).sum())
        assert [u.node.name for u in done.plan.integer if u.rule.kind == "compute"] == ["a"]
    assert any("biases of 1 layer" in n for n in done.notes)
    assert shift["with"] < 0.7 * shift["without"]


def test_interface_and_names_are_kept():
    proto = two_convs()
    result, _ = quantize(proto, samples())
    assert [i.name for i in result.graph.input] == ["x"]
    assert result.graph.output[0] == proto.graph.output[0]
    assert {n.name for n in proto.graph.node if n.name} <= {n.name for n in result.graph.node}


# -- awkward but legal -------------------------------------------------------------------------------------------------


def near(proto, data, least=28.0, **config):
    """Quantize, and check that the result is near the float model on the first sample."""
    result, done = quantize(proto, data, **config)
    assert done is not None
    feeds = data[0]
    assert sqnr(run(proto, feeds)[0], run(result, feeds)[0]) > least
    return result, done


@pytest.mark.parametrize("opset", [11, 12])
def test_old_opsets_are_raised(opset):
    result, done = near(two_convs(opset), samples())
    assert done.raised_from == opset
    assert result.opset_import[0].version == 13


def test_operators_that_changed_at_opset_13():
    weights = {"w": conv_weight()}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "a", pads=[1] * 4),
        helper.make_node("ReduceMean", ["c"], ["m"], axes=[2, 3], keepdims=1),
        helper.make_node("Squeeze", ["m"], ["s"], axes=[2, 3]),
        helper.make_node("Unsqueeze", ["s"], ["u"], axes=[2]),
        helper.make_node("Softmax", ["u"], ["f"], axis=1),
        helper.make_node("Split", ["f"], ["p", "q"], axis=1, split=[4, 12]),
        helper.make_node("ReduceSum", ["q"], ["y"], axes=[1], keepdims=0),
    ]
    proto = model(nodes, weights, [value("x", [1, CHANNELS, 12, 12])], [value("y", [1, 1])], opset=11)
    result, _ = quantize(proto, samples())
    feeds = samples(1)[0]
    assert run(result, feeds)[0] == pytest.approx(run(proto, feeds)[0], abs=0.02)


def test_an_if_branch_that_reads_an_outer_tensor():
    then = helper.make_graph([helper.make_node("Neg", ["r"], ["n"])], "then", [], [value("n", SHAPE)])
    other = helper.make_graph([helper.make_node("Abs", ["r"], ["p"])], "else", [], [value("p", SHAPE)])
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "a", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["d"], "b", pads=[1] * 4),
        helper.make_node("ReduceSum", ["x"], ["t"], keepdims=0),
        helper.make_node("Greater", ["t", "zero"], ["f"]),
        helper.make_node("If", ["f"], ["i"], then_branch=then, else_branch=other),
        helper.make_node("Add", ["d", "i"], ["y"], "add"),
    ]
    weights = {"w": conv_weight(seed=1), "w2": conv_weight(seed=2), "zero": np.float32(0)}
    proto = model(nodes, weights, [value("x", [1, CHANNELS, 12, 12])], [value("y", SHAPE)])
    near(proto, samples())


def test_a_loop_body_stays_as_it_is():
    body = helper.make_graph(
        [helper.make_node("Conv", ["s", "w"], ["o"], pads=[1] * 4), helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("s", SHAPE)],
        [value("on", [], TensorProto.BOOL), value("o", SHAPE)],
    )
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "a", pads=[1] * 4),
        helper.make_node("Loop", ["n", "yes", "c"], ["l"], body=body),
        helper.make_node("Conv", ["l", "w2"], ["y"], "b", pads=[1] * 4),
    ]
    weights = {"w": conv_weight(), "w2": conv_weight(seed=2), "n": np.int64(3), "yes": np.bool_(True)}
    proto = model(nodes, weights, [value("x", [1, CHANNELS, 12, 12])], [value("y", SHAPE)])
    result, done = near(proto, samples(), least=20.0)
    loop = nodes_of(result, "Loop")[0]
    assert [n.op_type for n in helper.get_node_attr_value(loop, "body").node] == ["Conv", "Identity"]
    assert done.report.operators["QLinearConv"] >= 1


def test_a_float16_model_is_refused():
    proto = two_convs()
    for tensor in list(proto.graph.initializer):
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for info in (*proto.graph.input, *proto.graph.output):
        info.type.tensor_type.elem_type = TensorProto.FLOAT16
    data = [{"x": s["x"].astype(np.float16)} for s in samples()]
    with pytest.raises(UnsupportedError, match="float16"):
        quantize(proto, data)


def test_a_quantized_model_is_left_as_it_is():
    result, _ = quantize(two_convs(), samples())
    again, done = quantize(result, samples())
    assert done is None
    assert len(again.graph.node) == len(result.graph.node)


def test_a_partly_quantized_model_is_completed():
    partly, _ = quantize(two_convs(), samples(), keep_float=lambda node: node.name == "a")
    result, done = near(partly, samples())
    assert [u.node.name for u in done.plan.integer if u.rule.kind == "compute"] == ["a"]
    assert len(nodes_of(result, "Conv")) == 2


def test_a_weight_that_is_also_an_output():
    proto = two_convs()
    proto.graph.output.append(value("w1", [CHANNELS, CHANNELS, 3, 3]))
    result, _ = near(proto, samples())
    assert np.array_equal(run(result, samples(1)[0])[1], conv_weight(seed=1))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_calibration_data_must_be_finite(bad):
    data = samples()
    data[1]["x"][0, 0, 0, 0] = bad
    with pytest.raises(DataError, match="x"):
        quantize(two_convs(), data)


def test_empty_calibration_data():
    with pytest.raises(DataError):
        quantize(two_convs(), [])


def test_a_dead_relu():
    proto = two_convs(bias=np.full(CHANNELS, -100, np.float32))
    result, _ = quantize(proto, samples())
    assert not run(result, samples(1)[0])[0].any()


def test_all_zero_weights():
    proto = two_convs(bias=np.linspace(-1, 1, CHANNELS, dtype=np.float32))
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros_like(conv_weight()), "w1"))
    near(proto, samples())


def test_a_channel_with_tiny_weights_and_a_bias():
    proto = two_convs(bias=np.full(CHANNELS, 2.0, np.float32))
    weight = conv_weight(seed=1)
    weight[3] *= 1e-9
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w1"))
    near(proto, samples())


def test_unnamed_nodes():
    _, done = near(two_convs(names=("", "")), samples())
    assert not done.report.missed
    assert len([k for k in done.report.kernels if k.runs_as == "QLinearConv"]) == 2


def test_duplicate_node_names_are_told_apart():
    """ONNX Runtime itself refuses to load such a model."""
    result, done = quantize(two_convs(names=("same", "same")), samples())
    assert done.report.operators["QLinearConv"] == 2
    feeds = samples(1)[0]
    assert sqnr(run(two_convs(), feeds)[0], run(result, feeds)[0]) > 28


def test_names_that_clash_with_generated_ones():
    proto = two_convs(weight_names=("r_scale", "w1_quantized"))
    near(proto, samples())


def test_constant_nodes_hold_the_weights():
    proto = two_convs()
    held = [helper.make_node("Constant", [], [t.name], value=t) for t in proto.graph.initializer]
    rest = list(proto.graph.node)
    del proto.graph.node[:], proto.graph.initializer[:]
    proto.graph.node.extend([*held, *rest])
    result, _ = near(proto, samples())
    assert not nodes_of(result, "Constant")
    assert len(result.SerializeToString()) < 0.5 * len(proto.SerializeToString())


def test_an_initializer_that_is_also_an_input():
    proto = two_convs()
    proto.graph.input.append(value("w2", [CHANNELS, CHANNELS, 3, 3]))
    result, done = quantize(proto, samples())
    assert [i.name for i in result.graph.input] == ["x", "w2"]
    assert {u.node.name: why for u, why in done.plan.floating}["b"] == "its weight is computed"


def test_opset_9():
    proto = two_convs(opset=9)
    result, done = near(proto, samples())
    assert done.raised_from == 9
    assert result.opset_import[0].version == 13


def test_shared_weights_are_stored_once():
    proto = two_convs()
    proto.graph.node[2].input[1] = "w1"
    del proto.graph.initializer[1]
    result, _ = near(proto, samples())
    assert sum(v.ndim == 4 for v in constants(result).values()) == 1


def test_dynamic_batch():
    proto = two_convs(batch="N")
    result, _ = near(proto, samples())
    feeds = {"x": np.concatenate([s["x"] for s in samples(3)])}
    assert run(result, feeds)[0].shape == (3, CHANNELS, 12, 12)


def attention(mask_value):
    """A masked attention of one head, 32 wide."""
    rng = np.random.default_rng(1)
    weights = {n: (rng.standard_normal((32, 32)) * 0.2).astype(np.float32) for n in ("wq", "wk", "wv", "wo")}
    weights |= {"one": np.float32(1), "least": np.float32(mask_value)}
    nodes = [
        helper.make_node("Sub", ["one", "mask"], ["n"]),
        helper.make_node("Mul", ["n", "least"], ["m"], "mask_mul"),
        *(helper.make_node("MatMul", ["x", f"w{c}"], [c], c) for c in "qkv"),
        helper.make_node("Transpose", ["k"], ["kt"], "transpose", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["s"], "scores"),
        helper.make_node("Add", ["s", "m"], ["a"], "mask_add"),
        helper.make_node("Softmax", ["a"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["h"], "heads"),
        helper.make_node("MatMul", ["h", "wo"], ["y"], "out"),
    ]
    inputs = [value("x", [1, 10, 32]), value("mask", [1, 1, 10])]
    return model(nodes, weights, inputs, [value("y", [1, 10, 32])])


@pytest.mark.parametrize("mask_value", [-3.4028234663852886e38, -10000.0, -65504.0])
def test_attention_masks_are_never_quantized(mask_value):
    rng = np.random.default_rng(2)
    mask = np.ones((1, 1, 10), np.float32)
    mask[..., 7:] = 0
    data = [{"x": rng.standard_normal((1, 10, 32)).astype(np.float32), "mask": mask} for _ in range(8)]
    result, done = near(attention(mask_value), data)
    assert "mask_add" in {u.node.name for u, why in done.plan.floating if "mask" in why}
    scales = [constants(result)[n.input[1]] for n in nodes_of(result, "QuantizeLinear")]
    assert max(float(s) for s in scales) < 10


def test_an_infinite_mask():
    rng = np.random.default_rng(2)
    proto = attention(-1.0)
    nodes = [n for n in proto.graph.node if n.output[0] not in ("n", "m")]
    nodes.insert(0, helper.make_node("Where", ["keep", "zero", "least"], ["m"]))
    known = constants(proto) | {"least": np.float32(-np.inf), "zero": np.float32(0)}
    inputs = [value("x", [1, 10, 32]), value("keep", [1, 1, 10], TensorProto.BOOL)]
    proto = model(nodes, known, inputs, [value("y", [1, 10, 32])])
    keep = np.arange(10).reshape(1, 1, 10) < 7
    data = [{"x": rng.standard_normal((1, 10, 32)).astype(np.float32), "keep": keep} for _ in range(8)]
    _, done = near(proto, data)
    assert any(u.node.name == "mask_add" for u, _ in done.plan.floating)


def test_an_lstm_is_left_in_float_and_the_rest_is_quantized():
    rng = np.random.default_rng(0)
    weights = {
        "wi": (rng.standard_normal((32, 32)) * 0.2).astype(np.float32),
        "W": (rng.standard_normal((1, 64, 32)) * 0.2).astype(np.float32),
        "R": (rng.standard_normal((1, 64, 16)) * 0.2).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "wi"], ["i"], "project"),
        helper.make_node("LSTM", ["i", "W", "R"], ["y"], "lstm", hidden_size=16),
    ]
    proto = model(nodes, weights, [value("x", [6, 1, 32])], [value("y", [6, 1, 1, 16])])
    result, _ = near(proto, samples(shape=(6, 1, 32)))
    assert len(nodes_of(result, "LSTM")) == 1


def test_every_kernel_that_is_called_integer_is_one():
    _, done = quantize(two_convs(), samples())
    assert {k.runs_as for k in done.report.kernels if k.integer} <= INTEGER_KERNELS


def test_an_old_model_that_gains_nothing_stays_as_it_is():
    proto = model([helper.make_node("Relu", ["x"], ["y"])], {}, [value("x", [2])], [value("y", [2])], opset=11)
    result, done = quantize(proto, samples(shape=(2,)))
    assert done is None
    assert result.opset_import[0].version == 11
