"""The numpy kernels against ONNX Runtime, bit by bit, on onnx's own node models."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import pytest

from graphopt import load
from graphopt.analysis.kernels import KERNELS, exact
from graphopt.errors import GraphoptError
from graphopt.runtime.session import Session, SessionConfig

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


def cases():
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [c for c in collect_testcases(None) if c.model is not None]
    for case in found:
        nodes = case.model.graph.node
        if len(nodes) == 1 and nodes[0].op_type in KERNELS and not nodes[0].domain:
            yield case


def runtime(proto: onnx.ModelProto, arrays) -> np.ndarray | None:
    """None when the runtime has no kernel for it."""
    feeds = dict(zip([i.name for i in proto.graph.input], arrays, strict=True))
    try:
        session = Session(proto.SerializeToString(), SessionConfig(optimize="off"))
        return session.run(feeds)[proto.graph.output[0].name]
    except GraphoptError:
        return None


def test_kernels_agree_with_the_runtime_to_the_last_bit() -> None:
    checked: set[str] = set()
    for case in cases():
        model = load(case.model)
        [node] = model.graph.nodes
        for inputs, _ in case.data_sets:
            if not all(isinstance(i, np.ndarray) for i in inputs):
                continue
            made, wanted = exact(node, inputs, model.graph.opset), runtime(case.model, inputs)
            if made is None or wanted is None:
                continue
            assert (made.dtype, made.shape) == (wanted.dtype, wanted.shape), case.name
            assert np.ascontiguousarray(made).tobytes() == wanted.tobytes() or made.dtype == object, case.name
            checked.add(node.op)
    assert len(checked) > len(KERNELS) * 0.8, set(KERNELS) - checked


@pytest.mark.parametrize(
    ("a", "b", "want"),
    [([7, -7, 7, -7], [2, 2, -2, -2], [3, -3, -3, 3]), ([2**53 + 1], [1], [2**53 + 1])],
)
def test_integers_are_divided_towards_zero(parse, a, b, want) -> None:
    [node] = parse(HEADER + "g (int64[N] a, int64[N] b) => (int64[N] y) { y = Div(a, b) }").graph.nodes
    assert exact(node, [np.array(a), np.array(b)], 17).tolist() == want


def test_what_is_not_defined_is_left_alone(parse) -> None:
    [node] = parse(HEADER + "g (int64[N] a, int64[N] b) => (int64[N] y) { y = Div(a, b) }").graph.nodes
    assert exact(node, [np.array([1]), np.array([0])], 17) is None
    assert exact(node, [np.array([1, 2]), np.array([1, 2, 3])], 17) is None
    assert exact(node, [np.array([5]), np.array([-(2**63)])], 17) is None


@pytest.mark.parametrize(("start", "end"), [(-100, -200), (-3, -200), (100, -2), (-1, -6), (-1, -5)])
def test_slices_backwards_from_outside(start, end) -> None:
    arrays = [np.arange(5, dtype=np.float32), *(np.array([v], np.int64) for v in (start, end, 0, -1))]
    node = onnx.helper.make_node("Slice", list("xabcd"), ["y"])
    ends = [onnx.helper.make_tensor_value_info("x", 1, [5])]
    ends += [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.INT64, [1]) for n in "abcd"]
    graph = onnx.helper.make_graph([node], "g", ends, [onnx.helper.make_tensor_value_info("y", 1, None)])
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    assert np.array_equal(exact(load(proto).graph.nodes[0], arrays, 17), runtime(proto, arrays))


def test_a_range_without_a_step_is_left_alone(parse) -> None:
    [node] = parse(HEADER + "g (int64 a, int64 b, int64 c) => (int64[N] y) { y = Range(a, b, c) }").graph.nodes
    assert exact(node, [np.array(v) for v in (1, 5, 0)], 17) is None
    assert exact(node, [np.array(v) for v in (5, 1, -2)], 17).tolist() == [5, 3]


def test_places_that_a_scatter_names_twice_are_left_alone(parse) -> None:
    """-1 and n - 1 are one place; which update wins is the runtime's choice."""
    graph = "g (float[3] a, int64[2, 1] i, float[2] u) => (float[3] y) { y = ScatterND(a, i, u) }"
    [node] = parse(HEADER + graph).graph.nodes
    data, updates = np.zeros(3, np.float32), np.array([1, 2], np.float32)
    assert exact(node, [data, np.array([[-1], [2]]), updates], 17) is None
    assert exact(node, [data, np.array([[-1], [1]]), updates], 17).tolist() == [0, 2, 1]
