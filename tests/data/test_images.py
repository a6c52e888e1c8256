from __future__ import annotations

import sys

import numpy as np
import pytest

from graphopt.data.open import open_data
from graphopt.errors import DataError, UnsupportedError, UsageError

Image = pytest.importorskip("PIL.Image")


def _save(path, color=(255, 0, 0), size=(8, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


def _recipe(tmp_path, text: str):
    path = tmp_path / "prep.yaml"
    path.write_text(text)
    return path


def test_sub_folder_is_the_label(interface_of, tmp_path) -> None:
    for name in ("dog/1.png", "cat/1.png", "cat/2.png"):
        _save(tmp_path / "set" / name)
    data = open_data(tmp_path / "set", interface_of("float[N,3,6,8] x"), preprocess=_recipe(tmp_path, "scale: 1"))
    batch = next(iter(data))
    assert batch.feeds["x"].shape == (3, 3, 6, 8)
    assert batch.labels.tolist() == [0, 0, 1]
    assert data.classes == ("cat", "dog")
    assert batch.feeds["x"][0, :, 0, 0].tolist() == [255, 0, 0]


def test_numbers_as_folder_names_stay_what_they_are(interface_of, tmp_path) -> None:
    for name in ("7/1.png", "10/1.png"):
        _save(tmp_path / "set" / name)
    data = open_data(tmp_path / "set", interface_of("float[N,3,6,8] x"), preprocess=_recipe(tmp_path, "scale: 1"))
    assert sorted(next(iter(data)).labels.tolist()) == [7, 10]


def test_table_of_labels(interface_of, tmp_path) -> None:
    for name in ("b.png", "a.png"):
        _save(tmp_path / "set" / name)
    (tmp_path / "set" / "labels.csv").write_text("file,label\na.png,5\nb.png,3\n")
    prep = _recipe(tmp_path, "scale: 1")
    assert next(
        iter(open_data(tmp_path / "set", interface_of("float[N,3,6,8] x"), preprocess=prep))
    ).labels.tolist() == [5, 3]
    _save(tmp_path / "set" / "c.png")
    with pytest.raises(DataError, match=r"no label for c\.png"):
        open_data(tmp_path / "set", interface_of("float[N,3,6,8] x"), preprocess=prep)


def test_images_without_folders_have_no_labels(interface_of, tmp_path) -> None:
    _save(tmp_path / "set" / "a.png")
    prep = _recipe(tmp_path, "scale: 1")
    assert not open_data(tmp_path / "set", interface_of("float[N,3,6,8] x"), preprocess=prep).labelled
    _save(tmp_path / "set" / "k" / "b.png")
    with pytest.raises(DataError, match=r"a\.png lies outside"):
        open_data(tmp_path / "set", interface_of("float[N,3,6,8] x"), preprocess=prep)


def test_imagenet_recipe(interface_of, tmp_path) -> None:
    _save(tmp_path / "set" / "a.png", (255, 128, 0), (640, 480))
    data = open_data(tmp_path / "set", interface_of("float[1,3,224,224] x"), preprocess="imagenet")
    pixels = next(iter(data)).feeds["x"]
    assert pixels.shape == (1, 3, 224, 224)
    want = (np.array([255, 128, 0]) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert np.allclose(pixels[0, :, 100, 100], want, atol=1e-5)


def test_channels_last_bgr_and_gray(interface_of, tmp_path) -> None:
    _save(tmp_path / "set" / "a.png", (10, 20, 30))
    prep = _recipe(tmp_path, "{color: bgr, scale: 1, mean: [1, 2, 3], std: [2, 2, 2]}")
    last = next(iter(open_data(tmp_path / "set", interface_of("float[N,6,8,3] x"), preprocess=prep)))
    assert last.feeds["x"][0, 0, 0].tolist() == [14.5, 9, 3.5]
    prep = _recipe(tmp_path, "{color: gray, resize: [4, 4], scale: 1}")
    gray = next(iter(open_data(tmp_path / "set", interface_of("uint8[N,1,4,4] x"), preprocess=prep)))
    assert gray.feeds["x"].dtype == np.uint8
    assert gray.feeds["x"].shape == (1, 1, 4, 4)


def test_short_side_and_crop(interface_of, tmp_path) -> None:
    _save(tmp_path / "set" / "a.png", size=(100, 50))
    prep = tmp_path / "prep.toml"
    prep.write_text("resize = 10\ncrop = [10, 12]\n")
    data = open_data(tmp_path / "set", interface_of("float[N,3,H,W] x"), preprocess=prep)
    assert next(iter(data)).feeds["x"].shape == (1, 3, 10, 12)


def test_what_does_not_fit(interface_of, tmp_path) -> None:
    _save(tmp_path / "set" / "a.png")
    folder, interface = tmp_path / "set", interface_of("float[N,3,6,8] x")
    with pytest.raises(UsageError, match="--preprocess FILE or imagenet"):
        open_data(folder, interface)
    with pytest.raises(UsageError, match=r"reszie.*Known keys: color"):
        open_data(folder, interface, preprocess=_recipe(tmp_path, "reszie: 3"))
    with pytest.raises(UsageError, match="cannot be read"):
        open_data(folder, interface, preprocess=tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="no valid"):
        open_data(folder, interface, preprocess=_recipe(tmp_path, "a: [1"))
    with pytest.raises(DataError, match=r"has shape \[1, 3, 6, 8\]"):
        list(open_data(folder, interface_of("float[N,3,9,9] x"), preprocess=_recipe(tmp_path, "scale: 1")))
    with pytest.raises(DataError, match="one input"):
        open_data(folder, interface_of("float[N,3,6,8] x, float[N] y"), preprocess="imagenet")
    with pytest.raises(DataError, match="4 dims"):
        open_data(folder, interface_of("float[N,3] x"), preprocess="imagenet")
    (folder / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a\.png cannot be read as an image"):
        list(open_data(folder, interface, preprocess=_recipe(tmp_path, "scale: 1")))


def test_without_pillow(interface_of, tmp_path, monkeypatch) -> None:
    _save(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UnsupportedError, match=r"graphopt\[images\]"):
        open_data(tmp_path, interface_of("float[N,3,6,8] x"), preprocess="imagenet")
