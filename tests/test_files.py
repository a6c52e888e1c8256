"""Loading and saving files: damaged input, external data, atomic and deterministic output."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from texts import CHAIN

from graphopt import load
from graphopt.errors import InvalidModelError, UnsupportedError, UsageError
from graphopt.serde.wire import _length_delimited


def big_model(values: int = 4096) -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.arange(values, dtype=np.float32), "w")
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [values]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", info[:1], info[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def inline(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(big_model(), path)
    return path


@pytest.fixture
def external(tmp_path):
    path = tmp_path / "e.onnx"
    onnx.save(big_model(), path, save_as_external_data=True, location="e.bin", size_threshold=0)
    return path


def edit_external(path, **entries):
    proto = onnx.load(path, load_external_data=False)
    tensor = proto.graph.initializer[0]
    known = {e.key: e.value for e in tensor.external_data} | entries
    del tensor.external_data[:]
    for key, text in known.items():
        tensor.external_data.add(key=key, value=text)
    path.write_bytes(proto.SerializeToString())


def test_file_bytes_and_proto_give_the_same_model(inline):
    proto = onnx.load(inline)
    assert load(inline).serialize() == load(inline.read_bytes()).serialize() == load(proto).serialize()


def test_saving_is_deterministic(inline, tmp_path):
    for name in ("a.onnx", "b.onnx"):
        load(inline).save(tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    for name in ("c.onnx", "d.onnx"):
        load(inline).save(tmp_path / name, external="file")
    data = sorted(p.name for p in tmp_path.glob("*.data"))
    assert data[0][2:] == data[1][2:]


@pytest.mark.parametrize("kind", ["inline", "file", "auto"])
def test_external_models_are_kept(external, tmp_path, kind):
    out = tmp_path / "out.onnx"
    load(external).save(out, external=kind)
    again = load(out)
    assert again.external is (kind != "inline")
    assert np.array_equal(again.graph.initializers[0].values, np.arange(4096))
    assert np.array_equal(numpy_helper.to_array(onnx.load(out).graph.initializer[0]), np.arange(4096))


def test_out_equal_in_is_refused(inline, external, tmp_path):
    with pytest.raises(UsageError, match="file that the model was read from"):
        load(inline).save(inline, force=True)
    link = tmp_path / "link.onnx"
    link.symlink_to(inline)
    with pytest.raises(UsageError, match="file that the model was read from"):
        load(inline).save(link, force=True)
    with pytest.raises(UsageError, match="file that the model was read from"):
        load(external).save(tmp_path / "e.bin", force=True)


def test_existing_output_needs_force(inline, tmp_path):
    out = tmp_path / "out.onnx"
    out.write_text("precious")
    with pytest.raises(UsageError, match="--force"):
        load(inline).save(out)
    assert out.read_text() == "precious"
    load(inline).save(out, force=True)
    assert load(out).serialize() == load(inline).serialize()


def test_overwriting_removes_the_data_file_that_it_replaces(inline, tmp_path):
    out = tmp_path / "out.onnx"
    model = load(inline)
    model.save(out, external="file")
    model.graph.set_weight(model.graph.initializers[0], np.zeros(4096, np.float32))
    model.save(out, external="file", force=True)
    assert len(list(tmp_path.glob("out.*.data"))) == 1
    assert not load(out).graph.initializers[0].values.any()


def test_a_failing_save_leaves_nothing(inline, tmp_path, monkeypatch):
    model = load(inline)
    before = sorted(tmp_path.iterdir())

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        model.save(tmp_path / "out.onnx")
    assert sorted(tmp_path.iterdir()) == before


def test_missing_paths_and_folders(tmp_path, inline):
    with pytest.raises(UsageError, match="there is no file"):
        load(tmp_path / "none.onnx")
    with pytest.raises(UsageError, match="is a folder"):
        load(tmp_path)
    with pytest.raises(UsageError, match="there is no folder"):
        load(inline).save(tmp_path / "no" / "out.onnx")


@pytest.mark.parametrize("content", [b"", b"hello, this is text\n", b"\x00" * 64, b"\xff" * 64])
def test_files_that_are_not_models(tmp_path, content):
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(InvalidModelError, match=r"x\.onnx"):
        load(path)


def test_every_truncation_is_an_invalid_model(inline):
    data = inline.read_bytes()
    for length in [*range(1, 200, 7), len(data) // 2, len(data) - 1]:
        with pytest.raises(InvalidModelError):
            load(data[:length])


def test_flipped_bytes_never_crash():
    data = bytearray(onnx.parser.parse_model(CHAIN).SerializeToString())
    rng = np.random.default_rng(0)
    for _ in range(2000):
        broken = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            broken[at] = rng.integers(0, 256)
        try:
            load(bytes(broken)).serialize()
        except (InvalidModelError, UsageError):
            continue


def test_empty_graph(tmp_path):
    proto = onnx.ModelProto(ir_version=8)
    proto.graph.name = "g"
    with pytest.raises(InvalidModelError, match="empty graph"):
        load(proto)


def test_declared_shape_must_fit_the_bytes():
    proto = big_model()
    proto.graph.initializer[0].dims[0] = 1 << 40
    with pytest.raises(InvalidModelError, match=r"'w' declares \[1099511627776\], which takes 4398046511104 bytes"):
        load(proto)
    proto.graph.initializer[0].dims[0] = -3
    with pytest.raises(InvalidModelError, match="negative extent"):
        load(proto)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "/etc/passwd"}, "must be relative"),
        ({"location": "../e.bin"}, r"without '\.\.'"),
        ({"location": "a/../../e.bin"}, r"without '\.\.'"),
        ({"location": ""}, "must be relative"),
        ({"location": "gone.bin"}, "is missing"),
        ({"location": "link.bin"}, "symbolic link"),
        ({"location": "sub/e.bin"}, "symbolic link"),
        ({"location": "hard.bin"}, "hard links"),
        ({"offset": "4"}, "ends at byte 16388"),
        ({"offset": "-4"}, "must be a number >= 0"),
        ({"offset": "99999999999999999999"}, "ends at byte"),
        ({"length": "100"}, "needs 16384 bytes"),
        ({"location": "."}, "must be|not a plain file"),
    ],
)
def test_external_data_is_contained(external, tmp_path, entries, message):
    (tmp_path / "link.bin").symlink_to(tmp_path / "e.bin")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "e.bin").write_bytes((tmp_path / "e.bin").read_bytes())
    (tmp_path / "sub").symlink_to(outside)
    (tmp_path / "one.bin").write_bytes((tmp_path / "e.bin").read_bytes())
    os.link(tmp_path / "one.bin", tmp_path / "hard.bin")
    edit_external(external, **entries)
    with pytest.raises(InvalidModelError, match=message):
        load(external)


def test_external_data_of_bytes_needs_a_folder(external, tmp_path):
    with pytest.raises(InvalidModelError, match="base_dir"):
        load(external.read_bytes())
    assert load(external.read_bytes(), base_dir=tmp_path).graph.initializers[0].values[5] == 5


def test_a_file_that_changes_under_the_model_is_noticed(inline):
    model = load(inline)
    os.utime(inline, ns=(1, 1))
    with pytest.raises(InvalidModelError, match="changed while its model was in use"):
        _ = model.graph.initializers[0].values


def test_weights_stay_on_disk_until_they_are_read(inline):
    model = load(inline)
    assert model.graph.initializers[0].shape == (4096,)
    assert model.graph.initializers[0].stored._array is None


def test_damage_behind_a_large_weight_is_an_invalid_model(tmp_path):
    graph = big_model().graph.SerializeToString() + b"\x2b"
    path = tmp_path / "bad.onnx"
    head = onnx.ModelProto(ir_version=8).SerializeToString()
    path.write_bytes(head + _length_delimited(7, graph))
    with pytest.raises(InvalidModelError, match=r"bad\.onnx.*wire type 3"):
        load(path)


def test_two_models_of_one_stem_keep_their_own_data_files(tmp_path):
    first, second = tmp_path / "m.pb", tmp_path / "m.onnx"
    load(big_model()).save(first, external="file")
    model = load(first)
    model.save(second, external="file")
    model.graph.set_weight(model.graph.initializers[0], np.zeros(4096, np.float32))
    model.save(second, external="file", force=True)
    assert load(first).graph.initializers[0].values[1] == 1
    assert load(second).graph.initializers[0].values[1] == 0


def test_another_opset_leaves_the_weights_where_they_are(inline):
    model = load(inline)
    model.convert_opset(21)
    assert model.opsets == {"": 21}
    [weight] = model.graph.initializers
    assert weight.stored is not None
    assert weight.stored.source is not None
    assert np.array_equal(weight.values, np.arange(4096, dtype=np.float32))


def test_an_impossible_opset_leaves_the_model_as_it_was(inline):
    model = load(inline)
    before = model.serialize()
    with pytest.raises(UnsupportedError, match="from opset 17 to 9999"):
        model.convert_opset(9999)
    assert model.serialize() == before
