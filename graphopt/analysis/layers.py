"""Weighted layers of a model, and what became of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType

from graphopt.analysis.stored_weights import stored_precision, stored_shape
from graphopt.graph import Graph
from graphopt.ir import Node, Tensor, is_constant
from graphopt.results import LayerChange


@dataclass(frozen=True)
class Weighted:
    """Where an operator keeps its weight, and the ``ai.onnx`` operator that it stands for."""

    index: int
    stands_for: str


WEIGHTED: Mapping[str, Weighted] = MappingProxyType(
    {
        "Conv": Weighted(1, "Conv"),
        "ConvTranspose": Weighted(1, "ConvTranspose"),
        "DeformConv": Weighted(1, "DeformConv"),
        "Gemm": Weighted(1, "MatMul"),
        "MatMul": Weighted(1, "MatMul"),
        "LSTM": Weighted(1, "LSTM"),
        "GRU": Weighted(1, "GRU"),
        "RNN": Weighted(1, "RNN"),
        "QLinearConv": Weighted(3, "Conv"),
        "ConvInteger": Weighted(1, "Conv"),
        "MatMulInteger": Weighted(1, "MatMul"),
        "QLinearMatMul": Weighted(3, "MatMul"),
        "QGemm": Weighted(3, "MatMul"),
        "FusedConv": Weighted(1, "Conv"),
        "FusedGemm": Weighted(1, "MatMul"),
        "FusedMatMul": Weighted(1, "MatMul"),
        "MatMulNBits": Weighted(1, "MatMul"),
        "MatMulBnb4": Weighted(1, "MatMul"),
        "DynamicQuantizeMatMul": Weighted(1, "MatMul"),
        "MatMulIntegerToFloat": Weighted(1, "MatMul"),
        "DynamicQuantizeLSTM": Weighted(1, "LSTM"),
        "Attention": Weighted(1, "Attention"),
        "QAttention": Weighted(1, "Attention"),
    }
)
_INTEGERS = frozenset(f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 9))
_CHAIN = 8
"""How many nodes behind a layer may be fused with it, so that only the last of their values is left."""
_FORMS = ("DequantizeLinear", "Transpose", "Cast", "Identity", "QuantizeLinear")


@dataclass(frozen=True)
class LayerMatch:
    """A weighted layer of ``before`` and what it is in ``after``: its weighted node and weight, None where it is gone.

    ``root`` computes the layer's value in ``after``; it is not ``now`` where scaling and the like came to be nodes of
    their own. None where the two were only matched by their order.
    """

    node: Node
    weight: Tensor
    now: Node | None = None
    now_weight: Tensor | None = None
    root: Node | None = None


def weighted_nodes(graph: Graph) -> Iterator[tuple[Node, Tensor]]:
    """Each node with a constant weight, and the weight, seen through DequantizeLinear, Transpose and Cast."""
    for node in graph.walk():
        row = WEIGHTED.get(node.op)
        if row is None or row.index >= len(node.inputs):
            continue
        for candidate in (node.inputs[row.index], node.inputs[0]):
            weight = behind(candidate)
            if weight is not None:
                yield node, weight
                break


def integer_layers(graph: Graph) -> int:
    """How many weighted layers read 8 bits or less, or Q/DQ, whose weights no least squares can change."""
    found = list(weighted_nodes(graph))
    behind = [n for n, _ in found if len(n.inputs) > 1 and any(m.is_op("DequantizeLinear") for m in n.inputs[1].inputs)]
    return len({id(n) for n in behind} | {id(n) for n, w in found if stored_precision(n, w) in _INTEGERS})


def behind(tensor: Tensor) -> Tensor | None:
    """The constant that a weight input holds, looking through operators that only change its form."""
    while not is_constant(tensor):
        producer = tensor.inputs[0] if tensor.inputs else None
        if producer is None or not producer.is_op(*_FORMS):
            return None
        tensor = producer.inputs[0]
    return tensor


def match_layers(before: Graph, after: Graph) -> list[LayerMatch]:
    """Each weighted layer of ``before`` with what it is in ``after``.

    Matched by the name of the node or of an output; then by value: the weighted node that makes the layer's output, or
    the output of what was fused with it. Layers that are left over on both sides are matched in order, if their
    operators stand for the same ones.
    """
    matcher = _Matcher(before, after)
    for match in (matcher.by_name, matcher.by_value):
        for place in range(len(matcher.rows)):
            if matcher.rows[place].now is None:
                match(place)
    matcher.by_order()
    return matcher.rows


def members(match: LayerMatch, known: Collection[str], layers: Collection[Node]) -> list[Node]:
    """The nodes of ``after`` that a layer became, its weighted node first: what passes put between it and values of
    ``before`` (quantizers, casts, scales).

    ``known`` are the names of all tensors of ``before``, ``layers`` the weighted nodes of all layers.
    """
    if match.now is None or match.root is None:
        return [] if match.now is None else [match.now]
    found: dict[Node, None] = {match.now: None}
    stack = [match.now, match.root]
    seen = set(stack)
    while stack:
        node = stack.pop()
        found[node] = None
        for tensor in node.inputs:
            maker = None if is_constant(tensor) or tensor.name in known or not tensor.inputs else tensor.inputs[0]
            if maker is not None and maker not in seen and maker not in layers:
                seen.add(maker)
                stack.append(maker)
    return list(found)


class _Matcher:
    """Fills in ``rows``; every weighted node of ``after`` is used once."""

    def __init__(self, before: Graph, after: Graph) -> None:
        self.rows = [LayerMatch(node, weight) for node, weight in weighted_nodes(before)]
        self._now = dict(weighted_nodes(after))
        self._free = dict.fromkeys(self._now)
        self._known = tensor_names(before)
        self._made = {t.name: n for n in after.walk() for t in n.outputs if t.name}
        self._by_name: dict[str, Node] = {}
        for node in self._now:
            for key in (node.name, *(t.name for t in node.outputs)):
                self._by_name.setdefault(key, node)

    def by_name(self, place: int) -> None:
        """Take the weighted node that has a name of the layer."""
        node = self.rows[place].node
        keys = (node.name, *(t.name for t in node.outputs))
        found = next((self._by_name[k] for k in keys if k and k in self._by_name), None)
        if found is not None:
            made = next((self._made[t.name] for t in node.outputs if t.name in self._made), found)
            self._take(place, found, made)

    def by_value(self, place: int) -> None:
        """Take the free weighted node nearest before the first value of the layer that is left."""
        chain = {t.name for t in self.rows[place].node.outputs}
        tensor = self.rows[place].node.outputs[0]
        for _ in range(_CHAIN):
            if tensor.name in self._made:
                self._nearest(place, self._made[tensor.name], chain)
                return
            readers = {id(n): n for n in tensor.outputs}
            if len(readers) != 1:
                return
            (reader,) = readers.values()
            if reader.op in WEIGHTED or not reader.outputs:
                return
            tensor = reader.outputs[0]
            chain.add(tensor.name)

    def by_order(self) -> None:
        """Match what is left on both sides, if it is the same sequence of operators."""
        lost = [place for place, row in enumerate(self.rows) if row.now is None]
        kinds = [_kind(self.rows[place].node) for place in lost]
        if kinds == [_kind(node) for node in self._free]:
            for place, node in zip(lost, list(self._free), strict=True):
                self._take(place, node, None)

    def _nearest(self, place: int, root: Node, chain: Collection[str]) -> None:
        stack, seen = [root], {root}
        while stack:
            node = stack.pop(0)
            if node in self._free:
                self._take(place, node, root)
                return
            for tensor in node.inputs:
                inside = tensor.name in chain or tensor.name not in self._known
                if inside and not is_constant(tensor) and tensor.inputs and tensor.inputs[0] not in seen:
                    seen.add(tensor.inputs[0])
                    stack.append(tensor.inputs[0])

    def _take(self, place: int, node: Node, root: Node | None) -> None:
        row = self.rows[place]
        self.rows[place] = LayerMatch(row.node, row.weight, node, self._now[node], root)
        self._free.pop(node, None)


def _kind(node: Node) -> str:
    return WEIGHTED[node.op].stands_for


def tensor_names(graph: Graph) -> frozenset[str]:
    """The names of all tensors, nested graphs included."""
    return frozenset(name for one in graph.graphs() for name in one.tensors())


def layer_changes(before: Graph, after: Graph) -> tuple[LayerChange, ...]:
    """Weighted layers of ``before`` with what they are in ``after``."""
    changes = []
    for match in match_layers(before, after):
        shape, precision = stored_shape(match.node, match.weight), ""
        now: tuple[int, ...] = ()
        if match.now is not None and match.now_weight is not None:
            now = stored_shape(match.now, match.now_weight)
            precision = stored_precision(match.now, match.now_weight)
        changes.append(
            LayerChange(
                name=match.node.name or match.node.outputs[0].name,
                op=match.node.op,
                before=shape,
                after=now,
                precision=precision,
                parameters_before=prod(shape),
                parameters_after=prod(now) if now else 0,
                op_after="" if match.now is None else match.now.op,
            )
        )
    return tuple(changes)
