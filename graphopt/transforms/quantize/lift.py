"""Takes the Q/DQ of quantization-aware training out of a graph and keeps its grids, to put it back complete.

A trained export often lacks what integer kernels need: Q/DQ behind the last operator, on the other operand of a
residual Add, on a weight. The float graph that is left is planned as any other; tensors and weights that had a grid get
it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from graphopt.graph import Graph
from graphopt.ir import Array, Constant, Node, Tensor, Variable, constant_value
from graphopt.model import Model
from graphopt.targets.base import INT_TYPES, Grid, Target
from graphopt.targets.checks.base import DEQUANTIZE, QUANTIZE, read_quantizer
from graphopt.transforms.legalize.fixes import dequantize
from graphopt.transforms.quantize.fold import dequantized_by
from graphopt.transforms.quantize.ranges import QuantParams

_BYTES = frozenset({"int8", "uint8"})


@dataclass(frozen=True)
class Trained:
    """Grids that were in the model: of activations by tensor name, scales of weights by the name of the float constant
    that stands for them now, and first outputs of the nodes that ran on integers."""

    params: Mapping[str, QuantParams] = field(default_factory=dict)
    scales: Mapping[str, Array] = field(default_factory=dict)
    nodes: frozenset[str] = frozenset()

    def covers(self, node: Node) -> bool:
        """Whether the node ran on integers."""
        return bool(node.outputs) and node.outputs[0].name in self.nodes


def is_incomplete(model: Model, target: Target) -> bool:
    """Whether an operator that the target runs on integers has Q/DQ on one side only."""
    return any(_incomplete(node, target) for node in model.graph.nodes)


def _incomplete(node: Node, target: Target) -> bool:
    rule = target.rule(node.op) if not node.domain else None
    if rule is None or rule.kind not in ("compute", "pointwise"):
        return False
    places = [*rule.inputs, *([rule.weight] if rule.weight is not None else [])]
    read = [dequantized_by(node.inputs[i]) is not None for i in dict.fromkeys(places) if i < len(node.inputs)]
    if not any(read):
        return False
    return not all(read) or (rule.output == "required" and not _quantized_behind(node, target))


def _quantized_behind(node: Node, target: Target) -> bool:
    readers = list(node.outputs[0].outputs)
    if len(readers) == 1 and readers[0].op in target.absorbs:
        readers = list(readers[0].outputs[0].outputs)
    return bool(readers) and all(r.is_op(QUANTIZE) for r in readers)


def lift(model: Model, grid: Grid) -> Trained:
    """Take Q/DQ with 8-bit constants out of the main graph, in place. ``grid``: of activations, as they will be stored.

    Grids that ``grid`` cannot hold (an asymmetric one where symmetric ones are demanded) are forgotten.
    """
    graph = model.graph
    members = {id(n) for n in graph.nodes}
    found = [n for n in graph.nodes if n.is_op(DEQUANTIZE)]
    kept: dict[int, Node] = {}
    tensors: list[tuple[Tensor, QuantParams]] = []
    scales: dict[str, Array] = {}
    for node in found:
        readers = {id(r): r for r in node.outputs[0].outputs if id(r) in members and not r.is_op(QUANTIZE)}
        if (constant := _constant(graph, node, scales)) is not None:
            graph.replace_uses(node.outputs[0], constant)
            kept |= readers
        elif (source := _activation(node, grid)) is not None:
            tensor, params = source
            graph.replace_uses(node.outputs[0], tensor)
            if params is not None:
                tensors.append((tensor, params))
            kept |= readers
    graph.remove_dead()
    graph.sort()
    names = frozenset(n.outputs[0].name for n in kept.values() if n.outputs)
    return Trained({t.name: p for t, p in tensors}, scales, names)


def _constant(graph: Graph, node: Node, scales: dict[str, Array]) -> Constant | None:
    q = read_quantizer(node)
    data = constant_value(node.inputs[0])
    if data is None or q.scale is None or q.block_size or q.scale.dtype != np.float32:
        return None
    if str(data.dtype) not in _BYTES | {"int32"} or (q.has_zero and q.zero is None):
        return None
    value = dequantize(data, q)
    if value is None:
        return None
    made = graph.new_constant(f"{node.inputs[0].name}_float", value)
    if data.dtype == np.int8 and (q.zero is None or not q.zero.any()):
        scales[made.name] = q.scale
    return made


def _activation(node: Node, grid: Grid) -> tuple[Tensor, QuantParams | None] | None:
    """The float tensor in front of a Q/DQ pair on one grid, and that grid as ``grid`` stores it."""
    before = node.inputs[0].inputs[0] if node.inputs[0].inputs else None
    if before is None or not before.is_op(QUANTIZE) or not isinstance(before.inputs[0], Variable):
        return None
    a, b = read_quantizer(before), read_quantizer(node)
    if a.scale is None or b.scale is None or a.scale.size != 1 or not np.array_equal(a.scale, b.scale):
        return None
    if str(a.type) not in _BYTES or a.type != b.type or (a.has_zero and a.zero is None):
        return None
    zeros = [0 if q.zero is None else int(q.zero.reshape(-1)[0]) for q in (a, b)]
    if zeros[0] != zeros[1]:
        return None
    stored = INT_TYPES[grid.type]
    zero = zeros[0] - INT_TYPES[str(a.type)].low + stored.low
    fits = stored.levels == 255 and (not grid.symmetric or zero == 0)
    params = QuantParams(float(a.scale.reshape(-1)[0]), zero, stored) if fits else None
    return before.inputs[0], params
