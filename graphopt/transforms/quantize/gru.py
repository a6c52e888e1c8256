"""A GRU as products around a Scan, so that its products can run on integers; no runtime has an integer GRU.

The inputs of all steps are multiplied at once, in front; the Scan's body multiplies the hidden state and mixes the
gates. Equations and order of the gates (z, r, h) are those of ONNX's GRU.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from graphopt.graph import Graph
from graphopt.ir import Array, Node, Tensor, Variable, constant_value

BODY_NODES = 14
"""About how many nodes the body of the Scan runs in a step, besides the product."""

_DEFAULTS = [b"Sigmoid", b"Tanh"]


def problem(node: Node) -> str:
    """Why a GRU cannot be written so, in words; "" when it can."""
    attrs = node.attrs
    given = [t if isinstance(t, bytes) else str(t).encode() for t in attrs.get("activations", [])]
    if given and given != _DEFAULTS * (len(given) // 2):
        return "its activations are not Sigmoid and Tanh"
    if attrs.get("layout", 0) or "clip" in attrs:
        return "the integer form has neither layout=1 nor clip"
    if len(node.inputs) > 4 and not node.inputs[4].is_empty():
        return "the integer form takes no sequence lengths"
    for place in (2, 3):
        if place < len(node.inputs) and not node.inputs[place].is_empty():
            value = constant_value(node.inputs[place])
            if value is None or value.dtype != np.float32 or not np.isfinite(value).all():
                return f"weight {node.inputs[place].name!r} is not constant, finite float32"
    return ""


def scan_gru(graph: Graph, node: Node) -> list[tuple[Graph, Node]]:
    """Put the other form in the place of a GRU; the MatMuls made, each with its graph."""
    made = _Maker(graph, node)
    both = len(made.weight) == 2
    backwards = [False, True] if both else ["reverse" in str(node.attrs.get("direction", ""))]
    ends = [made.direction(place, back) for place, back in enumerate(backwards)]
    outputs = list(node.outputs)
    node.outputs.clear()
    for place, axis in ((0, 1), (1, 0)):
        if place < len(outputs) and not outputs[place].is_empty():
            parts = [made.unsqueezed(end[place], axis) for end in ends]
            graph.add_node("Concat", parts, [outputs[place]], {"axis": axis}, f"{made.label}_joined", before=node)
    graph.remove_nodes([node])
    return made.products


@dataclass
class _Maker:
    graph: Graph
    node: Node
    products: list[tuple[Graph, Node]] = field(default_factory=list)

    def __post_init__(self) -> None:
        values = [constant_value(t) if not t.is_empty() else None for t in self.node.inputs[:4]]
        assert values[1] is not None
        assert values[2] is not None
        self.weight, self.recurrence = values[1], values[2]
        self.hidden = int(self.recurrence.shape[2])
        shape = (len(self.weight), 6 * self.hidden)
        self.bias = values[3] if len(values) > 3 and values[3] is not None else np.zeros(shape, np.float32)
        self.label = self.node.name or "GRU"

    def direction(self, index: int, backwards: bool) -> tuple[Tensor, Tensor]:
        """All hidden states [steps, batch, hidden] and the last one [batch, hidden] of one direction."""
        label, gates = f"{self.label}_{'reverse' if backwards else 'forward'}", 3 * self.hidden
        product = self._product(self.graph, self.node.inputs[0], self.weight[index], label, self.node)
        bias = self.graph.new_constant(f"{label}_bias", self.bias[index, :gates])
        inputs = self.graph.add_node("Add", [product, bias], name=f"{label}_biased", before=self.node).outputs[0]
        body = self._body(label, self.recurrence[index], self.bias[index, gates:])
        attrs = {
            "body": body,
            "num_scan_inputs": 1,
            "scan_input_directions": [int(backwards)],
            "scan_output_directions": [int(backwards)],
        }
        start = self._start(index, label)
        scan = self.graph.add_node("Scan", [start, inputs], 2, attrs, f"{label}_scan", before=self.node)
        return scan.outputs[1], scan.outputs[0]

    def unsqueezed(self, tensor: Tensor, axis: int) -> Tensor:
        """With an axis of 1."""
        old = self.graph.opset < 13
        more = [] if old else [self.graph.new_constant(f"{self.label}_axis", np.array([axis], np.int64))]
        attrs = {"axes": [axis]} if old else {}
        name = f"{self.label}_unsqueezed"
        return self.graph.add_node("Unsqueeze", [tensor, *more], attrs=attrs, name=name, before=self.node).outputs[0]

    def _product(self, graph: Graph, source: Tensor, rows: Array, label: str, before: Node | None) -> Tensor:
        weight = graph.new_constant(f"{label}_weight", np.ascontiguousarray(rows.T))
        node = graph.add_node("MatMul", [source, weight], name=f"{label}_product", before=before)
        self.products.append((graph, node))
        return node.outputs[0]

    def _start(self, index: int, label: str) -> Tensor:
        """The first hidden state [batch, hidden]: as given, or zeros for the batch of the input."""
        graph, inputs = self.graph, self.node.inputs

        def add(op: str, given: list[Tensor], **attrs: int) -> Tensor:
            return graph.add_node(op, given, attrs=attrs, name=f"{label}_start", before=self.node).outputs[0]

        if len(inputs) > 5 and not inputs[5].is_empty():
            place = graph.new_constant(f"{label}_index", np.array(index, np.int64))
            return add("Gather", [inputs[5], place], axis=0)
        one = graph.new_constant(f"{label}_one", np.array([1], np.int64))
        width = graph.new_constant(f"{label}_width", np.array([self.hidden], np.int64))
        batch = add("Gather", [add("Shape", [inputs[0]]), one], axis=0)
        return add("ConstantOfShape", [add("Concat", [batch, width], axis=0)])

    def _body(self, label: str, rows: Array, bias: Array) -> Graph:
        """One step: the state and the product of its input, to the new state, twice."""
        kind, hidden = np.dtype(np.float32), self.hidden
        body = Graph(name=f"{label}_body")
        body.opsets = self.graph.opsets
        body.share_names(self.graph.name_table(), self.graph._ids)
        state = body.new_variable(f"{label}_state", kind, [None, hidden])
        given = body.new_variable(f"{label}_input", kind, [None, 3 * hidden])
        body.inputs = [state, given]

        def add(op: str, *inputs: Tensor) -> Tensor:
            return body.add_node(op, inputs, name=f"{label}_{op}").outputs[0]

        def gates(tensor: Tensor, parts: int) -> list[Tensor]:
            attrs = {"axis": 1} | ({"num_outputs": parts} if body.opset >= 18 else {})
            return list(body.add_node("Split", [tensor], parts, attrs, f"{label}_gates").outputs)

        z_in, r_in, h_in = gates(given, 3)
        if self.node.attrs.get("linear_before_reset", 0):
            product = self._product(body, state, rows, f"{label}_hidden", None)
            z_own, r_own, h_own = gates(add("Add", product, body.new_constant(f"{label}_hidden_bias", bias)), 3)
            update, reset = add("Sigmoid", add("Add", z_in, z_own)), add("Sigmoid", add("Add", r_in, r_own))
            candidate = add("Tanh", add("Add", h_in, add("Mul", reset, h_own)))
        else:
            both, last = 2 * hidden, bias[2 * hidden :]
            product = self._product(body, state, rows[:both], f"{label}_gates", None)
            own = add("Add", product, body.new_constant(f"{label}_gates_bias", bias[:both]))
            z_own, r_own = gates(own, 2)
            update, reset = add("Sigmoid", add("Add", z_in, z_own)), add("Sigmoid", add("Add", r_in, r_own))
            product = self._product(body, add("Mul", reset, state), rows[both:], f"{label}_candidate", None)
            own = add("Add", product, body.new_constant(f"{label}_candidate_bias", last))
            candidate = add("Tanh", add("Add", h_in, own))
        following = add("Add", candidate, add("Mul", update, add("Sub", state, candidate)))
        body.outputs = [following, add("Identity", following)]
        for tensor in body.outputs:
            assert isinstance(tensor, Variable)
            tensor.dtype, tensor.shape = kind, [None, hidden]
        return body
