"""Turns uint8 and asymmetric quantization into symmetric int8: exactly where the zero point is 128, else lossy.

Integer tensors form regions: from a QuantizeLinear (or a constant) through operators that only move values to the
DequantizeLinear nodes that read them. A region changes as a whole or not at all.

A range that starts at 0 also cuts off what is negative; exporters leave out the Relu in front of it. The symmetric
range does not, so the Relu is put back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from graphopt.graph import Graph
from graphopt.ir import Array, Node, Tensor, Variable, constant_value, is_constant
from graphopt.targets.checks.base import DEQUANTIZE, QUANTIZE, Quantizer, read_quantizer

if TYPE_CHECKING:
    from graphopt.transforms.legalize.fixes import Job

_MOVERS = {
    "MaxPool": 1,
    "Reshape": 1,
    "Transpose": 1,
    "Flatten": 1,
    "Squeeze": 1,
    "Unsqueeze": 1,
    "Slice": 1,
    "Split": 1,
    "Gather": 1,
    "Expand": 1,
    "Tile": 1,
    "Identity": 1,
    "DepthToSpace": 1,
    "SpaceToDepth": 1,
    "Concat": None,
}
"""Operators that move values, and how many of their inputs are data (None: all)."""
_NONNEGATIVE = frozenset(
    {"Relu", "Sigmoid", "Softmax", "Abs", "Exp", "HardSigmoid", "Softplus", "Sqrt", "ReduceL1", "ReduceL2", "Shape"}
)
_KEEPS_SIGN = {
    **_MOVERS,
    "AveragePool": 1,
    "GlobalAveragePool": 1,
    "GlobalMaxPool": 1,
    "Add": 2,
    QUANTIZE: 1,
    DEQUANTIZE: 1,
}
_DEPTH = 12
_SHIFT = 128
_TOP = 127


@dataclass
class Region:
    """Integer tensors that must have one type. ``why_not`` says what keeps it as it is; "" when nothing does."""

    tensors: list[Tensor] = field(default_factory=list)
    quantizers: list[Quantizer] = field(default_factory=list)
    why_not: str = ""

    @property
    def type(self) -> np.dtype[np.generic] | None:
        """The type of its integers."""
        return next((q.type for q in self.quantizers if q.type is not None), None)


def make_signed(job: Job) -> None:
    """Make every uint8 or asymmetric Q/DQ region symmetric int8. See the module for what is exact."""
    for graph in job.graphs():
        seen: set[int] = set()
        for node in list(graph.nodes):
            if node.op not in (QUANTIZE, DEQUANTIZE) or node.domain:
                continue
            start = node.outputs[0] if node.op == QUANTIZE else node.inputs[0]
            if id(start) not in seen and not is_constant(start):
                region = _region(graph, start)
                seen.update(id(t) for t in region.tensors)
                _activation(job, graph, region)
        for node in list(graph.nodes):
            if node.op == DEQUANTIZE and not node.domain and is_constant(node.inputs[0]):
                _weight(job, graph, read_quantizer(node))


def _region(graph: Graph, start: Tensor) -> Region:
    """All integer tensors that are tied to ``start``, with the Q and DQ at their ends."""
    region = Region()
    stack, seen = [start], set[int]()
    ends = {id(t) for g in graph.graphs() for t in (*g.inputs, *g.outputs)}
    known: set[int] = set()
    while stack:
        tensor = stack.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        region.tensors.append(tensor)
        if id(tensor) in ends or not tensor.inputs:
            region.why_not = f"integer tensor {tensor.name!r} is an input, output or constant of the graph"
        for node in (*tensor.inputs, *tensor.outputs):
            if id(node) in known:
                continue
            known.add(id(node))
            if node.op in (QUANTIZE, DEQUANTIZE) and not node.domain:
                region.quantizers.append(read_quantizer(node))
            elif node.op in _MOVERS and not node.domain:
                stack.extend((*node.inputs[: _MOVERS[node.op]], *node.outputs))
            else:
                region.why_not = f"{node.op} {node.name!r} computes on its integers"
    return region


def _activation(job: Job, graph: Graph, region: Region) -> None:
    wrong = [q for q in region.quantizers if _is_wrong(q)]
    if not wrong:
        return
    where = wrong[0].node
    if region.why_not:
        job.listener.skipped(where, f"stays {region.type}: {region.why_not}")
        return
    if any(q.scale is None or q.zero is None for q in region.quantizers):
        job.listener.skipped(where, "its scale or zero point is computed at run time")
        return
    if region.type == np.uint8 and all(np.all(q.zero == _SHIFT) for q in region.quantizers):
        if job.do(where, "uint8-to-int8", "uint8 with zero point 128 is int8 with 0 now; all values are the same"):
            for q in region.quantizers:
                assert q.zero is not None
                _set_params(graph, q, None, np.zeros(q.zero.shape, np.int8))
            _retype(region)
        return
    _symmetric(job, graph, region, where)


def _is_wrong(q: Quantizer) -> bool:
    return q.type == np.uint8 or (q.type == np.int8 and q.zero is not None and bool(np.any(q.zero)))


def _symmetric(job: Job, graph: Graph, region: Region, where: Node) -> None:
    """Widen the range to a symmetric one; the whole region gets one new scale."""
    first = region.quantizers[0]
    same = all(
        q.type == first.type and np.array_equal(q.scale, first.scale) and np.array_equal(q.zero, first.zero)
        for q in region.quantizers
        if q.scale is not None and q.zero is not None and first.scale is not None and first.zero is not None
    )
    if not same or not first.per_tensor:
        job.listener.skipped(where, "its Q and DQ differ in scale or zero point, or have one for each channel")
        return
    if not job.symmetric:
        job.listener.skipped(where, "asymmetric; symmetric=no leaves it (a symmetric range has a coarser step)")
        return
    assert first.scale is not None
    assert first.zero is not None
    scale, factor = _symmetric_scale(first.scale, first.zero, first.type == np.uint8)
    message = f"asymmetric {first.type} is symmetric int8 now; its step is {factor:.2f} times as large"
    if job.do(where, "symmetric-range", message):
        for q in region.quantizers:
            assert q.zero is not None
            if q.node.op == QUANTIZE:
                _keep_clipping(job, graph, q)
            _set_params(graph, q, scale, np.zeros(q.zero.shape, np.int8))
        _retype(region)


def _keep_clipping(job: Job, graph: Graph, q: Quantizer) -> None:
    """Put a Relu (or a Clip at 0) in front of a Q whose range has one sign only, unless its input has that sign."""
    assert q.zero is not None
    low, high = (0, 255) if q.type == np.uint8 else (-128, 127)
    zero, source = int(q.zero.reshape(-1)[0]), q.node.inputs[0]
    if zero == low and not nonnegative(source):
        made = graph.add_node("Relu", [source], name=f"{q.node.name}_Relu")
    elif zero == high:
        kind = np.float32 if q.scale is None else q.scale.dtype
        made = graph.add_node("Clip", [source, None, graph.new_constant(f"{q.node.name}_max", np.zeros((), kind))])
    else:
        return
    if isinstance(source, Variable):
        result = made.outputs[0]
        assert isinstance(result, Variable)
        result.dtype, result.shape = source.dtype, source.shape
    q.node.inputs[0] = made.outputs[0]
    job.listener.did(q.node, f"a {made.op} is in front of it now; its one-sided range did the same")


def nonnegative(tensor: Tensor, depth: int = _DEPTH) -> bool:
    """Whether no value of a tensor can be below 0, as far as a few operators back tell. NaN counts as fine."""
    value = constant_value(tensor)
    if value is not None:
        return bool(np.all(value >= 0))
    if not tensor.inputs or not depth:
        return False
    node = tensor.inputs[0]
    if node.domain:
        return False
    if node.op in _NONNEGATIVE:
        return True
    if node.op == "Clip":
        low = constant_value(node.inputs[1]) if len(node.inputs) > 1 and not node.inputs[1].is_empty() else None
        return low is not None and bool(np.all(low >= 0))
    return node.op in _KEEPS_SIGN and all(nonnegative(t, depth - 1) for t in node.inputs[: _KEEPS_SIGN[node.op]])


def _symmetric_scale(scale: Array, zero: Array, unsigned: bool) -> tuple[Array, float]:
    """The scale whose symmetric int8 range covers the old range, and how much coarser it is."""
    low, high = (0, 255) if unsigned else (-128, 127)
    value = int(zero.reshape(-1)[0])
    factor = max(value - low, high - value) / _TOP
    return (scale.astype(np.float64) * factor).astype(scale.dtype), factor


def _set_params(graph: Graph, q: Quantizer, scale: Array | None, zero: Array) -> None:
    node = q.node
    if scale is not None:
        node.inputs[1] = graph.new_constant(f"{node.inputs[1].name}_symmetric", scale)
    node.inputs[2] = graph.new_constant(f"{node.inputs[2].name}_int8", zero)
    node.attrs.pop("output_dtype", None)


def set_zero_point(node: Node, zero: Tensor) -> None:
    """Give a Q or DQ node another zero point, or its first."""
    if len(node.inputs) > 2:
        node.inputs[2] = zero
    else:
        node.inputs.append(zero)


def _retype(region: Region) -> None:
    for tensor in region.tensors:
        if isinstance(tensor, Variable) and tensor.dtype is not None:
            tensor.dtype = np.dtype(np.int8)


def _weight(job: Job, graph: Graph, q: Quantizer) -> None:
    """A constant behind a DequantizeLinear: uint8 or with zero points that are not 0."""
    data = constant_value(q.node.inputs[0])
    if data is None or data.dtype not in (np.uint8, np.int8) or q.scale is None or q.block_size:
        return
    zero = np.zeros(q.scale.shape, data.dtype) if q.zero is None else q.zero
    if data.dtype == np.int8 and not np.any(zero):
        return
    if data.dtype == np.uint8 and np.all(zero == _SHIFT):
        stored, scale = (data.astype(np.int16) - _SHIFT).astype(np.int8), None
        done = job.do(q.node, "uint8-weight", "uint8 weights with zero point 128 are int8 now; all values are the same")
    else:
        if not job.symmetric:
            job.listener.skipped(q.node, "asymmetric weights; symmetric=no leaves them")
            return
        stored, scale = _symmetric_weight(data, zero, q)
        done = job.do(q.node, "symmetric-weight", "asymmetric weights are symmetric int8 now, rounded again")
    if done:
        q.node.inputs[0] = graph.new_constant(f"{q.node.inputs[0].name}_int8", stored)
        new_zero = graph.new_constant(f"{q.node.name}_zero_point_int8", np.zeros(zero.shape, np.int8))
        set_zero_point(q.node, new_zero)
        if scale is not None:
            q.node.inputs[1] = graph.new_constant(f"{q.node.inputs[1].name}_symmetric", scale)


def _symmetric_weight(data: Array, zero: Array, q: Quantizer) -> tuple[Array, Array]:
    """Weights rounded to the symmetric int8 grid that covers their own values, by channel where the scale is."""
    assert q.scale is not None
    shape: Sequence[int] = [-1 if a == q.axis % data.ndim else 1 for a in range(data.ndim)] if q.scale.size > 1 else ()
    steps = q.scale.reshape(shape).astype(np.float64) if shape else float(q.scale.reshape(-1)[0])
    offset = zero.reshape(shape).astype(np.int64) if shape else int(zero.reshape(-1)[0])
    value = (data.astype(np.int64) - offset) * steps
    axes = tuple(a for a in range(data.ndim) if not shape or a != q.axis % data.ndim)
    largest = np.abs(value).max(axis=axes, keepdims=True) / _TOP
    scale = np.where(largest > 0, largest, np.max(np.asarray(steps)))
    stored = np.clip(np.rint(value / scale), -_TOP, _TOP).astype(np.int8)
    return stored, scale.reshape(q.scale.shape).astype(q.scale.dtype)
