"""Round trips of other people's models: onnx's own node tests and the architecture zoo."""

from __future__ import annotations

import gc
import warnings

import onnx
import pytest
from conftest import ZOO

from graphopt import load
from graphopt.verifier import verify


def canonical(proto: onnx.ModelProto) -> bytes:
    """Bytes in which an empty string is the same as none, as ONNX defines it.

    Descriptions of values have no order.
    """
    stack = [proto.graph]
    while stack:
        graph = stack.pop()
        known = {i.name for i in (*graph.input, *graph.output)}
        infos = sorted((i for i in graph.value_info if i.name not in known), key=lambda i: i.name)
        del graph.value_info[:]
        graph.value_info.extend(infos)
        for item in (graph, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
            if not item.doc_string:
                item.ClearField("doc_string")
        for node in graph.node:
            if not node.domain:
                node.ClearField("domain")
            for attribute in node.attribute:
                if not attribute.doc_string:
                    attribute.ClearField("doc_string")
                if attribute.HasField("g"):
                    stack.append(attribute.g)
            if not node.doc_string:
                node.ClearField("doc_string")
    for name in ("doc_string", "domain", "producer_name", "producer_version", "model_version"):
        if not getattr(proto, name):
            proto.ClearField(name)
    for opset in proto.opset_import:
        opset.domain = opset.domain
    return proto.SerializeToString(deterministic=True)


def test_all_node_models_of_onnx_survive_a_round_trip():
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = [c for c in collect_testcases(None) if c.model is not None]
    assert len(cases) > 1000
    lost = []
    for case in cases:
        before = case.model.SerializeToString()
        model = load(case.model)
        verify(model.graph)
        if canonical(model.to_proto()) != canonical(onnx.ModelProto.FromString(before)):
            lost.append(case.name)
        assert case.model.SerializeToString() == before
    assert lost == []


@pytest.mark.parametrize(
    "name",
    [
        "lenet",
        "bilstm_tagger.torchscript",
        "hf_bert.torchscript.dyn",
        "crnn_ocr.dynamo",
        "dcgan_generator.torchscript.bn",
    ],
)
def test_zoo_models_survive_a_round_trip(zoo, name):
    files = sorted(ZOO.glob(f"{name}*.onnx.gz"))
    if not files:
        pytest.skip(f"the zoo has no {name}")
    proto = zoo.fill(str(files[0]))
    model = load(proto)
    verify(model.graph)
    assert canonical(model.to_proto()) == canonical(onnx.ModelProto.FromString(proto.SerializeToString()))
    assert model.serialize() == model.clone().serialize()


def test_large_graphs_take_linear_time():
    from time import process_time

    def seconds(count: int) -> float:
        nodes = [onnx.helper.make_node("Relu", [f"t{i}" if i else "x"], [f"t{i + 1}"]) for i in range(count)]
        info = [onnx.helper.make_tensor_value_info(n, 1, [4]) for n in ("x", f"t{count}")]
        graph = onnx.helper.make_graph(nodes[::-1], "g", info[:1], info[1:])
        data = onnx.helper.make_model(graph).SerializeToString()
        start = process_time()
        model = load(data)
        verify(model.graph)
        model.graph.remove_dead()
        model.serialize()
        return process_time() - start

    def best(count: int) -> float:
        gc.collect()
        gc.disable()
        try:
            return min(seconds(count) for _ in range(3))
        finally:
            gc.enable()

    seconds(500)
    assert best(20_000) < 12 * max(best(2_500), 0.02)


def test_ten_thousand_consumers():
    nodes = [onnx.helper.make_node("Neg", ["x"], [f"y{i}"]) for i in range(10_000)]
    nodes.append(onnx.helper.make_node("Sum", [f"y{i}" for i in range(10_000)], ["z"]))
    info = [onnx.helper.make_tensor_value_info(n, 1, [4]) for n in "xz"]
    model = load(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", info[:1], info[1:])))
    graph = model.graph
    other = graph.add_node("Abs", [graph.inputs[0]])
    graph.replace_uses(graph.inputs[0], other.outputs[0])
    other.inputs[0] = graph.inputs[0]
    graph.sort()
    verify(graph)
    graph.remove_nodes(graph.nodes[9_000:0:-1])
    assert len(graph.nodes) == 1_002
