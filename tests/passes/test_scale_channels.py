"""A factor for each channel goes into every kind of layer, through a bias and Transposes, and stays where it must."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt import load
from graphopt.pipeline import PassManager, Pipeline, Registry
from tests.passes.numerics import compare

REGISTRY = Registry()
RANDOM = np.random.default_rng(0)


def weights(**shapes: tuple[int, ...]) -> list[TensorProto]:
    """Random tensors away from 0."""
    return [
        numpy_helper.from_array(RANDOM.uniform(0.5, 2, shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]


def model(shape: tuple[int, ...], nodes: list[onnx.NodeProto], values: list[TensorProto]) -> onnx.ModelProto:
    """The nodes, then Relu, on one input ``x``."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    nodes = [*nodes, helper.make_node("Relu", [nodes[-1].output[0]], ["y"])]
    graph = helper.make_graph(nodes, "g", [x], [y], values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def left(proto: onnx.ModelProto) -> list[str]:
    """The operators after the pass, whose result is compared with the original's."""
    cleaned = load(proto)
    PassManager(REGISTRY, check_reports=True).run(cleaned, Pipeline.parse("fold_batchnorm", REGISTRY))
    compare(proto, cleaned.serialize(), False)
    return [n.op for n in cleaned.graph.nodes]


@pytest.mark.parametrize("op", ["Mul", "Div"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose", "Gemm", "Gemm transB", "MatMul"])
def test_goes_into_the_layer(kind: str, bias: bool, op: str) -> None:
    match kind:
        case "Conv":
            shape, sizes, attrs = (2, 4, 5, 5), {"w": (6, 2, 3, 3), "b": (6,), "c": (6, 1)}, {"group": 2}
        case "ConvTranspose":
            shape, sizes, attrs = (2, 4, 5, 5), {"w": (4, 3, 3, 3), "b": (6,), "c": (6, 1)}, {"group": 2}
        case "Gemm":
            shape, sizes, attrs = (3, 4), {"w": (4, 6), "b": (1, 6), "c": (6, 1)}, {"alpha": 0.5, "beta": 2.0}
        case "Gemm transB":
            shape, sizes, attrs = (3, 4), {"w": (6, 4), "b": (6,), "c": (6, 1)}, {"transB": 1}
        case _:
            shape, sizes, attrs = (2, 3, 4), {"w": (4, 6), "b": (6,), "c": (6, 1)}, {}
    perm = [0, 2, 1] if len(shape) == 3 else [1, 0] if len(shape) == 2 else [0, 2, 1, 3]
    name = kind.split()[0]
    if name == "MatMul":
        nodes = [helper.make_node("MatMul", ["x", "w"], ["m"])]
        nodes += [helper.make_node("Add", ["b", "m"], ["a"])] if bias else []
    else:
        nodes = [helper.make_node(name, ["x", "w", "b"] if bias else ["x", "w"], ["m"], **attrs)]
    nodes.append(helper.make_node("Transpose", [nodes[-1].output[0]], ["t"], perm=perm))
    nodes.append(helper.make_node(op, ["t", "c"], ["s"]))
    values = [v for v in weights(**sizes) if bias or v.name != "b"]
    found = left(model(shape, nodes, values))
    assert op not in found
    assert found[-2:] == ["Transpose", "Relu"]


def test_stays_on_another_axis_and_behind_a_second_reader() -> None:
    values = weights(w=(4, 6), c=(3, 1))
    other = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Mul", ["m", "c"], ["s"])]
    assert "Mul" in left(model((2, 3, 4), other, values))
    values = weights(w=(4, 6), c=(6,))
    shared = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Mul", ["m", "c"], ["s"]),
        helper.make_node("Add", ["s", "m"], ["t"]),
    ]
    assert "Mul" in left(model((2, 3, 4), shared, values))


def test_a_bias_of_higher_rank_keeps_the_factor() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["a"]),
        helper.make_node("Mul", ["a", "c"], ["s"]),
    ]
    assert "Mul" in left(model((3, 4), nodes, weights(w=(4, 6), b=(2, 3, 6), c=(6,))))
