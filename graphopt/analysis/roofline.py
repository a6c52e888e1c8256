"""What bounds each layer on a target: arithmetic, memory, or the fixed cost of running a node at all.

The roofline model (Williams, Waterman and Patterson, Communications of the ACM 52(4), 2009) with the peaks of a
target's measured latency profile: the fastest multiply-accumulates of any layer, the bytes that an elementwise Add
moves, and the cost of an empty node. Times are floors that nothing in the profile was faster than, not predictions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphopt.analysis.cost import NodeCost, node_costs
from graphopt.ir import Node, Tensor, is_constant
from graphopt.model import Model
from graphopt.results import Bound, LayerBound
from graphopt.targets.base import Target
from graphopt.targets.profile import Precision, Profile, load_profile

_DEQUANTIZE, _QUANTIZE = "DequantizeLinear", "QuantizeLinear"
_ADD_BYTES = 8
"""Bytes that the profile's Add (of a float32 tensor to itself) reads and writes for each element."""
_INTEGER_OPS = ("QLinear", "QGemm", "MatMulInteger", "ConvInteger")


@dataclass(frozen=True)
class Peaks:
    """Best figures of a target: multiply-accumulates and bytes a microsecond, fixed cost of a node in microseconds.

    ``source`` names the device and runtime that they were measured on.
    """

    macs_us: Mapping[Precision, float]
    bytes_us: float
    node_us: Mapping[Precision, float]
    source: str

    def ridge(self, precision: Precision) -> float:
        """MACs a byte above which arithmetic bounds, not memory."""
        return self.macs_us[precision] / self.bytes_us


def peaks_of(target: Target) -> Peaks | None:
    """The peaks of a target's profile; None for a target that has none."""
    return peaks_from(load_profile(target.profile)) if target.profile else None


def peaks_from(profile: Profile) -> Peaks:
    """The peaks of a latency profile."""

    def best(precision: Precision) -> float:
        return max(rate for name, curve in profile.rates.items() if name.endswith(precision) for _, rate in curve)

    return Peaks(
        {"float32": best("float32"), "int8": best("int8")},
        1e3 * _ADD_BYTES / profile.per_element["Add/float32"],
        {"float32": profile.node_us["float32"], "int8": profile.node_us["int8"]},
        f"{profile.device}, {profile.runtime}",
    )


def layer_bounds(model: Model, peaks: Peaks, dims: Mapping[str, int] | None = None) -> tuple[LayerBound, ...]:
    """What bounds each node of the main graph, in order, for one sample where the batch is free.

    Q and DQ beside an integer layer count as part of it, as runtimes fuse them; its activations then move as bytes.
    Nodes whose shapes are not known are left out.
    """
    nodes = [n for n in model.graph.nodes if not n.is_op("Constant")]
    costs = node_costs(model, dims)
    return tuple(
        _bound(cost, "int8" if _integer(node) else "float32", peaks)
        for node, cost in zip(nodes, costs, strict=True)
        if cost.known and not _fused(node) and (cost.macs or cost.bytes_read + cost.bytes_written)
    )


def _bound(cost: NodeCost, precision: Precision, peaks: Peaks) -> LayerBound:
    moved = cost.bytes_read + cost.bytes_written
    if precision == "int8" and not cost.op.startswith(_INTEGER_OPS):
        moved //= 4
    parts: dict[Bound, float] = {
        "compute": cost.macs / peaks.macs_us[precision],
        "memory": moved / peaks.bytes_us,
        "fixed": peaks.node_us[precision],
    }
    return LayerBound(
        node=cost.node,
        op=cost.op,
        precision=precision,
        macs=cost.macs,
        bytes=moved,
        intensity=cost.macs / moved if moved else 0.0,
        compute_us=parts["compute"],
        memory_us=parts["memory"],
        fixed_us=parts["fixed"],
        bound=max(parts, key=lambda name: parts[name]),
    )


def _integer(node: Node) -> bool:
    if node.op.startswith(_INTEGER_OPS):
        return True
    moving = [t for t in node.inputs[:2] if not t.is_empty() and not is_constant(t)]
    return bool(moving) and all(map(_dequantized, moving)) and any(_moves(t) for t in moving)


def _dequantized(tensor: Tensor) -> bool:
    return bool(tensor.inputs) and tensor.inputs[0].op == _DEQUANTIZE


def _moves(tensor: Tensor) -> bool:
    """Whether a dequantized tensor is an activation."""
    return not is_constant(tensor.inputs[0].inputs[0])


def _fused(node: Node) -> bool:
    """Whether a Q or DQ is part of the integer layer beside it, or of a constant."""
    if node.op == _DEQUANTIZE:
        readers: Sequence[Node] = node.outputs[0].outputs
        return is_constant(node.inputs[0]) or (bool(readers) and all(map(_integer, readers)))
    if node.op == _QUANTIZE:
        return bool(node.inputs[0].inputs) and _takes_over(node.inputs[0].inputs[0])
    return False


def _takes_over(node: Node) -> bool:
    if node.op in ("Relu", "Clip") and node.inputs[0].inputs:
        node = node.inputs[0].inputs[0]
    return _integer(node)
