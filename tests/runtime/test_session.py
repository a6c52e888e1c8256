from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest

from graphopt.errors import (
    DataError,
    InvalidModelError,
    ProviderError,
    UnsupportedError,
    UsageError,
    ValidationError,
)
from graphopt.runtime import session as session_module
from graphopt.runtime.ort_errors import node_of, shorten
from graphopt.runtime.session import Session, SessionConfig, save_optimized

ONE = np.array([[-1, 0, 2]], np.float32)


def test_bytes_and_files(relu, tmp_path) -> None:
    (tmp_path / "m.onnx").write_bytes(relu)
    for model in (relu, tmp_path / "m.onnx"):
        session = Session(model)
        assert session.run({"x": ONE})["y"].tolist() == [[0, 0, 2]]
        assert session.providers == ("CPUExecutionProvider",)
        assert session.load_ms > 0


def test_chosen_outputs(build) -> None:
    session = Session(build("(float[N] x) => (float[N] a, float[N] b) { a = Neg(x) b = Abs(x) }"))
    feeds = {"x": np.array([1, -2], np.float32)}
    assert list(session.run(feeds)) == ["a", "b"]
    assert list(session.run(feeds, ["b"])) == ["b"]
    with pytest.raises(UsageError, match="no output 'c'"):
        session.run(feeds, ["c"])


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "no array for input 'x'"),
        ({"x": ONE, "z": ONE}, "'z' is no input"),
        ({"x": ONE.astype(np.float64)}, "takes float32, the array has float64"),
        ({"x": ONE[0]}, r"shape \[3\]"),
        ({"x": ONE[:, :2]}, r"x: float32\[N,3\] has shape \[1, 2\]"),
    ],
)
def test_feeds_that_do_not_match(relu, feeds, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Session(relu).run(feeds)


def test_a_node_that_fails_on_data_is_named(build) -> None:
    data = build("(float[4] x, int64[1] i) => (float[1] y) { [pick] y = Gather(x, i) }")
    feeds = {"x": np.zeros(4, np.float32), "i": np.array([9])}
    with pytest.raises(DataError, match=r"at node pick \(Gather\).*idx=9"):
        Session(data).run(feeds)
    with pytest.raises(ValidationError, match="pick"):
        Session(data, role="result").run(feeds)


def test_a_batch_that_the_model_cannot_take_gets_a_hint(build) -> None:
    data = build("(float[N,4] x) => (float[2,2] y) <int64[2] s = {2, 2}> { y = Reshape(x, s) }")
    with pytest.raises(DataError, match="--batch 1"):
        Session(data).run({"x": np.zeros((3, 4), np.float32)})


BAD = [
    ("(float[N] x) => (float[N] y) { y = Foo(x) }", InvalidModelError, "Foo"),
    ("(int32[N] x) => (int32[N] y) { [s] y = Sin(x) }", InvalidModelError, r"at node s \(Sin\)"),
    ("(int4[N] x) => (int4[N] y) { [s] y = Identity(x) }", UnsupportedError, r"at node s \(Identity\)"),
    ("(float[N] x) => (float[N] y) { a = Neg(b) b = Neg(a) y = Add(x, b) }", InvalidModelError, "does not load"),
]


@pytest.mark.parametrize(("text", "error", "message"), BAD)
def test_models_that_do_not_load(build, text: str, error, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        Session(build(text), name="bad.onnx")
    assert "bad.onnx" in str(caught.value)
    assert "/onnxruntime_src/" not in str(caught.value)
    with pytest.raises(ValidationError) as result:
        Session(build(text), role="result")
    assert result.value.exit_code == 4


def test_unknown_domain_is_not_supported_here() -> None:
    text = '<ir_version: 10, opset_import: ["" : 21, "zz" : 1]> g (float[N] x) => (float[N] y) { y = zz.Foo(x) }'
    with pytest.raises(UnsupportedError, match="zz:Foo"):
        Session(onnx.parser.parse_model(text).SerializeToString())


def test_damaged_files(relu, tmp_path) -> None:
    path = tmp_path / "m.onnx"
    for data in (relu[: len(relu) // 2], b"just text", b""):
        path.write_bytes(data)
        with pytest.raises(InvalidModelError, match=r"m\.onnx"):
            Session(path)
        with pytest.raises(ValidationError, match=r"m\.onnx"):
            Session(path, role="result")
    with pytest.raises(UsageError, match="no such file"):
        Session(tmp_path / "none.onnx")


def _external(build, tmp_path) -> onnx.ModelProto:
    model = onnx.ModelProto.FromString(
        build("(float[N,2] x) => (float[N,2] y) <float[2] w = {1, 2}> { y = Add(x, w) }")
    )
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.array([1, 2], np.float32), "w"))
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "w.bin")
    model.graph.initializer[0].ClearField("raw_data")
    (tmp_path / "w.bin").write_bytes(np.array([1, 2], np.float32).tobytes())
    return model


def test_external_data(build, tmp_path) -> None:
    model = _external(build, tmp_path)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    feeds = {"x": np.zeros((1, 2), np.float32)}
    assert Session(path).run(feeds)["y"].tolist() == [[1, 2]]
    held = Session(model.SerializeToString(), SessionConfig(base_dir=tmp_path))
    assert held.run(feeds)["y"].tolist() == [[1, 2]]
    (tmp_path / "w.bin").unlink()
    with pytest.raises(InvalidModelError, match=r"w\.bin"):
        Session(path)


def test_levels_of_optimization(build, tmp_path) -> None:
    text = "(float[N] x) => (float[N] y) { a = Identity(x) b = Identity(a) y = Relu(b) }"
    nodes = {}
    for level in ("off", "basic", "extended", "all"):
        path = tmp_path / f"{level}.onnx"
        save_optimized(build(text), path, SessionConfig(optimize=level))
        nodes[level] = [node.op_type for node in onnx.load(path).graph.node]
    assert nodes["off"] == ["Identity", "Identity", "Relu"]
    assert nodes["all"] == ["Relu"]


def test_assignments(relu) -> None:
    (only,) = Session(relu).assignments()
    assert (only.provider, only.op) == ("CPUExecutionProvider", "Relu")


def test_strict_names_the_nodes_that_another_provider_took(relu, monkeypatch) -> None:
    session = Session(relu)
    row = session_module.Provider("cuda", "CUDAExecutionProvider", "onnxruntime-gpu")
    monkeypatch.setattr(session, "_provider", row)
    with pytest.raises(ProviderError, match="asked for CUDAExecutionProvider, the session runs on CPU"):
        session._check_provider()
    strict = Session(relu, SessionConfig(strict=True))
    monkeypatch.setattr(strict, "_provider", row)
    monkeypatch.setattr(type(strict), "providers", ("CUDAExecutionProvider", "CPUExecutionProvider"))
    with pytest.raises(ProviderError, match=r"1 nodes do not run on CUDAExecutionProvider: unnamed \(Relu\)"):
        strict._check_provider()


def test_exotic_types(build) -> None:
    session = Session(
        build("(bfloat16[N] x, float s) => (bfloat16[N] y, float[N] z) { y = Identity(x) z = Cast<to=1>(x) }")
    )
    x = np.array([1, -2.5], ml_dtypes.bfloat16)
    result = session.run({"x": x, "s": np.asarray(1, np.float32)})
    assert result["y"].dtype == ml_dtypes.bfloat16
    assert result["y"].tolist() == [1, -2.5]
    assert result["z"].tolist() == [1, -2.5]
    session.prepared({"x": x, "s": np.asarray(1, np.float32)})()


def test_float8_and_four_bits(build) -> None:
    session = Session(build("(float8e4m3fn[N] x) => (float8e4m3fn[N] y) { y = Identity(x) }"))
    x = np.array([1, -2], ml_dtypes.float8_e4m3fn)
    assert session.run({"x": x})["y"].tolist() == [1, -2]
    packed = Session(build("(int4[N] x) => (float[N] y) <float s = {1}> { y = DequantizeLinear(x, s) }"))
    with pytest.raises(UnsupportedError, match="under one byte"):
        packed.run({"x": np.array([1], ml_dtypes.int4)})


def test_strings_sequences_and_scalars(build) -> None:
    session = Session(
        build("(string[N] s, float v) => (string[N] t, seq(float) q) { t = Identity(s) q = SequenceConstruct(v, v) }")
    )
    result = session.run({"s": np.array(["a", "b"]), "v": np.asarray(2, np.float32)})
    assert result["t"].tolist() == ["a", "b"]
    assert isinstance(result["q"], list)


def test_nothing_is_written_to_the_terminal(build, relu, capfd) -> None:
    Session(relu).run({"x": ONE})
    with pytest.raises(InvalidModelError):
        Session(build(BAD[1][0]))
    failing = Session(build("(float[4] x, int64[1] i) => (float[1] y) { y = Gather(x, i) }"))
    with pytest.raises(DataError):
        failing.run({"x": np.zeros(4, np.float32), "i": np.array([9])})
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""


def test_messages_are_short() -> None:
    raw = (
        "[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/onnxruntime/core/graph/model_load_utils.h:46 void "
        "onnxruntime::model_load_utils::Validate(const std::string&, int) ONNX Runtime only\n guarantees" + "x" * 900
    )
    assert shorten(raw).startswith("ONNX Runtime only guarantees")
    assert len(shorten(raw)) == 400
    assert node_of("Could not find an implementation for Conv(11) node with name 'c1'") == "c1 (Conv)"
    assert node_of("while running Gather node. Name:'' Status") == "an unnamed Gather"
    assert node_of("no node here") == ""
