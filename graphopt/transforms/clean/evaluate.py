"""Computes the outputs of a node from constant inputs, as ONNX Runtime without optimizations would.

Data movement and exactly defined arithmetic run in numpy. Everything else runs in ONNX Runtime, as a model of one
node. What must not be computed in advance (random numbers, control flow, quantization) is refused.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx

from graphopt.analysis.kernels import exact
from graphopt.errors import GraphoptError
from graphopt.graph import Graph, subgraphs
from graphopt.ir import Array, Node, RawAttribute
from graphopt.serde.exporter import GraphExporter, Weights

if TYPE_CHECKING:
    from graphopt.runtime.session import Session

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
    given = [i for i in inputs if i is not None]
    made = exact(node, given, graph.opset) if len(given) == len(inputs) else None
    return _run(node, inputs, graph) if made is None else [np.asarray(made, order="C")]


def _run(node: Node, inputs: Sequence[Array | None], graph: Graph) -> list[Array] | None:
    proto = _model(node, inputs, graph)
    feeds = {f"i{k}": np.asarray(value) for k, value in enumerate(inputs) if value is not None}
    try:
        found = _session(proto.SerializeToString(deterministic=True)).run(feeds)
    except GraphoptError:
        return None
    made = [found.get(f"o{k}", np.empty(0)) for k in range(len(node.outputs))]
    return [np.asarray(m) for m in made] if all(isinstance(m, np.ndarray | np.generic) for m in made) else None


@functools.lru_cache(maxsize=32)
def _session(model: bytes) -> Session:
    """A session of a model of one node; repeated blocks of a network ask for the same one again and again."""
    from graphopt.runtime.session import Session, SessionConfig

    return Session(model, SessionConfig(optimize="off"), name="a folded node")


def _model(node: Node, inputs: Sequence[Array | None], graph: Graph) -> onnx.ModelProto:
    proto = GraphExporter(Weights("evaluate"))._node(node)
    del proto.input[:], proto.output[:], proto.metadata_props[:]
    proto.name = proto.doc_string = ""
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
