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
