"""Makes a quantized model legal for a target. Each fix says what it keeps.

Exact: values of all float tensors stay bit-equal. Rounding: integer kernels become Q/DQ around float operators, whose
results round otherwise by at most a step. Lossy: an asymmetric range becomes a symmetric one, with a coarser step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from graphopt.graph import Graph
from graphopt.ir import Array, Node, Tensor, constant_value
from graphopt.model import Model
from graphopt.results import Remark
from graphopt.targets.base import Target
from graphopt.targets.checks.base import (
    DEQUANTIZE,
    MICROSOFT,
    QUANTIZE,
    Quantizer,
    View,
    name_of,
    read_quantizer,
)
from graphopt.targets.qoperators import CONVERTIBLE, convertible, has_output_scale
from graphopt.transforms.legalize.regions import make_signed, set_zero_point
from graphopt.transforms.legalize.stamps import lower_stamps


class Listener(Protocol):
    """Who decides about each fix and hears of it. A pass's context is one."""

    def allow(self, where: Node | Tensor | str | None, rewrite: str = "") -> bool:
        """Whether the fix may be applied here."""
        ...

    def did(self, where: Node | Tensor | str | None, message: str) -> None:
        """Hear what was done."""
        ...

    def skipped(self, where: Node | Tensor | str | None, reason: str) -> None:
        """Hear what was not done, and why."""
        ...

    def count(self, statistic: str, amount: float = 1) -> None:
        """Hear how often something was done."""
        ...


@dataclass(frozen=True)
class Job:
    """One legalization. ``symmetric``: lossy fixes are allowed."""

    model: Model
    target: Target
    listener: Listener
    symmetric: bool

    def graphs(self) -> Iterator[Graph]:
        """The main graph and nested ones; nodes may be added and removed meanwhile."""
        return iter(list(self.model.graph.graphs()))

    def nodes(self, *ops: str, domain: str = "") -> Iterator[tuple[Graph, Node]]:
        """The nodes of these operators, with the graph that owns them."""
        for graph in self.graphs():
            for node in list(graph.nodes):
                if node.op in ops and (node.domain or "") == domain:
                    yield graph, node

    def quantizers(self, *ops: str) -> Iterator[tuple[Graph, Quantizer]]:
        """All Q and DQ nodes, read."""
        for graph, node in self.nodes(*(ops or (QUANTIZE, DEQUANTIZE))):
            yield graph, read_quantizer(node)

    def do(self, where: Node, fix: str, message: str) -> bool:
        """Ask for a fix; when it may be done, say so and count it."""
        if not self.listener.allow(where, fix):
            return False
        self.listener.did(where, message)
        self.listener.count(fix.replace("-", "_"))
        return True


def legalize_model(model: Model, target: Target, listener: Listener, symmetric: bool = True) -> None:
    """Apply the fixes that ``target`` needs, in place. What cannot be fixed stays and is named to the listener.

    Args:
        model: changed in place.
        target: whose rules count.
        listener: decides about and hears of each fix.
        symmetric: also apply lossy fixes, where the target takes only symmetric quantization.
    """
    job = Job(model, target, listener, symmetric)
    for fix in _fixes(target):
        fix(job)
    model.graph.sort()
    model.graph.remove_dead()


def _fixes(target: Target) -> Sequence[Callable[[Job], None]]:
    if target.name == "tensorrt":
        return (
            expand_qoperators,
            plain_domain,
            float_bias,
            explicit_zero_points,
            make_signed,
            scalar_scales,
            lower_stamps,
        )
    if target.name == "ort-cuda":
        return (expand_qoperators, explicit_zero_points, scalar_scales, lower_stamps)
    return (explicit_zero_points, scalar_scales, lower_stamps)


def plain_domain(job: Job) -> None:
    """``com.microsoft`` Q and DQ become those of ``ai.onnx`` where those have the types. Exact."""
    for _, node in job.nodes(QUANTIZE, DEQUANTIZE, domain=MICROSOFT):
        kind = read_quantizer(node).type
        oldest = 10 if kind is not None and kind.name in ("int8", "uint8") else 21
        if read_quantizer(node).scale is None or job.model.graph.opset < max(oldest, 13):
            job.listener.skipped(node, f"{kind} in {node.op} needs opset {max(oldest, 13)}")
        elif job.do(node, "plain-domain", f"uses {node.op} of ai.onnx"):
            node.domain = ""


def float_bias(job: Job) -> None:
    """A DequantizeLinear of a constant int32 becomes the float constant it computes. Exact."""
    view = View(job.model)
    for graph, q in job.quantizers(DEQUANTIZE):
        data = constant_value(q.node.inputs[0])
        kind = data.dtype if data is not None else view.dtype(q.node.inputs[0])
        if kind != np.int32:
            continue
        value = None if data is None or q.scale is None else dequantize(data, q)
        if value is None:
            job.listener.skipped(q.node, "an int32 DequantizeLinear of what is computed at run time cannot be replaced")
        elif job.do(q.node, "float-bias", "the int32 bias is now the float32 value it stood for"):
            output = q.node.outputs[0]
            graph.replace_uses(output, graph.new_constant(f"{output.name}_float", value))
            graph.remove_nodes([q.node])


def explicit_zero_points(job: Job) -> None:
    """A missing zero point is written down as the 0 that it means. Exact."""
    view = View(job.model)
    for graph, q in job.quantizers():
        if q.has_zero or q.block_size or q.scale is None or q.node.attrs.get("output_dtype"):
            continue
        kind = q.type or view.dtype(q.node.inputs[0])
        if kind is None or kind == np.int32:
            continue
        if job.do(q.node, "explicit-zero-point", f"the missing zero point is now 0 of type {kind}"):
            zero = graph.new_constant(f"{q.node.name}_zero_point", np.zeros(q.scale.shape, kind))
            set_zero_point(q.node, zero)


def scalar_scales(job: Job) -> None:
    """A single scale and zero point of shape [1] become scalars. Exact."""
    for graph, q in job.quantizers():
        if q.scale is None or q.scale.shape != (1,) or q.block_size or (q.has_zero and q.zero is None):
            continue
        if job.do(q.node, "scalar-scale", "its scale and zero point are scalars now"):
            q.node.inputs[1] = graph.new_constant(f"{q.node.inputs[1].name}_scalar", q.scale.reshape(()))
            if q.zero is not None:
                q.node.inputs[2] = graph.new_constant(f"{q.node.inputs[2].name}_scalar", q.zero.reshape(()))


def expand_qoperators(job: Job) -> None:
    """QLinearConv and its like become DQ, the float operator, and Q. The integer kernel rounds otherwise."""
    for domain in ("", MICROSOFT):
        for graph, node in job.nodes(*CONVERTIBLE, domain=domain):
            if not convertible(node):
                job.listener.skipped(
                    node, f"{node.op} has scales that are computed, or a layout that {_plain(node)} has not"
                )
            elif job.do(node, "expand-qoperator", f"{node.op} is now {_plain(node)} between DQ and Q"):
                _expand(graph, node)
        job.model.graph.sort()


def _plain(node: Node) -> str:
    return CONVERTIBLE[node.op].op


def _expand(graph: Graph, node: Node) -> None:
    row = CONVERTIBLE[node.op]
    inputs: list[Tensor | None] = []
    attrs = {name: value for name, value in node.attrs.items() if name not in row.drops}
    for index, (data, scale, zero) in enumerate(row.operands):
        tensors = [node.inputs[data], node.inputs[scale], *_optional(node, zero)]
        channels = index == row.weight and (node.inputs[scale].shape or ()) not in ((), (1,), [], [1])
        axis = {"axis": _weight_axis(row.op, attrs, node.inputs[data])} if channels else {}
        made = graph.add_node(DEQUANTIZE, tensors, attrs=axis, name=f"{node.name}_{DEQUANTIZE}_{index}")
        inputs.append(made.outputs[0])
    if row.bias is not None and _optional(node, row.bias):
        inputs.append(graph.new_constant(f"{node.name}_bias", _bias(node, row.bias)))
    result = node.outputs[0]
    output = [*node.inputs[row.output[0] : row.output[1] + 1]] if has_output_scale(node, row) else []
    node.outputs.clear()
    if output:
        float_result = graph.add_node(row.op, inputs, attrs=attrs, name=node.name).outputs[0]
        graph.add_node(QUANTIZE, [float_result, *output], [result], name=f"{node.name}_{QUANTIZE}")
    else:
        graph.add_node(row.op, inputs, [result], attrs=attrs, name=node.name)
    graph.remove_nodes([node])


def _optional(node: Node, position: int) -> list[Tensor]:
    return [node.inputs[position]] if len(node.inputs) > position and not node.inputs[position].is_empty() else []


def _weight_axis(op: str, attrs: dict[str, object], weight: Tensor) -> int:
    if op == "Conv" or (op == "Gemm" and attrs.get("transB", 0)):
        return 0
    return len(weight.shape or (0, 0)) - 1


def _bias(node: Node, position: int) -> Array:
    """The float value of an int32 bias: times the scales of both operands, and ``alpha``."""
    stored, first, second = (constant_value(node.inputs[i]) for i in (position, 1, 4))
    assert stored is not None
    assert first is not None
    assert second is not None
    scale = first.astype(np.float32).reshape(-1) * second.astype(np.float32).reshape(-1)
    value = stored.astype(np.float32) * scale * np.float32(node.attrs.get("alpha", 1.0))
    return value.reshape(stored.shape).astype(np.float32)


def dequantize(data: Array, q: Quantizer) -> Array | None:
    """What a DequantizeLinear gives for ``data``, in the type of its scale; None for blocked scales."""
    if q.scale is None or q.block_size:
        return None
    shape = [1] * data.ndim
    if q.scale.size > 1:
        shape[q.axis] = -1
    scale = q.scale.reshape(shape) if q.scale.size > 1 else q.scale.reshape(())
    if q.zero is None:
        return (data.astype(q.scale.dtype) * scale).astype(q.scale.dtype)
    zero = q.zero.reshape(shape) if q.zero.size > 1 else q.zero.reshape(())
    wide = data.astype(np.int64) - zero.astype(np.int64)
    return (wide.astype(q.scale.dtype) * scale).astype(q.scale.dtype)


class Notes:
    """A listener that allows every fix and keeps what it hears as remarks."""

    def __init__(self) -> None:
        self._remarks: dict[Remark, None] = {}

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """What was heard, without repeats."""
        return tuple(self._remarks)

    def allow(self, where: Node | Tensor | str | None, rewrite: str = "") -> bool:
        """Allow it."""
        return True

    def did(self, where: Node | Tensor | str | None, message: str) -> None:
        """Keep what was done."""
        self._remarks[Remark("did", "legalize", _label(where), message)] = None

    def skipped(self, where: Node | Tensor | str | None, reason: str) -> None:
        """Keep what was not done."""
        self._remarks[Remark("skipped", "legalize", _label(where), reason)] = None

    def count(self, statistic: str, amount: float = 1) -> None:
        """Counts are not kept; the remarks say the same."""


def _label(where: Node | Tensor | str | None) -> str:
    if where is None or isinstance(where, str):
        return where or ""
    return name_of(where) if isinstance(where, Node) else where.name
