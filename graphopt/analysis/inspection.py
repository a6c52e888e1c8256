"""A summary of a model: interface, operators, weights and cost."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from graphopt.analysis.cost import NodeCost, node_costs, total_macs, unbound_dims
from graphopt.analysis.parameters import count_parameters
from graphopt.ir import Tensor
from graphopt.model import Model


@dataclass(frozen=True)
class OperatorRow:
    """All nodes of one operator. ``share`` is of the model's MACs."""

    operator: str
    nodes: int
    macs: int
    parameters: int
    share: float


@dataclass(frozen=True)
class Inspection:
    """What ``graphopt inspect`` shows."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opsets: Mapping[str, int]
    ir_version: int
    producer: str
    nodes: int
    parameters: int
    weight_bytes: int
    macs: int | None
    unbound_dims: tuple[str, ...]
    types: Mapping[str, int]
    operators: tuple[OperatorRow, ...]
    heaviest: tuple[NodeCost, ...]
    quantized_nodes: int


def inspect_model(model: Model, dims: Mapping[str, int] | None = None) -> Inspection:
    """Look at a model without running it. Costs are per run, symbolic dims without a value counting as 1."""
    costs = node_costs(model, dims)
    weights = [c for g in model.graph.graphs() for c in g.initializers]
    nodes = [n for n in model.graph.walk() if not n.is_op("Constant")]
    types: Counter[str] = Counter()
    for constant in weights:
        types[str(constant.dtype)] += prod(constant.shape)
    return Inspection(
        inputs=tuple(map(_interface, model.graph.inputs)),
        outputs=tuple(map(_interface, model.graph.outputs)),
        opsets={k or "ai.onnx": v for k, v in model.opsets.items()},
        ir_version=model.ir_version,
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        nodes=len(nodes),
        parameters=count_parameters(model.graph),
        weight_bytes=model.weight_bytes(),
        macs=total_macs(model, dims),
        unbound_dims=tuple(unbound_dims(model, dims)),
        types=dict(types),
        operators=_operators(costs),
        heaviest=tuple(sorted(costs, key=lambda c: -c.macs)[:10]),
        quantized_nodes=sum(n.op in ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear") for n in nodes),
    )


def _interface(tensor: Tensor) -> str:
    shape = "[...]" if tensor.shape is None else str(["?" if d is None else d for d in tensor.shape])
    return f"{tensor.name}: {tensor.dtype}{shape}"


def _operators(costs: tuple[NodeCost, ...]) -> tuple[OperatorRow, ...]:
    groups: dict[str, list[NodeCost]] = defaultdict(list)
    for cost in costs:
        groups[cost.op].append(cost)
    whole = sum(c.macs for c in costs) or 1
    rows = [
        OperatorRow(op, len(group), sum(c.macs for c in group), sum(c.parameters for c in group), _macs(group) / whole)
        for op, group in groups.items()
    ]
    return tuple(sorted(rows, key=lambda r: (-r.macs, -r.nodes, r.operator)))


def _macs(costs: list[NodeCost]) -> int:
    return sum(c.macs for c in costs)
