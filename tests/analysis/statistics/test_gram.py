from dataclasses import dataclass

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.analysis.statistics import Channels, CrossGram, Gram, Part, Rows, Window


@dataclass(frozen=True)
class Case:
    kernel: tuple
    strides: tuple
    dilations: tuple
    pads: tuple
    groups: int
    auto_pad: str = "NOTSET"
    transposed: bool = False
    channels: tuple = (4, 6)


def cases():
    return [
        Case((3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 1),
        Case((3, 2), (2, 3), (1, 2), (1, 0, 2, 1), 1),
        Case((3, 3), (2, 2), (1, 1), (0, 0, 0, 0), 2),
        Case((3, 3), (1, 1), (2, 2), (2, 2, 2, 2), 4, channels=(4, 4)),
        Case((5,), (2,), (1,), (2, 2), 1),
        Case((2, 2, 3), (1, 2, 1), (1, 1, 1), (0, 0, 0, 0, 1, 1), 1),
        Case((3, 3), (2, 2), (1, 1), (), 1, "SAME_UPPER"),
        Case((4, 4), (2, 2), (1, 1), (), 1, "SAME_LOWER"),
        Case((3, 3), (2, 2), (1, 1), (), 1, "VALID"),
        Case((1, 1), (1, 1), (1, 1), (0, 0, 0, 0), 1),
    ]


def reference_rows(case):
    rng = np.random.default_rng(0)
    inputs, outputs = case.channels
    extents = (9, 8, 7)[: len(case.kernel)]
    x = rng.standard_normal((5, inputs, *extents)).astype(np.float32)
    w = rng.standard_normal((outputs, inputs // case.groups, *case.kernel)).astype(np.float32)
    attrs = {"strides": case.strides, "dilations": case.dilations, "group": case.groups, "auto_pad": case.auto_pad}
    if case.auto_pad == "NOTSET":
        attrs["pads"] = case.pads
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], **attrs)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y = session.run(None, {"x": x})[0]
    weights = w.reshape(case.groups, outputs // case.groups, -1).transpose(0, 2, 1)
    window = Window(case.kernel, case.strides, case.dilations, case.pads, case.groups, case.auto_pad)
    return x, y, weights, window


@pytest.mark.parametrize("case", cases(), ids=str)
def test_gram_of_a_convolution_equals_brute_force(case):
    x, y, weights, window = reference_rows(case)
    spec = Gram(window)
    accumulator = spec.create()
    accumulator.update((x,), Rows(len(x), len(x)))
    blocks = list(window.blocks(x, np.arange(len(x))))
    assert len(blocks) == 1
    rows = blocks[0][1]
    predicted = np.einsum("npgk,gkm->npgm", rows, weights).reshape(*rows.shape[:2], -1)
    wanted = np.moveaxis(y, 1, -1).reshape(*rows.shape[:2], -1)
    np.testing.assert_allclose(predicted, wanted, atol=1e-4)
    flat = rows.reshape(-1, *rows.shape[2:])
    features = np.concatenate([flat, np.ones((*flat.shape[:2], 1))], axis=2).transpose(1, 0, 2)
    np.testing.assert_allclose(accumulator.matrix, features.transpose(0, 2, 1) @ features, rtol=1e-4, atol=1e-3)


def test_sampled_positions_do_not_depend_on_the_batch():
    x = np.random.default_rng(0).standard_normal((37, 2, 8, 8)).astype(np.float32)
    window = Window((3, 3), (1, 1), (1, 1), (1, 1, 1, 1), limit=9)
    spec = CrossGram(window, Channels(1, limit=9), Part(5, False))
    whole, cut, left, right = (spec.create() for _ in range(4))
    whole.update((x, x), Rows(37, 37))
    for start in range(0, 37, 4):
        piece = x[start : start + 4]
        cut.update((piece, piece), Rows(len(piece), len(piece), start))
    left.update((x[:10], x[:10]), Rows(10, 10))
    right.update((x[10:], x[10:]), Rows(27, 27, 10))
    left.merge(right)
    assert whole.count == 30 * 9
    for name, value in whole.state().items():
        np.testing.assert_allclose(cut.state()[name], value, rtol=1e-5, atol=1e-3)
        np.testing.assert_allclose(left.state()[name], value, rtol=1e-5, atol=1e-3)


def test_sampled_positions_of_input_and_output_agree():
    x = np.random.default_rng(0).standard_normal((40, 3, 6, 6)).astype(np.float32)
    centre = Window((3, 3), (1, 1), (1, 1), (1, 1, 1, 1), limit=5)
    ids = np.arange(40)
    seen = set()
    for (a, rows), (b, values) in zip(centre.blocks(x, ids), Channels(1, limit=5).blocks(x, ids), strict=True):
        np.testing.assert_array_equal(a, b)
        middle = rows.reshape(*rows.shape[:2], 3, 9)[..., 4]
        np.testing.assert_array_equal(middle, values[:, :, 0])
        seen.update(np.unique(values))
    assert len(seen) == 40 * 5 * 3


def test_gram_of_a_merged_batch_and_overflow():
    x = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32) * 1e25
    accumulator = Gram(Channels(-1)).create()
    accumulator.update((x,), Rows(4, 4))
    np.testing.assert_allclose(accumulator.matrix[0, :4, :4], x.astype(float).T @ x, rtol=1e-4, atol=1e45)
    assert accumulator.count == 12
