"""What a check rule is, and the view of a model that rules look at."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference

from graphopt.ir import Array, Constant, Node, Tensor, constant_value, is_constant
from graphopt.model import Model
from graphopt.results import Problem, Severity

QUANTIZE = "QuantizeLinear"
DEQUANTIZE = "DequantizeLinear"
MICROSOFT = "com.microsoft"
LEAVE_IN_FLOAT = "leave it in float: here its Q/DQ cost accuracy and bring no speed"
COMPUTE = {"Conv": 1, "ConvTranspose": 1, "MatMul": 1, "Gemm": 1}
"""Operators that have a weight, and its position."""


@dataclass(frozen=True)
class Finding:
    """One place where a rule does not hold. ``fix`` and ``fixable`` override the rule's own."""

    node: Node | None
    message: str
    fix: str | None = None
    fixable: bool | None = None
    severity: Severity | None = None


@dataclass(frozen=True)
class Rule:
    """One rule: what it is called, how bad a breach is, what to do, and where it finds breaches.

    ``fixable``: the ``legalize`` pass removes the breach.
    """

    id: str
    severity: Severity
    fix: str
    find: Callable[[View], Iterable[Finding]]
    fixable: bool = False

    def problems(self, view: View) -> Iterator[Problem]:
        """All breaches."""
        for finding in self.find(view):
            yield Problem(
                rule=self.id,
                severity=finding.severity or self.severity,
                node="" if finding.node is None else name_of(finding.node),
                op="" if finding.node is None else finding.node.op,
                message=finding.message,
                fix=self.fix if finding.fix is None else finding.fix,
                fixable=self.fixable if finding.fixable is None else finding.fixable,
            )


@dataclass
class View:
    """A model as rules see it. Nothing is changed through it. ``dims`` are numbers for symbolic extents."""

    model: Model
    dims: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes, those of nested graphs included."""
        return tuple(self.model.graph.walk())

    def ops(self, *ops: str, domain: str = "") -> Iterator[Node]:
        """The nodes of these operators."""
        return (n for n in self.nodes if n.op in ops and (n.domain or "") == domain)

    @property
    def opset(self) -> int:
        """Version of ``ai.onnx``."""
        return self.model.graph.opset

    @cached_property
    def types(self) -> Mapping[str, onnx.TypeProto.Tensor]:
        """Element type and shape of the tensors of the main graph, as far as onnx infers them."""
        proto = self.model.stub_proto()
        with contextlib.suppress(onnx.shape_inference.InferenceError):
            proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
        found = {}
        for info in (*proto.graph.input, *proto.graph.value_info, *proto.graph.output):
            if info.type.HasField("tensor_type"):
                found[info.name] = info.type.tensor_type
        return found

    def dtype(self, tensor: Tensor) -> np.dtype[Any] | None:
        """Element type, or None when unknown."""
        if tensor.dtype is not None:
            return tensor.dtype
        known = self.types.get(tensor.name)
        if known is None or not known.elem_type:
            return None
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(known.elem_type))

    def shape(self, tensor: Tensor) -> tuple[int | None, ...] | None:
        """Extents, None where unknown; None when even the rank is."""
        if isinstance(tensor, Constant):
            return tensor.shape
        value = constant_value(tensor)
        if value is not None:
            return value.shape
        known = self.types.get(tensor.name)
        if known is None or not known.HasField("shape"):
            return None
        return tuple(
            d.dim_value if d.WhichOneof("value") == "dim_value" else self.dims.get(d.dim_param) for d in known.shape.dim
        )


@dataclass(frozen=True)
class Quantizer:
    """A QuantizeLinear or DequantizeLinear, read. ``zero`` is None when the input is missing or not constant."""

    node: Node
    scale: Array | None
    zero: Array | None
    has_zero: bool
    axis: int
    block_size: int

    @property
    def type(self) -> np.dtype[Any] | None:
        """The type of the integer side, when a zero point or a constant tells it."""
        if self.zero is not None:
            return self.zero.dtype
        if self.has_zero:
            return self.node.inputs[2].dtype
        if self.node.op == DEQUANTIZE:
            value = constant_value(self.node.inputs[0])
            return self.node.inputs[0].dtype if value is None else value.dtype
        number = int(self.node.attrs.get("output_dtype", 0))
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(number or onnx.TensorProto.UINT8))

    @property
    def per_tensor(self) -> bool | None:
        """Whether there is one scale (any rank); None when the scale is not constant."""
        return None if self.scale is None else self.scale.size == 1


def read_quantizer(node: Node) -> Quantizer:
    """The parameters of a Q or DQ node, of ``ai.onnx`` or ``com.microsoft``."""
    has_zero = len(node.inputs) > 2 and not node.inputs[2].is_empty()
    return Quantizer(
        node,
        constant_value(node.inputs[1]),
        constant_value(node.inputs[2]) if has_zero else None,
        has_zero,
        int(node.attrs.get("axis", 1)),
        int(node.attrs.get("block_size", 0)),
    )


def quantizers(view: View, *ops: str) -> Iterator[Quantizer]:
    """All Q and DQ nodes of ``ai.onnx``, or only those of ``ops``."""
    return (read_quantizer(n) for n in view.ops(*(ops or (QUANTIZE, DEQUANTIZE))))


def producer(tensor: Tensor) -> Node | None:
    """The node that makes a tensor."""
    return tensor.inputs[0] if tensor.inputs else None


def dequantized(tensor: Tensor) -> Node | None:
    """The DequantizeLinear that makes a tensor."""
    node = producer(tensor)
    return node if node is not None and node.op == DEQUANTIZE else None


def weight_dequantizer(node: Node) -> Node | None:
    """The DequantizeLinear in front of a layer's constant weight, stored or quantized here."""
    found = dequantized(node.inputs[COMPUTE[node.op]]) if len(node.inputs) > 1 else None
    return found if found is not None and fixed_source(found.inputs[0]) else None


def fixed_source(tensor: Tensor) -> bool:
    """Whether a tensor is constant, or a constant behind a QuantizeLinear."""
    node = producer(tensor)
    return is_constant(tensor) or (node is not None and node.op == QUANTIZE and is_constant(node.inputs[0]))


def quantized_layers(view: View) -> Iterator[Node]:
    """Convolutions and matrix products whose input and weight (or both operands) come from a DequantizeLinear."""
    for node in view.ops(*COMPUTE):
        if len(node.inputs) > 1 and all(dequantized(t) is not None for t in node.inputs[:2]):
            yield node


def name_of(node: Node) -> str:
    """A node's name, or that of its first output."""
    return node.name or next((t.name for t in node.outputs if t.name), node.op)


def listed(nodes: Iterable[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    names = list(nodes)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
