"""Cuts a graph into units: an operator that a target may run on integers, with the bias and activation it absorbs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from graphopt.graph import Graph
from graphopt.ir import Array, Node, Tensor, Variable, constant_value, is_constant
from graphopt.targets.base import OpRule, Target
from graphopt.transforms.quantize.probe import Probe

QUANTIZED_OPS = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"}
)


@dataclass(eq=False)
class Unit:
    """Nodes that run as one integer kernel, or stay in float together.

    Attributes:
        node: the operator that has the rule.
        chain: the bias Add and the activation after it, if any.
        operands: (position, tensor) of the float inputs that get Q/DQ; constants included.
        bias_add: the Add of ``chain`` that holds the bias of a MatMul, and the position of the bias in it.
        why_float: why it cannot become an integer kernel; "" when it can.
    """

    node: Node
    rule: OpRule
    operands: list[tuple[int, Tensor]]
    chain: list[Node] = field(default_factory=list)
    bias_add: tuple[Node, int] | None = None
    why_float: str = ""

    @property
    def output(self) -> Tensor:
        """What the last node of the unit produces."""
        return (self.chain[-1] if self.chain else self.node).outputs[0]

    @property
    def outputs(self) -> list[Tensor]:
        """All outputs (a Split has several)."""
        return [t for t in (self.chain[-1] if self.chain else self.node).outputs if not t.is_empty()]

    @property
    def variables(self) -> list[Tensor]:
        """Operands that are computed."""
        return [t for _, t in self.operands if not is_constant(t)]

    @property
    def weight(self) -> Tensor | None:
        """The constant weight, or None."""
        position = self.rule.weight
        if position is None or position >= len(self.node.inputs):
            return None
        tensor = self.node.inputs[position]
        return tensor if is_constant(tensor) else None

    @property
    def weight_shape(self) -> tuple[int, ...] | None:
        """Shape of the constant weight, also where a Constant node holds it."""
        value = None if self.weight is None else constant_value(self.weight)
        return None if value is None else tuple(value.shape)

    @property
    def bias(self) -> Tensor | None:
        """The constant bias, an input of the node or of the Add behind it; None when there is none."""
        if self.bias_add is not None:
            return self.bias_add[0].inputs[self.bias_add[1]]
        position = self.rule.bias
        if position is None or position >= len(self.node.inputs) or self.node.inputs[position].is_empty():
            return None
        return self.node.inputs[position]

    @property
    def label(self) -> str:
        """Name for messages."""
        return self.node.name or f"{self.node.op} that makes {self.output.name!r}"

    def weight_axis(self) -> int | None:
        """The weight's axis of output channels, or None where only one scale fits."""
        shape = self.weight_shape
        if shape is None:
            return None
        rank = len(shape)
        match self.rule.axis:
            case "first":
                return 0
            case "last":
                return rank - 1 if rank == 2 else None
            case "gemm":
                return 0 if self.node.attrs.get("transB", 0) else 1
            case "transposed":
                return 1 if self.node.attrs.get("group", 1) == 1 else None


def find_units(graph: Graph, target: Target, probes: Mapping[str, Probe]) -> list[Unit]:
    """Units of the main graph, in its order. ``probes`` names the float32 tensors and their extremes."""
    ends = _ends(graph)
    members = {id(n) for n in graph.nodes}
    return [
        unit
        for node in graph.nodes
        if not node.domain and (rule := target.rule(node.op)) is not None
        if (unit := _unit(node, rule, target, probes, ends, members)) is not None
    ]


def _ends(graph: Graph) -> set[int]:
    """Ids of tensors that are outputs of the graph or of nested ones."""
    return {id(t) for g in graph.graphs() for t in g.outputs}


def _unit(
    node: Node, rule: OpRule, target: Target, probes: Mapping[str, Probe], ends: set[int], members: set[int]
) -> Unit | None:
    positions = rule.inputs or tuple(range(len(node.inputs)))
    operands = [(i, node.inputs[i]) for i in positions if i < len(node.inputs) and not node.inputs[i].is_empty()]
    if all(is_constant(t) for _, t in operands) or not any(t.name in probes for _, t in operands):
        return None
    unit = Unit(node, rule, operands)
    _absorb(unit, target, ends, members)
    unit.why_float = _why_float(unit, target, probes)
    return unit


def _absorb(unit: Unit, target: Target, ends: set[int], members: set[int]) -> None:
    follower = _only_consumer(unit.output, ends, members)
    if follower is not None and unit.node.op == "MatMul" and unit.weight is not None:
        position = _bias_position(follower, unit)
        if position is not None:
            unit.chain.append(follower)
            unit.bias_add = (follower, position)
            follower = _only_consumer(unit.output, ends, members)
    if follower is None or unit.rule.kind not in ("compute", "pointwise") or follower.domain:
        return
    if follower.op in target.absorbs and all(t.is_empty() or is_constant(t) for t in follower.inputs[1:]):
        unit.chain.append(follower)


def _only_consumer(tensor: Tensor, ends: set[int], members: set[int]) -> Node | None:
    if id(tensor) in ends or len(tensor.outputs) != 1 or id(tensor.outputs[0]) not in members:
        return None
    return tensor.outputs[0]


def _bias_position(node: Node, unit: Unit) -> int | None:
    """Where an Add holds a bias for the channels of a MatMul's weight."""
    shape = unit.weight_shape
    if not node.is_op("Add") or shape is None or len(shape) != 2:
        return None
    for index, tensor in enumerate(node.inputs):
        value = constant_value(tensor)
        if value is not None and value.ndim and value.size == shape[1] == value.shape[-1] and value.dtype == "float32":
            return index
    return None


def _why_float(unit: Unit, target: Target, probes: Mapping[str, Probe]) -> str:
    node, rule = unit.node, unit.rule
    for _, tensor in unit.operands:
        if (why := _operand_problem(tensor, probes)) != "":
            return why
    for tensor in unit.outputs:
        known = probes.get(tensor.name)
        if known is None:
            return f"the type of {tensor.name!r} is not float32 or not known"
        if known.masked:
            return f"{tensor.name!r} holds values of an attention mask"
        if known.elements == 0:
            return f"{tensor.name!r} is empty on the calibration data"
    for name, allowed in rule.attrs.items():
        value = node.attrs.get(name, allowed[0])
        if (value.decode() if isinstance(value, bytes) else value) not in allowed:
            return f"the kernel needs {name}={allowed[0]}"
    if rule.kind == "compute":
        return _weight_problem(unit)
    if rule.kind in ("unary", "mover") and any(is_constant(t) for _, t in unit.operands):
        return "its operand is constant"
    if rule.kind == "join" and any(is_constant(t) for _, t in unit.operands):
        return "one of the tensors it joins is constant"
    return ""


def _operand_problem(tensor: Tensor, probes: Mapping[str, Probe]) -> str:
    value = constant_value(tensor)
    if value is not None:
        if value.dtype != "float32":
            return f"{tensor.name!r} is {value.dtype}, not float32"
        return f"{tensor.name!r} holds values of an attention mask" if _is_mask(value) else ""
    known = probes.get(tensor.name)
    if known is None:
        return f"the type of {tensor.name!r} is not float32 or not known"
    if known.masked:
        return f"{tensor.name!r} holds values of an attention mask"
    if isinstance(tensor, Variable) and any(n.op in QUANTIZED_OPS for n in (*tensor.inputs, *tensor.outputs)):
        return f"{tensor.name!r} is already quantized"
    return "" if known.elements else f"{tensor.name!r} is empty on the calibration data"


def _weight_problem(unit: Unit) -> str:
    node, rule = unit.node, unit.rule
    weight = unit.weight
    if weight is None:
        if rule.constant_weight:
            return "its weight is computed"
        if any(is_constant(t) for _, t in unit.operands):
            return "its first operand is constant"
        return ""
    value = constant_value(weight)
    if value is None or value.dtype != "float32":
        return f"weight {weight.name!r} is not float32"
    if not math.isfinite(float(value.sum())):
        return f"weight {weight.name!r} holds NaN or infinite values"
    if rule.op == "MatMul" and (value.ndim < 2 or is_constant(node.inputs[0])):
        return "the kernel needs a computed matrix and a constant one"
    bias = unit.bias
    if bias is not None and constant_value(bias) is None:
        return "its bias is computed"
    return ""


def _is_mask(value: Array) -> bool:
    return bool(value.size) and not float(abs(value).max()) < 1e4


def consumers_by_tensor(units: Iterable[Unit]) -> dict[int, list[tuple[Unit, int]]]:
    """Id of each computed operand to the units that read it and where."""
    found: dict[int, list[tuple[Unit, int]]] = {}
    for unit in units:
        for position, tensor in unit.operands:
            if not is_constant(tensor):
                found.setdefault(id(tensor), []).append((unit, position))
    return found
