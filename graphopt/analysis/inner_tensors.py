"""Tensors inside Loop, Scan and If made outputs of their nodes, so that a runtime shows them.

A tensor of a Loop or Scan body becomes one more scan output: its values of all iterations, stacked. One of a branch of
an If becomes one more output of both branches; the other one gives an empty tensor.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import onnx

from graphopt.graph import Graph
from graphopt.ir import Node, Tensor, Variable
from graphopt.model import Model

_HOLDERS: Mapping[str, int] = MappingProxyType({"Loop": 1, "Scan": 0, "If": 0})
"""How many outputs a body has more than its node."""
_SKIPPED = frozenset({0, int(onnx.TensorProto.STRING)})


@dataclass(frozen=True)
class Inner:
    """A tensor inside a node: the node of the body that computes it, and its operator. ``stacked``: the values of all
    iterations lie along a new first axis."""

    node: str
    op: str
    stacked: bool


def lift_inner(model: Model, wanted: Collection[str] | None = None) -> dict[str, Inner]:
    """Make inner tensors outputs of the nodes of the main graph that hold them, in place; all, or those ``wanted``.

    Gives name -> what computes it. A name is that of the tensor and of the node and attribute that it is inside. Only
    tensors whose type shape inference finds are lifted.
    """
    if not any(node.op in _HOLDERS for node in model.graph.nodes):
        return {}
    proto = onnx.shape_inference.infer_shapes(model.stub_proto()).graph
    lifter = _Lifter(wanted)
    found: dict[str, Inner] = {}
    for node, node_proto in zip(model.graph.nodes, proto.node, strict=True):
        for name, (tensor, inner) in lifter.lift(model.graph, node, node_proto).items():
            if name not in model.graph.tensors():
                model.graph.rename(tensor, name)
                found[name] = inner
    return found


class _Lifter:
    def __init__(self, wanted: Collection[str] | None) -> None:
        self._wanted = wanted

    def lift(self, graph: Graph, node: Node, proto: onnx.NodeProto) -> dict[str, tuple[Variable, Inner]]:
        """Lift what is inside a node of ``graph``; gives the new outputs of the node."""
        if node.op not in _HOLDERS or node.domain:
            return {}
        protos = {a.name: a.g for a in proto.attribute if a.HasField("g")}
        bodies = {name: body for name, body in node.attrs.items() if isinstance(body, Graph)}
        if any(len(b.outputs) != len(node.outputs) + _HOLDERS[node.op] for b in bodies.values()):
            return {}
        made: dict[str, tuple[Variable, Inner]] = {}
        found = [(b, self._of_body(b, protos[attr], f"{_label(node)}.{attr}")) for attr, b in bodies.items()]
        for body, tensors in found:
            for name, (tensor, kind, inner) in tensors.items():
                for other in bodies.values():
                    other.outputs.append(_shown(body, tensor) if other is body else _nothing(other, kind))
                output = graph.new_variable(tensor.name, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)))
                node.outputs.append(output)
                made[name] = output, replace(inner, stacked=node.op != "If" or inner.stacked)
        if made and "scan_output_axes" in node.attrs:
            node.attrs["scan_output_axes"] = [*node.attrs["scan_output_axes"], *([0] * len(made))]
        if made and "scan_output_directions" in node.attrs:
            node.attrs["scan_output_directions"] = [*node.attrs["scan_output_directions"], *([0] * len(made))]
        return made

    def _of_body(self, body: Graph, proto: onnx.GraphProto, inside: str) -> dict[str, tuple[Tensor, int, Inner]]:
        """The tensors of a body by name, with their types; those of nested bodies are lifted into it first."""
        kinds = {v.name: v.type.tensor_type.elem_type for v in (*proto.value_info, *proto.output)}
        found: dict[str, tuple[Tensor, int, Inner]] = {}
        for node, node_proto in zip(list(body.nodes), proto.node, strict=True):
            nested = self.lift(body, node, node_proto)
            for name, (tensor, inner) in nested.items():
                found[name] = tensor, int(onnx.helper.np_dtype_to_tensor_dtype(tensor.dtype)), inner
            own = {id(tensor) for tensor, _ in nested.values()}
            for tensor in node.outputs:
                kind, name = kinds.get(tensor.name, 0), f"{tensor.name} in {inside}"
                asked = self._wanted is None or name in self._wanted
                if node.op != "Constant" and id(tensor) not in own and kind not in _SKIPPED and asked:
                    found[name] = tensor, kind, Inner(_label(node), node.op, False)
        return found


def _label(node: Node) -> str:
    return node.name or next((t.name for t in node.outputs if t.name), node.op)


def _shown(body: Graph, tensor: Tensor) -> Variable:
    """A tensor under a name of its own, so that an output of the body can be shown twice."""
    copy: Variable = body.add_node("Identity", [tensor]).outputs[0]
    return copy


def _nothing(body: Graph, kind: int) -> Variable:
    """An empty tensor of a type."""
    empty = body.new_constant("nothing", np.zeros(0, onnx.helper.tensor_dtype_to_np_dtype(kind)))
    copy: Variable = body.add_node("Identity", [empty]).outputs[0]
    return copy
