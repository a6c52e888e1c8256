"""Computes the outputs of a node from constant inputs, as ONNX Runtime without optimizations would.

Data movement and exactly defined arithmetic run in numpy. Everything else runs in ONNX Runtime, as a model of one
node. What must not be computed in advance (random numbers, control flow, quantization) is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx

from graphopt.errors import GraphoptError
from graphopt.graph import Graph, subgraphs
from graphopt.ir import Array, Constant, Node, RawAttribute
from graphopt.serde.exporter import GraphExporter, Weights

NONDETERMINISTIC = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
KEPT = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Constant"})
"""Operators that say how a value is meant; folding them would undo a quantization."""

SUMMING = frozenset(
    (
        *("AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "Einsum", "GRU", "Gemm", "GlobalAveragePool"),
        *("GroupNormalization", "InstanceNormalization", "LRN", "LSTM", "LayerNormalization", "LogSoftmax"),
        *("LpNormalization", "MatMul", "MeanVarianceNormalization", "RMSNormalization", "RNN", "ReduceL1", "ReduceL2"),
        *("ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Softmax"),
    )
)
"""Operators that add up many numbers. ONNX Runtime's order depends on where its buffers lie in memory, so that the
last bit may differ from one model to another."""

Kernel: TypeAlias = "Callable[[Node, Sequence[Array], int], Array | None]"


def may_fold(node: Node) -> bool:
    """Whether the node's outputs depend on nothing but its inputs and attributes, and may be computed in advance."""
    if node.domain or node.op in NONDETERMINISTIC or node.op in KEPT or subgraphs(node):
        return False
    if any(isinstance(v, RawAttribute) for v in node.attrs.values()):
        return False
    if node.op == "Dropout":
        return len(node.inputs) < 3 or node.inputs[2].is_empty()
    return not node.op.startswith(("Sequence", "Optional", "ConcatFromSequence", "SplitToSequence"))


def evaluate(node: Node, inputs: Sequence[Array | None], graph: Graph) -> list[Array] | None:
    """The outputs of a node that ``may_fold``; None when it cannot be computed here.

    ``inputs`` has one array for each input, None for an omitted one. Omitted outputs are left out as empty arrays.
    """
    kernel = KERNELS.get(node.op)
    given = [i for i in inputs if i is not None]
    if kernel is not None and len(given) == len(inputs) and len(node.outputs) == 1:
        made = kernel(node, given, graph.opset)
        if made is not None:
            return [np.asarray(made, order="C")]
    return _run(node, inputs, graph)


def _run(node: Node, inputs: Sequence[Array | None], graph: Graph) -> list[Array] | None:
    from graphopt.runtime.session import Session, SessionConfig

    proto = _model(node, inputs, graph)
    feeds = {f"i{k}": np.asarray(value) for k, value in enumerate(inputs) if value is not None}
    try:
        session = Session(proto.SerializeToString(), SessionConfig(optimize="off"), name=f"node {node.name!r}")
        found = session.run(feeds)
    except GraphoptError:
        return None
    made = [found.get(f"o{k}", np.empty(0)) for k in range(len(node.outputs))]
    return [np.asarray(m) for m in made] if all(isinstance(m, np.ndarray | np.generic) for m in made) else None


def _model(node: Node, inputs: Sequence[Array | None], graph: Graph) -> onnx.ModelProto:
    proto = GraphExporter(Weights("evaluate"))._node(node)
    del proto.input[:], proto.output[:]
    proto.input.extend("" if v is None else f"i{k}" for k, v in enumerate(inputs))
    proto.output.extend("" if t.is_empty() else f"o{k}" for k, t in enumerate(node.outputs))
    fed = [
        onnx.helper.make_tensor_value_info(f"i{k}", _element_type(v), v.shape)
        for k, v in enumerate(inputs)
        if v is not None
    ]
    made = [onnx.ValueInfoProto(name=n) for n in proto.output if n]
    opsets = [onnx.helper.make_opsetid("", graph.opset)]
    body = onnx.helper.make_graph([proto], "evaluate", fed, made)
    return onnx.helper.make_model(body, opset_imports=opsets, ir_version=max(8, graph.ir_version))


def _element_type(values: Array) -> int:
    if values.dtype == object:
        return int(onnx.TensorProto.STRING)
    return int(onnx.helper.np_dtype_to_tensor_dtype(values.dtype))


def _ints(values: Any) -> list[int]:
    return [int(v) for v in np.asarray(values).reshape(-1)]


def _axes(node: Node, inputs: Sequence[Array], opset: int) -> list[int] | None:
    if opset >= 13:
        return _ints(inputs[1]) if len(inputs) > 1 else None
    return node.attrs.get("axes")


def _reshape(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    if opset < 5:
        return None
    data, target = inputs[0], _ints(inputs[1])
    if not node.attrs.get("allowzero"):
        target = [data.shape[i] if d == 0 else d for i, d in enumerate(target)]
    return data.reshape(target)


def _unsqueeze(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    axes = _axes(node, inputs, opset)
    if axes is None:
        return None
    rank = inputs[0].ndim + len(axes)
    gone = {a % rank for a in axes}
    rest = iter(inputs[0].shape)
    return inputs[0].reshape([1 if i in gone else next(rest) for i in range(rank)])


def _squeeze(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    axes = _axes(node, inputs, opset)
    return inputs[0].squeeze(None if axes is None else tuple(axes))


def _transpose(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    return inputs[0].transpose(node.attrs.get("perm"))


def _concat(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    return np.concatenate(inputs, node.attrs.get("axis", 1))


def _gather(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    return np.asarray(inputs[0].take(inputs[1], node.attrs.get("axis", 0)))


def _expand(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    return np.broadcast_to(inputs[0], np.broadcast_shapes(inputs[0].shape, tuple(_ints(inputs[1])))).copy()


def _identity(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    return inputs[0]


def _constant_of_shape(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    fill = node.attrs.get("value")
    fill = np.zeros(1, np.float32) if fill is None else np.asarray(fill.values if isinstance(fill, Constant) else fill)
    return np.full(_ints(inputs[0]), fill.reshape(-1)[0], fill.dtype)


def _shape(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    return np.array(inputs[0].shape[slice(node.attrs.get("start", 0), node.attrs.get("end"))], np.int64)


def _slice(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    if opset < 10:
        return None
    starts, ends = _ints(inputs[1]), _ints(inputs[2])
    axes = _ints(inputs[3]) if len(inputs) > 3 else list(range(len(starts)))
    steps = _ints(inputs[4]) if len(inputs) > 4 else [1] * len(starts)
    chosen: list[slice] = [slice(None)] * inputs[0].ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        chosen[axis] = slice(start, None if step < 0 and end < -inputs[0].shape[axis] else end, step)
    return inputs[0][tuple(chosen)]


def _exact(compute: Callable[[Array, Array], Array]) -> Kernel:
    """Addition, subtraction and multiplication are correctly rounded everywhere."""

    def kernel(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
        plain = len(inputs) == 2 and all(i.dtype in (np.float32, np.float64, np.int64, np.int32) for i in inputs)
        if opset < 7 or not plain:
            return None
        with np.errstate(all="ignore"):
            return np.asarray(compute(inputs[0], inputs[1]))

    return kernel


def _divided(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    """Division of floats, correctly rounded everywhere."""
    if opset < 7 or len(inputs) != 2 or any(i.dtype not in (np.float32, np.float64) for i in inputs):
        return None
    with np.errstate(all="ignore"):
        return np.asarray(inputs[0] / inputs[1])


def _root(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    """The square root of what has one, correctly rounded everywhere."""
    if inputs[0].dtype not in (np.float32, np.float64) or not np.all(inputs[0] >= 0):
        return None
    return np.asarray(np.sqrt(inputs[0]))


def _where(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    return np.asarray(np.where(*inputs)) if inputs[1].dtype == inputs[2].dtype != object else None


def _equal(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    same = inputs[0].dtype == inputs[1].dtype and inputs[0].dtype.kind in "biuf"
    return np.asarray(inputs[0] == inputs[1]) if opset >= 7 and same else None


def _not(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    return np.asarray(~inputs[0])


def _scatter_nd(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    """Without a reduction; where indices repeat, the order is the runtime's."""
    data, indices, updates = inputs
    if node.attrs.get("reduction", "none") not in ("none", b"none") or data.dtype == object:
        return None
    flat = indices.reshape(-1, indices.shape[-1])
    if len(np.unique(flat, axis=0)) < len(flat):
        return None
    made = data.copy()
    made[tuple(np.moveaxis(indices, -1, 0))] = updates
    return made


def _cast(node: Node, inputs: Sequence[Array], opset: int) -> Array | None:
    """Only casts that every machine does alike: to the same type, to a wider integer type, from integer to float."""
    kind = int(node.attrs["to"])
    if kind == onnx.TensorProto.STRING or inputs[0].dtype == object:
        return None
    target = onnx.helper.tensor_dtype_to_np_dtype(kind)
    if inputs[0].dtype == target:
        return inputs[0]
    safe = inputs[0].dtype.kind in "biu" and target.kind in "iu" and np.can_cast(inputs[0].dtype, target)
    safe = safe or (inputs[0].dtype.kind in "bi" and target in (np.float32, np.float64))
    return inputs[0].astype(target) if safe else None


KERNELS: dict[str, Kernel] = {
    "Reshape": _reshape,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Concat": _concat,
    "Gather": _gather,
    "Expand": _expand,
    "Identity": _identity,
    "ConstantOfShape": _constant_of_shape,
    "Shape": _shape,
    "Slice": _slice,
    "Cast": _cast,
    "Add": _exact(np.add),
    "Sub": _exact(np.subtract),
    "Mul": _exact(np.multiply),
    "Div": _divided,
    "Sqrt": _root,
    "Where": _where,
    "Equal": _equal,
    "Not": _not,
    "ScatterND": _scatter_nd,
}
