import tracemalloc

import numpy as np
import pytest
from onnx import helper

from graphopt.analysis.statistics import (
    ChannelMoments,
    Channels,
    CrossGram,
    Gram,
    Histogram,
    HistogramAccumulator,
    MinMax,
    MinMaxAccumulator,
    Moments,
    Request,
    Window,
    collect,
)
from graphopt.errors import DataError, UsageError

WINDOW = Window((3, 3), (2, 2), (1, 1), (1, 1, 1, 1), limit=6)


def requests():
    return [
        Request.of("x", MinMax()),
        Request.of("c1", Histogram(256)),
        Request.of("c1", Moments()),
        Request.of("r1", ChannelMoments(1)),
        Request.of("r1", Gram(Channels(1))),
        Request(("x", "c1"), CrossGram(WINDOW, Channels(1, limit=6))),
        Request.of("y", MinMax()),
    ]


def same(left, right):
    assert left.samples == right.samples
    for request in left:
        for name, value in left[request].state().items():
            if name == "counts":
                assert np.abs(right[request].counts - value).sum() <= 4
            else:
                np.testing.assert_allclose(right[request].state()[name], value, rtol=2e-5, atol=2e-3)


def test_results_do_not_depend_on_batch_or_chunks(conv_model, images, dataset):
    data = dataset(conv_model, {"x": images})
    reference = collect(conv_model, data, requests(), batch=23)
    same(reference, collect(conv_model, data, requests(), batch=4))
    same(reference, collect(conv_model, data, requests(), batch=1, max_memory=1))
    assert reference.typed(Request.of("x", MinMax()), MinMaxAccumulator).maximum == float(images.max())


def test_small_memory_means_several_passes(conv_model, images, dataset):
    data = dataset(conv_model, {"x": images})
    seen = []
    collect(conv_model, data, requests(), batch=23, max_memory=1, progress=seen.append)
    assert seen[-1].done == seen[-1].total == 23 * len(requests())
    assert seen[-1].remaining == 0
    seen = []
    collect(conv_model, data, requests(), batch=23, progress=seen.append)
    assert seen[-1].total == 23


def test_shards_merge(conv_model, images, dataset):
    whole = collect(conv_model, dataset(conv_model, {"x": images}), requests())
    left = collect(conv_model, dataset(conv_model, {"x": images[:9]}), requests())
    right = collect(conv_model, dataset(conv_model, {"x": images[9:]}), requests(), first_sample=9)
    left.merge(right)
    same(whole, left)


def test_fixed_batch_padding_is_dropped(images, make, dataset):
    rng = np.random.default_rng(0)
    w = rng.standard_normal((2, 3, 1, 1)).astype(np.float32)
    model = make([helper.make_node("Conv", ["x", "w"], ["y"])], {"x": [8, 3, 9, 8]}, ["y"], {"w": w})
    request = Request.of("y", Moments())
    found = collect(model, dataset(model, {"x": images}), [request])
    wanted = np.einsum("nchw,mc->nmhw", images, w[:, :, 0, 0])
    assert found.samples == 23
    assert found[request].count == wanted.size
    assert found[request].mean == pytest.approx(wanted.mean(dtype=float), abs=1e-5)


def test_cross_gram_solves_the_layer(conv_model, images, dataset):
    request = Request(("x", "c1"), CrossGram(WINDOW, Channels(1, limit=6)))
    found = collect(conv_model, dataset(conv_model, {"x": images}), [request])[request]
    solved = np.linalg.lstsq(found.matrix[0], found.cross[0], rcond=None)[0]
    np.testing.assert_allclose(solved[:-1].T.reshape(6, 3, 3, 3), conv_model.graph.tensors()["w1"].values, atol=1e-2)
    np.testing.assert_allclose(solved[-1], 0, atol=1e-2)


def test_nan_names_the_tensor(images, make, dataset):
    model = make(
        [helper.make_node("Sqrt", ["x"], ["s"]), helper.make_node("Neg", ["s"], ["y"])], {"x": ["N", 3]}, ["y"], {}
    )
    with pytest.raises(DataError, match="'s'"):
        collect(model, dataset(model, {"x": -np.ones((2, 3), np.float32)}), [Request.of("s", MinMax())])


def test_unknown_and_constant_tensors_are_refused(conv_model, images, dataset):
    data = dataset(conv_model, {"x": images})
    with pytest.raises(UsageError, match="'nope'"):
        collect(conv_model, data, [Request.of("nope", MinMax())])
    with pytest.raises(UsageError, match="'w1'"):
        collect(conv_model, data, [Request.of("w1", MinMax())])


def test_cache_is_used_and_keyed(conv_model, images, tmp_path, dataset):
    data = dataset(conv_model, {"x": images})
    first = collect(conv_model, data, requests(), cache=tmp_path)
    seen = []
    second = collect(conv_model, data, requests(), cache=tmp_path, progress=seen.append)
    assert not seen
    same(first, second)
    assert isinstance(second[Request.of("c1", Histogram(256))], HistogramAccumulator)
    conv_model.graph.set_weight(conv_model.graph.tensors()["w1"], np.ones((6, 3, 3, 3), np.float32))
    changed = collect(conv_model, data, requests(), cache=tmp_path, progress=seen.append)
    assert seen
    assert changed[Request.of("c1", Moments())].mean != first[Request.of("c1", Moments())].mean


def test_cache_survives_damage(conv_model, images, tmp_path, dataset):
    data = dataset(conv_model, {"x": images})
    collect(conv_model, data, requests(), cache=tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(b"damaged")
    seen = []
    collect(conv_model, data, requests(), cache=tmp_path, progress=seen.append)
    assert seen


def test_large_models_go_through_a_file_with_external_data(conv_model, images, dataset, monkeypatch):
    data = dataset(conv_model, {"x": images})
    inline = collect(conv_model, data, requests())
    monkeypatch.setattr("graphopt.runtime.materialize.INLINE_BYTES", 0)
    same(inline, collect(conv_model, data, requests()))


def test_memory_does_not_grow_with_the_number_of_samples(conv_model, images, dataset):
    wanted = [r for r in requests() if not isinstance(r.spec, CrossGram)]

    def peak(copies):
        data = dataset(conv_model, {"x": np.tile(images, (copies, 1, 1, 1))})
        collect(conv_model, data, wanted)
        tracemalloc.start()
        collect(conv_model, data, wanted)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(40) < 1.3 * peak(2)
