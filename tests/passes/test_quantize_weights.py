"""The ``quantize_weights`` pass: both forms, every type, what is rounded how, and what stays."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt import load
from graphopt.data.interface import read_interface
from graphopt.data.open import open_data
from graphopt.errors import UsageError
from graphopt.pipeline.context import Settings
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.pipeline import Pipeline
from graphopt.pipeline.registry import Registry
from graphopt.transforms.quantize.weight_blocks import BlockGrid, pack, quantize_blocks

MODELS = Path(__file__).resolve().parents[2] / "models"


def rng(seed=0):
    return np.random.default_rng(seed)


def matrix(inputs=256, outputs=96, seed=0):
    return (rng(seed).standard_normal((inputs, outputs)) / inputs**0.5).astype(np.float32)


def build(nodes, weights, inputs=256, rows=4, opset=17):
    constants = [numpy_helper.from_array(v, k) for k, v in weights.items()]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, None]) for n in ("y",)]
    begin = helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, inputs])
    graph = helper.make_graph(nodes, "g", [begin], ends, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def product(inputs=256, outputs=96, opset=17):
    return build([helper.make_node("MatMul", ["x", "w"], ["y"], "a")], {"w": matrix(inputs, outputs)}, inputs, 4, opset)


def gemm(**attrs):
    weight = matrix()
    weights = {"w": weight.T.copy() if attrs.get("transB") else weight, "b": np.linspace(-1, 1, 96, dtype=np.float32)}
    return build([helper.make_node("Gemm", ["x", "w", "b"], ["y"], "a", **attrs)], weights)


def quantized(proto, text="quantize_weights", data=None, **settings):
    registry = Registry()
    if data is not None:
        data = open_data(data, read_interface(proto.SerializeToString()))
    done = PassManager(registry, Settings(data=data, **settings)).run(load(proto), Pipeline.parse(text, registry))
    return done.model.to_proto(), done.passes[0]


def said(result):
    return {r.node: r.message for r in result.remarks if r.kind in ("did", "skipped")}


def x(rows=4, inputs=256, seed=9):
    return {"x": rng(seed).standard_normal((rows, inputs)).astype(np.float32)}


def run(proto, feeds):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feeds)


def sqnr(wanted, got):
    wanted, got = np.float64(wanted), np.float64(got)
    return 10 * np.log10(np.square(wanted).sum() / max(np.square(wanted - got).sum(), 1e-30))


LEAST = {"int4": 19, "uint4": 20, "int8": 38}


@pytest.mark.parametrize("kind", ["int4", "uint4", "int8"])
@pytest.mark.parametrize("inputs", [256, 250, 90])
def test_matmulnbits(kind, inputs):
    proto = product(inputs)
    result, done = quantized(proto, f"quantize_weights:type={kind}")
    (node,) = result.graph.node
    assert (node.op_type, node.domain, node.name) == ("MatMulNBits", "com.microsoft", "a")
    assert result.opset_import[0].version == 17
    assert f"weight in {kind}" in said(done)["a"]
    assert sqnr(run(proto, x(inputs=inputs))[0], run(result, x(inputs=inputs))[0]) > LEAST[kind]
    assert len(result.SerializeToString()) < (0.45 if kind == "int8" else 0.3) * len(proto.SerializeToString())


@pytest.mark.parametrize("kind", ["int4", "uint4", "int8"])
@pytest.mark.parametrize("attrs", [{}, {"transB": 1}])
def test_blocked_dequantize_means_the_same_to_the_reference(kind, attrs):
    proto = gemm(**attrs)
    result, done = quantized(proto, f"quantize_weights:form=dequantize:type={kind}")
    assert result.opset_import[0].version == 21
    assert any("opset raised from 17 to 21" in r.message for r in done.remarks)
    onnx.checker.check_model(result, full_check=True)
    (dequantize,) = [n for n in result.graph.node if n.op_type == "DequantizeLinear"]
    assert helper.get_node_attr_value(dequantize, "block_size") == 32
    stored = next(t for t in result.graph.initializer if t.name == dequantize.input[0])
    assert stored.data_type == getattr(TensorProto, kind.upper())
    if kind != "int8":
        assert len(stored.raw_data) * 2 == 256 * 96
    wanted = run(proto, x())[0]
    assert sqnr(wanted, run(result, x())[0]) > LEAST[kind] - 1
    reference = ReferenceEvaluator(result).run(None, x())[0]
    assert sqnr(reference, run(result, x())[0]) > 40


def test_a_block_that_does_not_divide_the_inputs():
    proto = product(250)
    result, _ = quantized(proto, "quantize_weights:form=dequantize")
    assert sqnr(run(proto, x(inputs=250))[0], run(result, x(inputs=250))[0]) > 18


def test_the_opset_stays_where_it_is_new_enough():
    result, done = quantized(product(opset=21), "quantize_weights:form=dequantize")
    assert result.opset_import[0].version == 21
    assert not any("raised" in r.message for r in done.remarks)


def test_the_opset_stays_where_nothing_is_quantized():
    result, done = quantized(product(), "quantize_weights:form=dequantize:exclude=a")
    assert result.opset_import[0].version == 17
    assert not done.changed


def test_targets_choose_the_form():
    for target, op in (("ort-cpu", "MatMulNBits"), ("tensorrt", "DequantizeLinear"), ("openvino", "DequantizeLinear")):
        result, _ = quantized(product(), target=target)
        assert op in {n.op_type for n in result.graph.node}
    scales = [numpy_helper.to_array(t) for t in quantized(product(), target="tensorrt")[0].graph.initializer]
    assert all((s > 0).all() for s in scales if s.dtype == np.float32)


@pytest.mark.parametrize("attrs", [{}, {"transB": 1}, {"alpha": 0.5, "beta": 2.0}])
def test_gemm(attrs):
    proto = gemm(**attrs)
    result, _ = quantized(proto, "quantize_weights:type=int8")
    assert "MatMulNBits" in {n.op_type for n in result.graph.node}
    assert sqnr(run(proto, x())[0], run(result, x())[0]) > 38


def test_activations_in_float():
    """Then the only noise is that of the weights, and the outputs are those of the dequantized matrix."""
    result, _ = quantized(product(), "quantize_weights:activations=float")
    exact = quantize_blocks(matrix().T, BlockGrid(4, 32, True, mirrored=True)).real
    assert sqnr(x()["x"] @ exact.T, run(result, x())[0]) > 100


def correlated(count=32):
    """Inputs of few dimensions and unequal size, where rounding errors can make up for each other."""
    basis = rng(1).standard_normal((24, 256)) * np.geomspace(8, 0.1, 256)
    return [{"x": (rng(i).standard_normal((4, 24)) @ basis).astype(np.float32)} for i in range(count)]


def test_learned_rounding_beats_the_nearest_on_held_back_data():
    proto, feeds = product(), correlated()
    nearest, _ = quantized(proto, "quantize_weights:rounding=nearest:activations=float", feeds[:24])
    learned, done = quantized(proto, "quantize_weights:activations=float", feeds[:24])
    assert "learned rounding" in said(done)["a"]
    scores = [
        np.mean([sqnr(run(proto, f)[0], run(m, f)[0]) for f in feeds[24:]]) for m in (nearest, learned)
    ]  # fmt: skip
    assert scores[1] > scores[0] + 3
    assert done.statistics["output SQNR dB"] > 20


def test_the_noise_is_measured_on_samples_that_rounding_was_not_learned_from():
    """Learned from as many rows as give it room to fit, the noise on those rows says nothing of others."""
    proto, feeds = product(), [x(seed=100 + i) for i in range(30)]
    result, done = quantized(proto, "quantize_weights:activations=float", feeds)
    fresh = [x(seed=1000 + i) for i in range(16)]
    real = sqnr(
        np.concatenate([run(proto, f)[0] for f in fresh]), np.concatenate([run(result, f)[0] for f in fresh])
    )  # fmt: skip
    assert abs(done.statistics["output SQNR dB"] - real) < 1
    assert any("on held-back samples" in r.message for r in done.remarks)


def test_a_single_sample_is_said_to_be_all_there_is():
    _, done = quantized(product(), data=[x()])
    assert any("on the only sample, which rounding was learned from" in r.message for r in done.remarks)


def shared_by_two(many):
    """x @ w of one row a sample, then z @ w of ``many``."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["few"], "a"), helper.make_node("MatMul", ["z", "w"], ["y"], "b")]
    proto = build(nodes, {"w": matrix()}, rows=1)
    proto.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [many, 256]))
    proto.graph.output.append(helper.make_tensor_value_info("few", TensorProto.FLOAT, [None, None]))
    return proto


def noises(proto, result, feeds):
    """Noise share of each output over all feeds, by name."""
    found = {}
    for index, output in enumerate(proto.graph.output):
        wanted, got = (np.concatenate([run(m, f)[index] for f in feeds]) for m in (proto, result))
        found[output.name] = np.square(wanted - got).sum() / np.square(wanted).sum()
    return found


def two_directions(many, count=48):
    """x and z of few dimensions each, other ones."""

    def rows(name, seed, sample):
        basis = rng(seed).standard_normal((24, 256))
        return (rng([sample, seed]).standard_normal((1 if name == "x" else many, 24)) @ basis).astype(np.float32)

    return [{name: rows(name, seed, i) for seed, name in enumerate("xz")} for i in range(count)]


def test_a_shared_matrix_is_rounded_for_all_its_readers():
    proto, feeds = shared_by_two(1), two_directions(1)
    nearest, _ = quantized(proto, "quantize_weights:rounding=nearest:activations=float", feeds[:40])
    learned, _ = quantized(proto, "quantize_weights:activations=float", feeds[:40])
    before, after = noises(proto, nearest, feeds[40:]), noises(proto, learned, feeds[40:])
    assert all(after[name] < before[name] / 2 for name in before)


def test_readers_of_a_shared_matrix_count_by_their_rows():
    even, uneven = (shared_by_two(many) for many in (1, 256))
    found = [
        noises(p, quantized(p, "quantize_weights:activations=float", feeds[:40])[0], feeds[40:])
        for p, feeds in ((even, two_directions(1)), (uneven, two_directions(256)))
    ]
    assert found[1]["y"] < found[0]["y"] < found[0]["few"] * 1.5
    assert found[1]["y"] < found[1]["few"] / 4


def test_learned_rounding_needs_data():
    with pytest.raises(UsageError, match="needs calibration data"):
        quantized(product(), "quantize_weights:rounding=learned")


def test_what_stays():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "kept"),
        helper.make_node("MatMul", ["m", "s"], ["n"], "small"),
        helper.make_node("Gemm", ["n", "n2"], ["k"], "turned", transA=1),
        helper.make_node("MatMul", ["k", "w3"], ["y"], "last"),
    ]
    weights = {"w": matrix(), "s": matrix(96, 8), "n2": matrix(4, 2000), "w3": matrix(2000, 16)}
    _, done = quantized(build(nodes, weights), "quantize_weights:exclude=kept")
    found = said(done)
    assert found["kept"].endswith("excluded by the options")
    assert "smaller than least=" in found["small"]
    assert "transposed" in found["turned"]
    assert found["last"].startswith("weight in int4")
    assert said(quantized(build(nodes, weights), "quantize_weights:include=small")[1])["small"].startswith("weight in")


def test_a_shared_matrix_is_stored_once():
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"], "a"), helper.make_node("MatMul", ["m", "w"], ["y"], "b")]
    for form in ("matmulnbits", "dequantize"):
        result, _ = quantized(build(nodes, {"w": matrix(256, 256)}), f"quantize_weights:form={form}")
        assert sum(len(t.raw_data) > 10000 for t in result.graph.initializer) <= 2
        assert sqnr(run(build(nodes, {"w": matrix(256, 256)}), x())[0], run(result, x())[0]) > 15


def test_weights_of_zeros_and_of_one_extreme():
    weight = matrix()
    weight[:, 0] = 0
    weight[:32, 1] = 0
    weight[40, 2] = 100
    proto = build([helper.make_node("MatMul", ["x", "w"], ["y"], "a")], {"w": weight})
    result, _ = quantized(proto)
    got = run(result, x())[0]
    assert np.isfinite(got).all()
    assert np.abs(got[:, 0]).max() < 1e-4


@pytest.mark.parametrize("block", ["8", "48"])
def test_a_block_that_no_kernel_takes(block):
    with pytest.raises(UsageError, match="block"):
        quantized(product(), f"quantize_weights:block={block}")


def test_packing_puts_the_first_value_in_the_low_bits():
    assert pack(np.array([[1, 2, 3]], np.uint8), 4).tolist() == [[0x21, 0x03]]
    assert pack(np.array([[1, 2]], np.uint8), 8).tolist() == [[1, 2]]


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_searched_range_is_never_worse_than_the_extremes(symmetric):
    weight = (rng(3).standard_t(3, (64, 256))).astype(np.float32)
    grid = BlockGrid(4, 32, symmetric)
    found = quantize_blocks(weight, grid).real
    blocks = weight.reshape(64, 8, 32)
    low, high = np.minimum(blocks.min(2), 0), np.maximum(blocks.max(2), 0)
    scale = np.maximum(-low, high) / 7 if symmetric else (high - low) / 15
    zero = np.full(scale.shape, 8.0) if symmetric else np.rint(-low / scale)
    plain = np.clip(np.rint(blocks / scale[..., None]) + zero[..., None], 0, 15) - zero[..., None]
    assert np.square(found - weight).sum() < np.square((plain * scale[..., None]).reshape(64, 256) - weight).sum()


@pytest.mark.parametrize("form", ["matmulnbits", "dequantize"])
@pytest.mark.parametrize("kind", ["int4", "int8"])
def test_a_float16_model_keeps_float16_scales(form, kind):
    proto = gemm(alpha=0.5)
    half, _ = quantized(proto, "cast")
    result, done = quantized(half, f"quantize_weights:form={form}:type={kind}")
    assert said(done)["a"].startswith("weight in")
    assert TensorProto.FLOAT16 in {t.data_type for t in result.graph.initializer}
    assert TensorProto.FLOAT not in {t.data_type for t in result.graph.initializer}
    assert sqnr(run(proto, x())[0], run(result, x())[0]) > LEAST[kind] - 1


def test_a_type_that_the_target_does_not_take():
    with pytest.raises(UsageError, match="tensorrt does not take weights of type uint4; it takes int4, int8"):
        quantized(product(), "quantize_weights:type=uint4", target="tensorrt")


def test_the_own_transformer():
    images = np.load(MODELS / "data" / "fashion_mnist_calib.npz")["x"]
    proto = onnx.load(MODELS / "transformer.onnx")
    data = [{"x": images[i : i + 1]} for i in range(16)]
    result, _ = quantized(proto, "quantize_weights:type=uint4", data)
    assert sqnr(run(proto, {"x": images[64:96]})[0], run(result, {"x": images[64:96]})[0]) > 20


@pytest.mark.parametrize("kind", ["int4", "uint4", "int8"])
def test_blocks_of_zeros_add_no_noise(kind):
    proto = build([helper.make_node("MatMul", ["x", "w"], ["y"], "a")], {"w": np.zeros((256, 96), np.float32)})
    result, _ = quantized(proto, f"quantize_weights:type={kind}")
    assert [n.op_type for n in result.graph.node] == ["MatMulNBits"]
    assert np.abs(run(result, x())[0]).max() < 1e-30


def test_float16_scales_that_round_to_nothing():
    weight = (matrix() * 1e-4).astype(np.float16)
    grid = BlockGrid(8, 32, True, scales="float16")
    found = quantize_blocks(weight.T.astype(np.float32), grid)
    assert np.array_equal(found.scale, found.scale.astype(np.float16))
    assert np.linalg.norm(found.real - weight.T) < 0.05 * np.linalg.norm(weight.astype(np.float64))


@pytest.mark.parametrize("shape", [(256, 0), (0, 96)])
def test_an_empty_matrix_stays(shape):
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "a")
    proto = build([node], {"w": np.zeros(shape, np.float32)}, shape[0])
    for text in ("quantize_weights:least=0:include=*", "quantize_dynamic:include=*"):
        result, done = quantized(proto, text)
        assert [n.op_type for n in result.graph.node] == ["MatMul"]
        assert "is empty" in said(done)["a"]
