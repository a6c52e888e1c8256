"""Rollback puts back the same bytes, whatever was done in between."""

from __future__ import annotations

import numpy as np
from texts import BRANCH, CHAIN, HEADER

from graphopt import snapshot
from graphopt.verifier import verify


def test_restore_undoes_every_kind_of_edit(parse):
    model = parse(CHAIN)
    before = model.serialize()
    saved = snapshot.take(model.graph)
    graph = model.graph
    graph.set_weight(graph.nodes[0].inputs[1], np.zeros(4, np.float32))
    graph.nodes[1].attrs["alpha"] = 1.0
    graph.nodes[1].op = "LeakyRelu"
    graph.add_node("Neg", [graph.inputs[0]])
    graph.replace_uses(graph.outputs[0], graph.inputs[0])
    graph.remove_dead()
    graph.opset = 21
    snapshot.restore(graph, saved)
    verify(graph)
    assert model.serialize() == before


def test_restore_undoes_edits_in_branches_and_class_changes(parse):
    model = parse(BRANCH)
    before = model.serialize()
    saved = snapshot.take(model.graph)
    inner = next(g for g in model.graph.graphs() if g is not model.graph)
    inner.nodes[0].op = "Sigmoid"
    model.graph.nodes[0].outputs[0].to_constant(np.ones(4, np.float32))
    snapshot.restore(model.graph, saved)
    verify(model.graph)
    assert model.serialize() == before


def test_weights_are_shared_not_copied(parse):
    model = parse(CHAIN)
    weight = model.graph.nodes[0].inputs[1]
    array = weight.values
    saved = snapshot.take(model.graph)
    snapshot.restore(model.graph, saved)
    assert weight.values is array


def test_restore_undoes_a_new_value_of_a_tensor_attribute(parse):
    model = parse(HEADER + "g (float[2] x) => (float[2] y) { c = Constant <value = float[2] {1, 2}> () y = Add(x, c) }")
    before = model.serialize()
    saved = snapshot.take(model.graph)
    model.graph.nodes[0].attrs["value"].values = np.zeros(2, np.float32)
    snapshot.restore(model.graph, saved)
    assert model.serialize() == before
