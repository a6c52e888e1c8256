from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest

from graphopt.data.interface import read_interface
from graphopt.errors import InvalidModelError, UsageError

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
g (float[N,3,?] x, int64[2] ids, bfloat16 scale, float[] any, string[N] words,
   seq(float[2]) many, float[3] w)
  => (float[N,4] y, float z)
<float[3] w = {1,2,3}>
{ y = Foo(x, ids, scale, any, words, many, w)  z = Foo(x) }"""


def _bytes(text: str = TEXT) -> bytes:
    return onnx.parser.parse_model(text).SerializeToString()


def test_names_types_and_shapes() -> None:
    interface = read_interface(_bytes())
    assert [info.name for info in interface.inputs] == ["x", "ids", "scale", "any", "words", "many", "w"]
    x, ids, scale, _any, words, many, w = interface.inputs
    assert x.shape == ("N", 3, None)
    assert x.dtype == np.float32
    assert ids.dtype == np.int64
    assert scale.dtype == ml_dtypes.bfloat16
    assert words.dtype == np.dtype(object)
    assert many.kind == "sequence"
    assert many.dtype is None
    assert w.has_default
    assert w not in interface.required
    assert [info.name for info in interface.outputs] == ["y", "z"]
    assert interface.outputs[1].shape == ()


def test_unknown_rank_is_not_a_scalar() -> None:
    interface = read_interface(_bytes())
    assert interface.input("any").shape is None
    assert interface.input("scale").shape == ()


def test_file_with_large_weights_is_not_loaded(tmp_path) -> None:
    model = onnx.ModelProto.FromString(_bytes())
    weight = onnx.numpy_helper.from_array(np.zeros(4_000_000, np.float32), "big")
    model.graph.initializer.append(weight)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    import tracemalloc

    read_interface(path)
    tracemalloc.start()
    interface = read_interface(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    assert interface == read_interface(_bytes())


def test_negative_dim_is_unknown() -> None:
    model = onnx.ModelProto.FromString(_bytes())
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = -1
    assert read_interface(model.SerializeToString()).inputs[0].shape == ("N", None, None)


def test_every_cut_of_a_model_is_refused_or_read() -> None:
    """A truncated file never raises anything but InvalidModelError."""
    data = _bytes()
    refused = 0
    for end in range(len(data)):
        try:
            read_interface(data[:end])
        except InvalidModelError:
            refused += 1
    assert refused > len(data) * 0.9


@pytest.mark.parametrize("data", [b"", b"hello world, this is text\n", b"\x00" * 64, b"\xff" * 64])
def test_what_is_no_model(data: bytes, tmp_path) -> None:
    with pytest.raises(InvalidModelError):
        read_interface(data)
    path = tmp_path / "bad.onnx"
    path.write_bytes(data)
    with pytest.raises(InvalidModelError, match=r"bad\.onnx"):
        read_interface(path)


def test_missing_file_and_folder(tmp_path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_interface(tmp_path / "none.onnx")
    with pytest.raises(UsageError, match="folder"):
        read_interface(tmp_path)


def test_free_dims_and_binding(interface_of) -> None:
    interface = interface_of("float[N,3,?] x, int64[N,L] ids")
    assert interface.free_dims() == {
        "N": ("x axis 0", "ids axis 0"),
        "x.2": ("x axis 2",),
        "L": ("ids axis 1",),
    }
    assert interface.batch_dims() == ("N",)
    with pytest.raises(UsageError, match=r"timing needs .*N \(x axis 0, ids axis 0\); x\.2 .*--dim L=N"):
        interface.require_static("timing")
    bound = interface.bind({"L": 7, "x.2": 5}, batch=2)
    assert bound.input("x").shape == (2, 3, 5)
    assert bound.input("ids").shape == (2, 7)
    assert bound.outputs[0].shape == (2,)
    bound.require_static("timing")


def test_named_dim_wins_over_batch(interface_of) -> None:
    assert interface_of("float[N,3] x").bind({"N": 4}, batch=2).inputs[0].shape == (4, 3)


def test_unknown_dim_names_the_nearest(interface_of) -> None:
    with pytest.raises(UsageError, match="did you mean 'length'"):
        interface_of("float[N,length] x").bind({"lenght": 3})
    with pytest.raises(UsageError, match="at least 1"):
        interface_of("float[N] x").bind({"N": 0})


@pytest.mark.parametrize("signature", ["float[N,3] x, float[M,3] y", "float[1,3] x, float[N,3] y", "float[] x"])
def test_no_batch_dim(interface_of, signature: str) -> None:
    assert interface_of(signature).batch_dims() == ()
