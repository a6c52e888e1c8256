"""The editing primitives: names, use replacement, removal, dead code, weights."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from texts import BRANCH, CHAIN, HEADER

from graphopt.errors import GraphoptError, UsageError
from graphopt.ir import Constant, constant_value
from graphopt.verifier import verify


def text(model) -> str:
    return onnx.printer.to_text(model.to_proto().graph)


def test_add_node_makes_unique_names(parse):
    graph = parse(CHAIN).graph
    first = graph.add_node("Relu", [graph.inputs[0]])
    second = graph.add_node("Relu", [graph.inputs[0]])
    assert first.name != second.name
    assert first.outputs[0].name != second.outputs[0].name


def test_replace_uses_inside_the_graph(parse):
    model = parse(CHAIN)
    graph = model.graph
    graph.replace_uses(graph.nodes[0].outputs[0], graph.inputs[0])
    assert graph.remove_dead() == 2
    verify(graph)
    assert [n.op for n in graph.nodes] == ["Relu"]
    assert graph.nodes[0].inputs[0].name == "x"


def test_replaced_output_keeps_its_name_when_a_node_produces_the_new_value(parse):
    graph = parse(CHAIN).graph
    old = graph.outputs[0]
    graph.replace_uses(old, graph.nodes[0].outputs[0])
    graph.remove_dead()
    verify(graph)
    assert [n.op for n in graph.nodes] == ["Add"]
    assert graph.outputs[0].name == "y"
    assert graph.outputs[0].shape == ["N", 4]


def test_output_replaced_by_an_input_gets_an_identity(parse):
    graph = parse(CHAIN).graph
    graph.replace_uses(graph.outputs[0], graph.inputs[0])
    graph.remove_dead()
    graph.sort()
    verify(graph)
    assert [(n.op, n.inputs[0].name, n.outputs[0].name) for n in graph.nodes] == [("Identity", "x", "y")]


def test_replace_uses_reaches_captures_in_branches(parse):
    graph = parse(BRANCH).graph
    graph.replace_uses(graph.nodes[0].outputs[0], graph.inputs[0])
    graph.remove_dead()
    verify(graph)
    assert [n.op for n in graph.nodes] == ["If"]
    assert {n.inputs[0].name for n in graph.walk() if n.op != "If"} == {"x"}


def test_captured_values_keep_their_producer_alive(parse):
    graph = parse(BRANCH).graph
    assert graph.remove_dead() == 0
    assert [n.op for n in graph.nodes] == ["Neg", "If"]


def test_middle_output_keeps_its_place(parse):
    model = parse(
        HEADER
        + """g (float[1,2,3] x, float[1,16,3] w, float[1,16,4] r) => (float[1,2,4] c) {
        y, h, c = LSTM <hidden_size = 4> (x, w, r) z = Relu(y) }"""
    )
    model.graph.remove_dead()
    assert [n.op for n in model.graph.nodes] == ["LSTM"]
    assert [t.name for t in model.graph.nodes[0].outputs] == ["y", "h", "c"]


def test_weights_are_read_only_and_replaced(parse):
    graph = parse(CHAIN).graph
    weight = graph.nodes[0].inputs[1]
    with pytest.raises(ValueError, match="read-only"):
        weight.values[0] = 5
    graph.set_weight(weight, np.arange(4, dtype=np.float32))
    assert constant_value(weight).tolist() == [0, 1, 2, 3]


def test_set_weight_of_a_constant_node(parse):
    model = parse(HEADER + "g (float[2] x) => (float[2] y) { w = Constant <value = float[2] {1, 2}> () y = Mul(x, w) }")
    weight = model.graph.nodes[1].inputs[1]
    assert constant_value(weight).tolist() == [1, 2]
    model.graph.set_weight(weight, np.array([3, 4], np.float32))
    assert constant_value(weight).tolist() == [3, 4]
    onnx.checker.check_model(model.to_proto(), full_check=True)


def test_set_weight_of_a_computed_value_is_refused(parse):
    graph = parse(CHAIN).graph
    with pytest.raises(GraphoptError, match="'y' is not a constant"):
        graph.set_weight(graph.outputs[0], np.zeros(4, np.float32))


def test_nodes_made_with_graphsurgeon_are_adopted(parse):
    model = parse(CHAIN)
    graph = model.graph
    out = gs.Variable("mine", np.float32, ["N", 4])
    graph.nodes.append(
        gs.Node("Mul", inputs=[graph.outputs[0], gs.Constant("k", np.ones(4, np.float32))], outputs=[out])
    )
    graph.outputs = [out]
    graph.adopt()
    verify(graph)
    assert isinstance(graph.nodes[-1].inputs[1], Constant)
    onnx.checker.check_model(model.to_proto(), full_check=True)


def test_a_constant_used_in_two_branches_lives_around_both(parse):
    model = parse(BRANCH)
    shared = Constant("shared", np.ones(4, np.float32))
    for sub in [g for g in model.graph.graphs() if g is not model.graph]:
        node = sub.nodes[0]
        extra = sub.add_node("Mul", [node.inputs[0], shared])
        node.inputs[0] = extra.outputs[0]
        sub.sort()
    model.graph.adopt()
    verify(model.graph)
    assert [c.name for c in model.graph.initializers] == ["shared"]
    assert text(model).count("shared") == 3


def test_unsafe_graphsurgeon_operations_name_their_replacement(parse):
    graph = parse(CHAIN).graph
    with pytest.raises(UsageError, match="cleanup pass"):
        graph.fold_constants()
    with pytest.raises(UsageError, match=r"Model\.clone"):
        graph.copy()


def test_rename_to_a_taken_name_is_refused(parse):
    graph = parse(CHAIN).graph
    with pytest.raises(GraphoptError, match="'w' is taken"):
        graph.rename(graph.inputs[0], "w")


def test_setting_the_opset_changes_the_export(parse):
    model = parse(CHAIN)
    model.graph.opset = 21
    assert {o.domain: o.version for o in model.to_proto().opset_import} == {"": 21}


def test_graphs_made_with_graphsurgeon_are_adopted(parse):
    model = parse(HEADER + "g (float[2] x, bool c) => (float[2] y) { y = Relu(x) }")
    graph = model.graph
    x, c = graph.inputs
    branches = {}
    for name, op in (("then_branch", "Neg"), ("else_branch", "Abs")):
        out = gs.Variable(f"{op}_out", np.float32, [2])
        branches[name] = gs.Graph([gs.Node(op, inputs=[x], outputs=[out])], outputs=[out])
    node = gs.Node("If", attrs=branches, inputs=[c], outputs=[gs.Variable("z", np.float32, [2])])
    graph.nodes.append(node)
    graph.outputs.append(node.outputs[0])
    graph.adopt()
    graph.sort()
    verify(graph)
    onnx.checker.check_model(model.to_proto())


def test_a_constant_node_may_hold_a_plain_array(parse):
    graph = parse(CHAIN).graph
    made = graph.add_node("Constant", [], attrs={"value": np.ones(3, np.float32)})
    value = constant_value(made.outputs[0])
    assert value is not None
    assert value.tolist() == [1, 1, 1]
    assert not value.flags.writeable


def test_a_quantization_annotation_follows_a_renamed_tensor(parse):
    model = parse(HEADER + "g (float[2] x) => (float[2] y) { t = Relu(x) y = Neg(t) }")
    graph = model.graph
    note = onnx.TensorAnnotation(tensor_name="t")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="x")
    graph.quantization_annotation = [note]
    graph.rename(graph.tensors()["t"], "hidden")
    graph.rename(graph.tensors()["x"], "pixels")
    [kept] = graph.quantization_annotation
    assert (kept.tensor_name, kept.quant_parameter_tensor_names[0].value) == ("hidden", "pixels")
    assert note.tensor_name == "t"
