"""Evening out channel ranges: the same function in float, known factors, and where nothing may be touched."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt import load
from graphopt.data.interface import read_interface
from graphopt.data.open import open_data
from graphopt.targets import get_target
from graphopt.transforms.quantize.equalization import (
    equalize,
    equalized,
    find_links,
    find_smoothable,
    plan_equalization,
)
from graphopt.transforms.quantize.qdq import QuantConfig, quantize_model

SKEW = np.geomspace(0.01, 10, 8)
RNG = np.random.default_rng(0)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def model(nodes, weights, given, made, opset=17):
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (given, made)]
    initializers = [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in weights.items()]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def conv_pair(between, groups=1, extra=None):
    """x -> Conv (8 channels of very different ranges, bias) -> between -> Conv -> y."""
    first, second = floats(8, 3, 3, 3) * SKEW.reshape(-1, 1, 1, 1), floats(8, 8 // groups, 3, 3)
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], "one", pads=[1] * 4),
        *between,
        helper.make_node("Conv", ["z", "w2"], ["y"], "two", pads=[1] * 4, group=groups),
    ]
    weights = {"w1": first, "b1": floats(8) * SKEW, "w2": second, **(extra or {})}
    return model(nodes, weights, ("x", [1, 3, 10, 10]), ("y", [1, 8, None, None]))


RELU = [helper.make_node("Relu", ["a"], ["z"], "act")]


def matrix_pair(first, weights, between=None):
    nodes = [*first, *(between or []), helper.make_node("MatMul", ["z", "w2"], ["y"], "two")]
    return model(nodes, {**weights, "w2": floats(8, 6)}, ("x", [1, 5, 8]), ("y", [1, 5, 6]))


def samples(proto, count=12):
    shape = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]


def dataset(proto):
    return open_data(samples(proto), read_interface(proto.SerializeToString()))


def run(proto, feeds, outputs=None):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(
        outputs, feeds
    )


def evened(proto, smooth=False):
    loaded = load(proto)
    links = find_links(loaded.graph)
    chosen = [*links, *(find_smoothable(loaded.graph, links) if smooth else [])]
    return equalized(loaded, plan_equalization(loaded, dataset(proto), chosen)), links


def ranges(proto, name):
    """Largest magnitude of each channel (axis 1 of four axes, else the last)."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    copy.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    values = np.concatenate([np.abs(run(copy, f, [name])[0]) for f in samples(proto)])
    return values.max(axis=(0, 2, 3)) if values.ndim == 4 else values.reshape(-1, values.shape[-1]).max(axis=0)


LAYER_NORM = [helper.make_node("LayerNormalization", ["x", "s", "b"], ["z"], "ln")]
FOLDED = {
    "relu": conv_pair(RELU),
    "leaky": conv_pair([helper.make_node("LeakyRelu", ["a"], ["z"], "act", alpha=0.1)]),
    "prelu": conv_pair([helper.make_node("PRelu", ["a", "p"], ["z"], "act")], extra={"p": np.full((8, 1, 1), 0.2)}),
    "pool": conv_pair([*RELU[:0], helper.make_node("MaxPool", ["a"], ["z"], "pool", kernel_shape=[2, 2])]),
    "grouped": conv_pair(RELU, groups=2),
    "depthwise": conv_pair(RELU, groups=8),
    "layer norm": matrix_pair(LAYER_NORM, {"s": SKEW, "b": floats(8) * SKEW}),
    "mul and add": matrix_pair(
        [
            helper.make_node("Tanh", ["x"], ["t"], "tanh"),
            helper.make_node("Mul", ["t", "s"], ["m"], "mul"),
            helper.make_node("Add", ["b", "m"], ["z"], "add"),
        ],
        {"s": SKEW, "b": floats(8) * SKEW},
    ),
    "matrix with bias": matrix_pair(
        [
            helper.make_node("MatMul", ["x", "w1"], ["m"], "one"),
            helper.make_node("Add", ["m", "b"], ["r"], "add"),
            helper.make_node("Relu", ["r"], ["z"], "act"),
        ],
        {"w1": floats(8, 8) * SKEW, "b": floats(8) * SKEW},
    ),
    "one factor for all": conv_pair(
        [
            helper.make_node("HardSwish", ["a"], ["h"], "act"),
            helper.make_node("Mul", ["h", "f"], ["m"], "mul"),
            helper.make_node("Add", ["m", "o"], ["z"], "add"),
        ],
        extra={"f": 1.5, "o": [0.1]},
    ),
}


@pytest.mark.parametrize("name", FOLDED)
def test_the_function_stays_and_the_ranges_get_closer(name):
    proto = FOLDED[name]
    changed, links = evened(proto)
    assert len(links) == 1
    result = changed.to_proto()
    onnx.checker.check_model(result, full_check=True)
    assert len(result.graph.node) == len(proto.graph.node)
    for feeds in samples(proto, 3):
        wanted, got = run(proto, feeds)[0], run(result, feeds)[0]
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    before, after = ranges(proto, "z"), ranges(result, "z")
    assert after.max() / after.min() < 0.7 * before.max() / before.min()


def test_factors_of_a_pure_range_problem_even_out_the_ranges():
    """Weights of one size behind very different ranges: the factors follow the ranges."""
    proto = matrix_pair(LAYER_NORM, {"s": SKEW, "b": np.zeros(8)})
    weight = np.where(RNG.random((8, 6)) < 0.5, -1.0, 1.0)
    for tensor in proto.graph.initializer:
        if tensor.name == "w2":
            tensor.CopyFrom(numpy_helper.from_array(weight.astype(np.float32), "w2"))
    changed, links = evened(proto)
    after = ranges(changed.to_proto(), "z")
    assert after.max() / after.min() < 50 < SKEW.max() / SKEW.min()
    assert len(links) == 1


@pytest.mark.parametrize(
    "between",
    [
        [helper.make_node("Clip", ["a", "lo", "hi"], ["z"], "act")],
        [helper.make_node("Relu", ["a"], ["r"], "act"), helper.make_node("Add", ["r", "a"], ["z"], "sum")],
        [helper.make_node("Sigmoid", ["a"], ["z"], "act")],
    ],
    ids=["relu6", "residual", "sigmoid"],
)
def test_what_factors_cannot_pass_is_left_alone(between):
    proto = conv_pair(between, extra={"lo": 0.0, "hi": 6.0})
    assert find_links(load(proto).graph) == []


def behind_sigmoid(between, weights, low=0.0, high=6.0):
    """Like ``conv_pair`` with x in [0, 1] and weights so that some channels never reach a bound of 6."""
    proto = conv_pair(between, extra={"lo": low, "hi": high, **weights})
    proto.graph.node.insert(0, helper.make_node("Sigmoid", ["x"], ["p"], "bounded"))
    proto.graph.node[1].input[0] = "p"
    return proto


CLIP = [helper.make_node("Clip", ["a", "lo", "hi"], ["z"], "act")]


@pytest.mark.parametrize("limits", [(0.0, 6.0), (-6.0, 6.0)])
def test_behind_a_clip_only_channels_that_never_reach_it_are_rescaled(limits):
    proto = behind_sigmoid(CLIP, {}, *limits)
    (link,) = find_links(load(proto).graph)
    weight, bias = (numpy_helper.to_array(t).astype(np.float64) for t in proto.graph.initializer[:2])
    most = np.maximum(weight, 0).sum(axis=(1, 2, 3)) + bias
    least = np.minimum(weight, 0).sum(axis=(1, 2, 3)) + bias
    reach = np.maximum(most, -least if limits[0] < 0 else most)
    proven = reach <= 6
    assert 2 < proven.sum() < 8
    np.testing.assert_array_equal(np.isfinite(link.least), proven)
    np.testing.assert_allclose(link.least[proven], np.maximum(reach[proven], 0) / 6, rtol=1e-3, atol=1e-3)
    changed, _ = evened(proto)
    factors = weight[:, 0, 0, 0] / changed.graph.tensors()["a"].inputs[0].inputs[1].values[:, 0, 0, 0]
    np.testing.assert_allclose(factors[~proven], 1, rtol=1e-6)
    assert factors[proven].min() < 0.5
    for scale in (1, 1e4, -1e4):
        feeds = {"x": scale * np.abs(samples(proto, 1)[0]["x"])}
        wanted, got = run(proto, feeds)[0], run(changed.to_proto(), feeds)[0]
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("limits", [(0.5, 6.0), (0.0, 1e-6)])
def test_a_clip_that_all_channels_reach_is_left_alone(limits):
    assert find_links(load(behind_sigmoid(CLIP, {}, *limits)).graph) == []


def conv_then_matrix(between, inputs, ints=None, gemm=True, opset=17):
    """x -> Conv (channels of very different ranges) -> Relu -> between -> a matrix product."""
    last = helper.make_node("Gemm" if gemm else "MatMul", ["z", "w2"], ["y"], "two")
    first = helper.make_node("Conv", ["x", "w1", "b1"], ["a"], "one", pads=[1] * 4)
    nodes = [first, helper.make_node("Relu", ["a"], ["r"], "act"), *between, last]
    weights = {"w1": floats(8, 3, 3, 3) * SKEW.reshape(-1, 1, 1, 1), "b1": floats(8) * SKEW, "w2": floats(inputs, 6)}
    proto = model(nodes, weights, ("x", [1, 3, 6, 6]), ("y", [None] * (2 if gemm else 4)), opset)
    proto.graph.initializer.extend(numpy_helper.from_array(np.array(v, np.int64), k) for k, v in (ints or {}).items())
    return proto


def step(op, source, result, *more, **attrs):
    return helper.make_node(op, [source, *more], [result], op.lower(), **attrs)


MOVED = {
    "pooled and flattened": conv_then_matrix([step("GlobalAveragePool", "r", "g"), step("Flatten", "g", "z")], 8),
    "flattened": conv_then_matrix(
        [step("MaxPool", "r", "g", kernel_shape=[2, 2], strides=[2, 2]), step("Flatten", "g", "z")], 72
    ),
    "reshaped": conv_then_matrix([step("Reshape", "r", "z", "s")], 288, {"s": [0, -1]}),
    "squeezed": conv_then_matrix(
        [step("GlobalAveragePool", "r", "g"), step("Squeeze", "g", "z", "s")], 8, {"s": [2, 3]}
    ),
    "averaged": conv_then_matrix([step("ReduceMean", "r", "z", axes=[2, 3], keepdims=0)], 8),
    "channels last": conv_then_matrix([step("Transpose", "r", "z", perm=[0, 2, 3, 1])], 8, gemm=False),
    "channels last, then joined": conv_then_matrix(
        [step("Transpose", "r", "t", perm=[0, 2, 3, 1]), step("Reshape", "t", "z", "s")], 8, {"s": [-1, 8]}
    ),
}


@pytest.mark.parametrize("batch", [1, "N"])
@pytest.mark.parametrize("name", MOVED)
def test_factors_follow_channels_to_another_axis(name, batch):
    proto = onnx.ModelProto()
    proto.CopyFrom(MOVED[name])
    feeds = samples(proto, 3)
    if batch != 1:
        proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = batch
        feeds = [{"x": np.concatenate([f["x"] for f in feeds])}]
    loaded = load(proto)
    links = find_links(loaded.graph)
    assert [la.channels for la in links] == [8]
    data = open_data([{"x": f["x"][:1]} for f in feeds], read_interface(proto.SerializeToString()))
    (evening,) = plan_equalization(loaded, data, links)
    assert evening.gain > 1.2
    result = equalized(loaded, [evening]).to_proto()
    for item in feeds:
        wanted, got = run(proto, item)[0], run(result, item)[0]
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("between", "inputs", "ints", "gemm"),
    [
        ([step("Reshape", "r", "z", "s")], 72, {"s": [1, 4, -1]}, False),
        ([step("Transpose", "r", "t", perm=[0, 2, 3, 1]), step("Flatten", "t", "z")], 288, {}, True),
        ([step("ReduceMean", "r", "z", axes=[1], keepdims=0)], 6, {}, False),
    ],
    ids=["split", "joined in front", "averaged over"],
)
def test_channels_that_are_split_or_mixed_are_left_alone(between, inputs, ints, gemm):
    assert find_links(load(conv_then_matrix(between, inputs, ints, gemm)).graph) == []


def test_a_tensor_that_is_also_an_output_is_left_alone():
    proto = conv_pair(RELU)
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 8, 10, 10]))
    assert find_links(load(proto).graph) == []


def test_the_factor_of_a_gelu_stays_one_value():
    """Runtimes recognise a Gelu by it."""
    nodes = [
        helper.make_node("Div", ["x", "root"], ["d"], "d"),
        helper.make_node("Erf", ["d"], ["e"], "e"),
        helper.make_node("Add", ["e", "one"], ["p"], "p"),
        helper.make_node("Mul", ["x", "p"], ["q"], "q"),
        helper.make_node("Mul", ["q", "half"], ["z"], "h"),
    ]
    proto = matrix_pair(nodes, {"root": 1.414, "one": 1.0, "half": 0.5})
    assert find_links(load(proto).graph) == []


def test_a_shared_weight_is_copied():
    proto = conv_pair(RELU)
    proto.graph.node.append(helper.make_node("Conv", ["u", "w2"], ["v"], "three", pads=[1] * 4))
    proto.graph.input.append(helper.make_tensor_value_info("u", TensorProto.FLOAT, [1, 8, 10, 10]))
    proto.graph.output.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, [1, 8, 10, 10]))
    loaded = load(proto)
    (link,) = find_links(loaded.graph)
    equalize(loaded.graph, link, np.geomspace(1, 4, 8))
    feeds = {"x": floats(1, 3, 10, 10), "u": floats(1, 8, 10, 10)}
    for wanted, got in zip(run(proto, feeds), run(loaded.to_proto(), feeds), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-3)


def test_smoothing_puts_one_mul_before_all_readers():
    nodes = [helper.make_node("Softsign", ["x"], ["z"], "act"), helper.make_node("MatMul", ["z", "w3"], ["k"], "three")]
    weights = {"w3": floats(8, 6) * SKEW.reshape(-1, 1)}
    proto = model(
        [
            *nodes,
            helper.make_node("MatMul", ["z", "w2"], ["q"], "two"),
            helper.make_node("Add", ["q", "k"], ["y"], "s"),
        ],
        {**weights, "w2": floats(8, 6) * SKEW.reshape(-1, 1)},
        ("x", [1, 5, 8]),
        ("y", [1, 5, 6]),
    )
    changed, links = evened(proto, smooth=True)
    result = changed.to_proto()
    assert links == []
    assert [n.op_type for n in result.graph.node].count("Mul") == 1
    feeds = samples(proto, 1)[0]
    np.testing.assert_allclose(run(result, feeds)[0], run(proto, feeds)[0], atol=1e-4)


def quantized_noise(proto, **config):
    loaded = load(proto)
    config = QuantConfig(force=lambda node: True, fidelity=0.0, **config)
    done = quantize_model(loaded, dataset(proto), get_target("ort-cpu"), config)
    result = loaded.to_proto()
    pairs = [(run(proto, f)[0], run(result, f)[0]) for f in samples(proto)]
    return sum(np.square(a - b).sum() for a, b in pairs), done


@pytest.mark.parametrize("name", ["relu", "layer norm", "matrix with bias"])
def test_quantize_evens_out_ranges_where_that_helps(name):
    with_it, done = quantized_noise(FOLDED[name])
    without, _ = quantized_noise(FOLDED[name], equalize=False)
    assert with_it <= without * 1.02
    assert done is not None


def test_an_output_in_front_of_the_bias_keeps_its_values():
    nodes = [helper.make_node("MatMul", ["x", "w1"], ["a"]), helper.make_node("Add", ["a", "b1"], ["z"])]
    proto = matrix_pair(nodes, {"w1": floats(8, 8) * SKEW, "b1": floats(8)})
    assert len(find_links(load(proto).graph)) == 1
    proto.graph.output.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, 5, 8]))
    assert not find_links(load(proto).graph)
