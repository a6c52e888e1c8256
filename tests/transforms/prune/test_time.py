"""Analysis, selection and slicing take time linear in the number of nodes."""

from __future__ import annotations

import gc
import time

import numpy as np
import onnx
from onnx import helper, numpy_helper

from graphopt import load
from graphopt.analysis.labels import analyse
from graphopt.transforms.prune import slicing
from graphopt.transforms.prune.criteria import CRITERIA, score
from graphopt.transforms.prune.selection import Policy, by_ratio
from graphopt.transforms.prune.selection_units import find_units


def network(blocks: int) -> onnx.ModelProto:
    """Residual blocks of a grouped convolution between two others, and an attention of two heads every fourth block."""
    random = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def weight(name: str, *shape: int) -> str:
        weights.append(numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name))
        return name

    def add(op: str, *inputs: str, **attrs: object) -> str:
        name = f"{op}_{len(nodes)}"
        nodes.append(helper.make_node(op, list(inputs), [name], name, **attrs))
        return name

    weights.append(numpy_helper.from_array(np.array([1, 8, 16]), "flat"))
    weights.append(numpy_helper.from_array(np.array([1, 2, 4, 16]), "heads"))
    weights.append(numpy_helper.from_array(np.array([1, 8, 4, 4]), "image"))
    x = add("Conv", "x", weight("first", 8, 3, 1, 1))
    for b in range(blocks):
        y = add("Relu", add("Conv", x, weight(f"a{b}", 8, 8, 1, 1)))
        y = add("Relu", add("Conv", y, weight(f"b{b}", 8, 4, 1, 1), group=2))
        x = add("Add", x, add("Conv", y, weight(f"c{b}", 8, 8, 1, 1)))
        if b % 4 == 0:
            h = add("Reshape", x, "flat")
            q, k, v = (add("Reshape", add("MatMul", weight(f"{n}{b}", 8, 8), h), "heads") for n in "qkv")
            s = add("Softmax", add("MatMul", q, add("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
            o = add("Reshape", add("MatMul", s, v), "flat")
            x = add("Add", x, add("Reshape", add("MatMul", weight(f"o{b}", 8, 8), o), "image"))
    y = add("Conv", x, weight("last", 4, 8, 1, 1))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [info("x", 1, [1, 3, 4, 4])], [info(y, 1, [1, 4, 4, 4])], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def seconds(blocks: int) -> tuple[int, float]:
    """Nodes, and CPU seconds without reading the file."""
    model = load(network(blocks).SerializeToString())
    count = len(model.graph.nodes)
    gc.collect()
    gc.disable()
    start = time.process_time()
    units = find_units(analyse(model.graph))
    keep = by_ratio(units, score(units, CRITERIA["l1"]), Policy(0.5))
    slicing.apply(keep)
    taken = time.process_time() - start
    gc.enable()
    return count, taken


def test_time_grows_linearly() -> None:
    seconds(10)
    (few, short), (many, long) = seconds(60), seconds(480)
    assert many > 7.5 * few
    assert long < 2.5 * (many / few) * max(short, 0.05)
