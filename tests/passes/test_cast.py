"""The ``cast`` pass: what takes half precision, what stays and why, and the way back."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt import load
from graphopt.data.interface import read_interface
from graphopt.data.open import open_data
from graphopt.errors import UnsupportedError, ValidationError
from graphopt.pipeline.context import Settings
from graphopt.pipeline.job import Job, JobData, Measuring, Where
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.pipeline import Pipeline
from graphopt.pipeline.registry import Registry
from graphopt.pipeline.runner import run_job

MODELS = Path(__file__).resolve().parents[2] / "models"
FLOAT, HALF, BFLOAT = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16


def rng(seed=0):
    return np.random.default_rng(seed)


def build(nodes, weights, shape=(1, 8, 6, 6), opset=17, kind=FLOAT, outputs=("y",)):
    constants = [numpy_helper.from_array(v, k) for k, v in weights.items()]
    ends = [helper.make_tensor_value_info(n, kind, [None] * len(shape)) for n in outputs]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", kind, shape)], ends, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def conv(name, source, result, weight="w"):
    return helper.make_node("Conv", [source, weight], [result], name, pads=[1] * 4)


def weight(scale=0.1, seed=0):
    return (rng(seed).standard_normal((8, 8, 3, 3)) * scale).astype(np.float32)


def two_convs():
    nodes = [conv("a", "x", "c"), helper.make_node("Relu", ["c"], ["r"], "relu"), conv("b", "r", "y", "w2")]
    return build(nodes, {"w": weight(), "w2": weight(seed=1)})


def sample(scale=1.0):
    return {"x": (rng(9).standard_normal((1, 8, 6, 6)) * scale).astype(np.float32)}


def cast(proto, text="cast", data=None, **settings):
    registry = Registry()
    if data is not None:
        data = open_data(data, read_interface(proto.SerializeToString()))
    done = PassManager(registry, Settings(data=data, **settings)).run(load(proto), Pipeline.parse(text, registry))
    result = done.model.to_proto()
    onnx.checker.check_model(result, full_check=True)
    remarks = done.passes[0].remarks
    return result, {r.node: r.message for r in remarks if r.kind == "skipped"}, done


def run(proto, feeds):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feeds)


def types(proto):
    """Element type of every tensor, constants included, by name."""
    graph = onnx.shape_inference.infer_shapes(proto).graph
    found = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
    return found | {t.name: t.data_type for t in graph.initializer}


def casts(proto):
    return sum(n.op_type == "Cast" for n in proto.graph.node)


def sqnr(wanted, got):
    wanted, got = np.float64(wanted), np.float64(got)
    return 10 * np.log10(np.square(wanted).sum() / max(np.square(wanted - got).sum(), 1e-30))


@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
def test_everything_is_cast_and_the_interface_stays(narrow):
    proto = two_convs() if narrow == "float16" else build(
        [helper.make_node("MatMul", ["x", "m"], ["y"], "a")], {"m": weight()[0, 0]}, (4, 3)
    )  # fmt: skip
    result, skipped, done = cast(proto, f"cast:to={narrow}", [{"x": rng(9).standard_normal((1, 8, 6, 6)).astype("f")}]
                                 if narrow == "float16" else [{"x": rng(9).standard_normal((4, 3)).astype("f")}],
                                 target="tensorrt")
    assert not skipped
    kind = HALF if narrow == "float16" else BFLOAT
    found = types(result)
    assert found["x"] == found["y"] == FLOAT
    assert casts(result) == 2
    assert {t.data_type for t in result.graph.initializer} == {kind}
    assert done.passes[0].statistics["output SQNR dB"] > 40


def test_half_the_bytes_and_nearly_the_same_values():
    proto = two_convs()
    result, _, done = cast(proto, data=[sample()])
    assert sum(len(t.raw_data) for t in result.graph.initializer) * 2 == sum(
        len(t.raw_data) for t in proto.graph.initializer
    )
    assert sqnr(run(proto, sample())[0], run(result, sample())[0]) > 55
    assert done.passes[0].statistics["nodes in float16"] == 3


def test_the_interface_is_cast_when_asked():
    result, _, _ = cast(two_convs(), "cast:interface=true")
    found = types(result)
    assert found["x"] == found["y"] == HALF
    assert casts(result) == 0
    assert np.isfinite(run(result, {"x": sample()["x"].astype(np.float16)})[0]).all()


def test_a_weight_over_the_range_stays_and_is_named():
    big = weight()
    big[0, 0, 0, 0] = 1e6
    nodes = [conv("a", "x", "c"), conv("b", "c", "y", "w2")]
    result, skipped, _ = cast(build(nodes, {"w": big, "w2": weight(seed=1)}))
    assert "'w' holds 1e+06, over the largest float16" in skipped["a"]
    assert types(result)["w"] == FLOAT


def test_an_activation_over_the_range_stays_and_is_named():
    nodes = [helper.make_node("Mul", ["x", "k"], ["m"], "big"), helper.make_node("Div", ["m", "k"], ["d"], "small"),
             conv("b", "d", "y")]  # fmt: skip
    proto = build(nodes, {"k": np.float32(6e4), "w": weight()})
    result, skipped, _ = cast(proto, data=[sample(10)])
    assert "'m' reaches" in skipped["big"]
    assert "'m' reaches" in skipped["small"]
    assert sqnr(run(proto, sample(10))[0], run(result, sample(10))[0]) > 55


def test_bfloat16_holds_what_float16_does_not():
    nodes = [helper.make_node("Mul", ["x", "k"], ["y"], "big")]
    _, skipped, _ = cast(build(nodes, {"k": np.float32(1e30)}), "cast:to=bfloat16", data=[sample()], target="tensorrt")
    assert not skipped


def test_an_epsilon_that_would_vanish_stays():
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["s"], "square"),
        helper.make_node("Add", ["s", "eps"], ["e"], "plus"),
        helper.make_node("Sqrt", ["e"], ["q"], "root"),
        helper.make_node("Div", ["x", "q"], ["d"], "divide"),
        conv("a", "d", "y"),
    ]
    proto = build(nodes, {"eps": np.float32(1e-12), "w": weight()})
    feeds = {"x": np.zeros((1, 8, 6, 6), np.float32)}
    result, skipped, _ = cast(proto, data=[sample(), feeds])
    assert "'eps' is too small" in skipped["plus"]
    assert np.isfinite(run(result, feeds)[0]).all()


def test_a_mask_constant_stays_and_minus_infinity_is_no_obstacle():
    nodes = [helper.make_node("Add", ["x", "mask"], ["m"], "masked"), helper.make_node("Softmax", ["m"], ["y"], "soft")]
    for value, stays in ((-3.4e38, True), (-np.inf, False)):
        mask = np.zeros((1, 1, 1, 6), np.float32)
        mask[..., 4:] = value
        result, skipped, _ = cast(build(nodes, {"mask": mask}))
        assert ("masked" in skipped) == stays
        assert np.isfinite(run(result, sample())[0]).all()


def test_a_norm_that_squares_large_values_stays():
    nodes = [helper.make_node("LayerNormalization", ["x", "g"], ["n"], "norm"), conv("a", "n", "y")]
    proto = build(nodes, {"g": np.ones(6, np.float32), "w": weight()})
    _, skipped, _ = cast(proto, data=[sample(300)])
    assert "it squares 'x'" in skipped["norm"]


def test_what_the_user_and_the_target_keep():
    nodes = [helper.make_node("CumSum", ["x", "axis"], ["s"], "sums"), conv("a", "s", "c"), conv("b", "c", "y", "w2")]
    proto = build(nodes, {"axis": np.int64(2), "w": weight(), "w2": weight(seed=1)})
    _, skipped, _ = cast(proto, "cast:keep=a", target="tensorrt")
    assert "tensorrt loses too much in CumSum" in skipped["sums"] or "does not take" in skipped["sums"]
    assert skipped["a"].endswith("the options keep it")


def test_types_of_integers_and_scales_stay():
    nodes = [
        helper.make_node("Shape", ["x"], ["n"], "shape"),
        helper.make_node("Resize", ["x", "", "scales"], ["u"], "up", mode="nearest"),
        conv("a", "u", "y"),
    ]
    result, _, _ = cast(build(nodes, {"scales": np.array([1, 1, 2, 2], np.float32), "w": weight()}))
    assert types(result)["scales"] == FLOAT
    assert run(result, sample())[0].shape == (1, 8, 12, 12)


def test_a_branch_stays_in_float32_and_reads_what_it_did():
    info = helper.make_tensor_value_info
    then = helper.make_graph([helper.make_node("Neg", ["r"], ["n"])], "t", [], [info("n", FLOAT, [None] * 4)])
    other = helper.make_graph([helper.make_node("Abs", ["r"], ["p"])], "e", [], [info("p", FLOAT, [None] * 4)])
    nodes = [
        conv("a", "x", "c"),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("ReduceSum", ["x"], ["t"], "sum", keepdims=0),
        helper.make_node("Greater", ["t", "zero"], ["f"], "compare"),
        helper.make_node("If", ["f"], ["i"], "choose", then_branch=then, else_branch=other),
        conv("b", "i", "y", "w2"),
    ]
    proto = build(nodes, {"w": weight(), "w2": weight(seed=1), "zero": np.float32(0)})
    result, skipped, _ = cast(proto)
    assert "nested graphs stay in float32" in skipped["choose"]
    for sign in (1, -1):
        feeds = {"x": sign * np.abs(sample()["x"])}
        assert sqnr(run(proto, feeds)[0], run(result, feeds)[0]) > 50


def test_constant_nodes_and_shared_weights():
    proto = two_convs()
    proto.graph.node[2].input[1] = "w"
    value = proto.graph.initializer[0]
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=value))
    del proto.graph.initializer[:]
    result, _, _ = cast(proto)
    assert [t.data_type for t in result.graph.initializer] == [HALF]


def test_quantized_layers_keep_float32():
    proto = two_convs()
    data = [sample()] * 4
    quantized, _, _ = cast(proto, "quantize:include=*:fidelity=0", data)
    result, skipped, _ = cast(quantized, "cast", data, target="tensorrt")
    assert "part of the quantization" in next(v for k, v in skipped.items() if "QuantizeLinear" in k)
    assert sqnr(run(proto, sample())[0], run(result, sample())[0]) > 25


def half_model():
    proto = two_convs()
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for info in (*proto.graph.input, *proto.graph.output):
        info.type.tensor_type.elem_type = HALF
    return proto


def test_back_to_float32():
    proto = half_model()
    result, _, _ = cast(proto, "cast:to=float32")
    found = types(result)
    assert found["x"] == found["y"] == HALF
    assert {t.data_type for t in result.graph.initializer} == {FLOAT}
    feeds = {"x": sample()["x"].astype(np.float16)}
    assert sqnr(run(proto, feeds)[0], run(result, feeds)[0]) > 50


def test_a_float16_model_is_quantized_after_a_cast():
    proto = half_model()
    data = [{"x": sample()["x"].astype(np.float16)} for _ in range(4)]
    result, _, _ = cast(proto, "cast:to=float32,quantize:include=*:fidelity=0", data)
    assert "QuantizeLinear" in {n.op_type for n in result.graph.node}
    assert sqnr(run(proto, data[0])[0], run(result, data[0])[0]) > 25


def test_bfloat16_weights_come_back():
    proto = build([helper.make_node("MatMul", ["x", "m"], ["y"], "a")], {"m": weight()[0, 0]}, (4, 3))
    narrow, _, _ = cast(proto, "cast:to=bfloat16", target="tensorrt")
    result, _, _ = cast(narrow, "cast:to=float32")
    stored = numpy_helper.to_array(result.graph.initializer[0])
    assert np.array_equal(stored, weight()[0, 0].astype(ml_dtypes.bfloat16).astype(np.float32))


def test_without_data_activations_are_not_vouched_for():
    _, _, done = cast(two_convs())
    assert any(r.kind == "warning" and "only weights were checked" in r.message for r in done.passes[0].remarks)


@pytest.mark.parametrize("name", ["residual", "depthwise", "transformer", "recurrent"])
def test_own_models(name):
    images = np.load(MODELS / "data" / "fashion_mnist_calib.npz")["x"]
    proto = onnx.load(MODELS / f"{name}.onnx")
    result, _, done = cast(proto, data=[{"x": images[i : i + 1]} for i in range(8)])
    assert done.passes[0].statistics["nodes in float16"] > 5
    assert sqnr(run(proto, {"x": images[:8]})[0], run(result, {"x": images[:8]})[0]) > 50


def test_a_transpose_that_the_runtime_would_crash_on_stays():
    """ONNX Runtime 1.32 has a segmentation fault while it fuses it into the MatMul."""
    nodes = [
        helper.make_node("Mul", ["x", "k"], ["m"], "mul"),
        helper.make_node("Transpose", ["m"], ["t"], "swap", perm=[1, 0, 2]),
        helper.make_node("MatMul", ["t", "w"], ["y"], "product"),
    ]
    known = {"k": np.full(4, 2, np.float32), "w": rng().standard_normal((4, 5)).astype(np.float32)}
    proto = build(nodes, known, (2, 3, 4))
    result, skipped, _ = cast(proto)
    assert "crashes" in skipped["swap"]
    assert set(skipped) == {"swap"}
    feeds = {"x": np.ones((2, 3, 4), np.float32)}
    assert sqnr(run(proto, feeds)[0], run(result, feeds)[0]) > 50


def test_a_target_without_the_type():
    with pytest.raises(UnsupportedError, match="ort-cpu has no kernels for bfloat16; cast to float16"):
        cast(two_convs(), "cast:to=bfloat16")


@pytest.mark.parametrize(
    ("passes", "target"),
    [("cast", "ort-cpu"), ("cast:interface=true", "ort-cpu"), ("cast:to=bfloat16", "tensorrt"), ("cast", "tensorrt")],
)
def test_a_whole_run(passes, target, tmp_path):
    """Compared with the input model, also where inputs were cast, or the type has no kernels here."""
    images = np.load(MODELS / "data" / "fashion_mnist_calib.npz")["x"][:8]
    np.savez(tmp_path / "data.npz", x=images)
    data = JobData(str(tmp_path / "data.npz"), str(tmp_path / "data.npz"))
    settings = {"data": data, "where": Where(target=target), "measuring": Measuring(time=False)}
    result = run_job(Job(MODELS / "lenet.onnx", tmp_path / "o.onnx", passes, **settings))
    assert result.comparison.outputs[0].sqnr_db > (35 if "bfloat16" in passes else 50)
    onnx.checker.check_model(onnx.load(tmp_path / "o.onnx"), full_check=True)


def test_back_to_float32_inside_functions_and_at_outputs_that_are_weights():
    body = [helper.make_node("Cast", ["a"], ["c"], to=HALF), helper.make_node("Add", ["c", "c"], ["b"])]
    function = helper.make_function("own", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    nodes = [helper.make_node("Twice", ["x"], ["t"], domain="own"), helper.make_node("Mul", ["t", "w"], ["y"])]
    proto = build(nodes, {"w": np.float16([1, 2, 3])}, (3,), kind=HALF, outputs=("y", "w"))
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("own", 1))
    result, _, _ = cast(proto, "cast:to=float32")
    wanted, got = (run(one, {"x": np.float16([1, -1, 0.5])}) for one in (proto, result))
    assert all(a.dtype == b.dtype == np.float16 and np.array_equal(a, b) for a, b in zip(wanted, got, strict=True))
    assert FLOAT in {t.data_type for t in result.graph.initializer}


def cancelling():
    """Two convolutions, with 1000 added between them and taken off again: no value is out of range, digits are lost."""
    nodes = [
        conv("a", "x", "c"),
        helper.make_node("Add", ["c", "k"], ["far"], "out"),
        helper.make_node("Sub", ["far", "k"], ["near"], "back"),
        conv("b", "near", "y", "w2"),
    ]
    return build(nodes, {"w": weight(), "w2": weight(seed=1), "k": np.full((1, 8, 1, 1), 1000, np.float32)})


@pytest.mark.parametrize("data", [[sample()] * 2, None])
def test_nodes_that_lose_the_digits_go_back_to_float32(data):
    result, said, done = cast(cancelling(), data=data)
    assert "outputs keep only" in said["out"]
    assert {"a", "b"} & set(said) == set()
    assert sqnr(run(cancelling(), sample())[0], run(result, sample())[0]) > 30
    assert done.passes[0].statistics["output SQNR dB"] > 30
    notes = [r.message for r in done.passes[0].remarks if r.kind == "note"]
    assert any("synthetic" in n for n in notes) == (data is None)


def test_with_a_fidelity_of_nothing_the_noise_is_only_measured():
    _, said, done = cast(cancelling(), "cast:fidelity=0", [sample()] * 2)
    assert not said
    assert done.passes[0].statistics["output SQNR dB"] < 30


def test_what_overflows_on_synthetic_inputs_goes_back_to_float32():
    nodes = [
        conv("a", "x", "c"),
        helper.make_node("Mul", ["c", "k"], ["far"], "out"),
        helper.make_node("Div", ["far", "k"], ["near"], "back"),
        conv("b", "near", "y", "w2"),
    ]
    proto = build(nodes, {"w": weight(), "w2": weight(seed=1), "k": np.full((1, 8, 1, 1), 6e4, np.float32)})
    result, said, _ = cast(proto)
    assert "outputs are not finite" in said["out"]
    assert sqnr(run(proto, sample())[0], run(result, sample())[0]) > 30
    with pytest.raises(ValidationError, match="not finite"):
        cast(proto, "cast:fidelity=0")
