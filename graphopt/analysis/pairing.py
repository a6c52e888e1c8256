"""Which tensor of one model is which of another: through Q/DQ, renaming, fusion and a runtime's own optimizations.

Tensors that hold the same value on different grids (behind QuantizeLinear, DequantizeLinear, Identity, Cast between
floats) are one *value*. Values are matched by the name of any of their tensors; those that are left over by structure:
the operator (QLinearConv counts as Conv) and the matched values that it reads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeAlias

import numpy as np
import onnx

from graphopt.graph import Graph
from graphopt.ir import Array, Node, Tensor, Variable, constant_value, is_constant
from graphopt.targets.builtin import ORT_CPU
from graphopt.targets.qoperators import CONVERTIBLE, has_output_scale

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_SAME_VALUE = frozenset({_QUANTIZE, _DEQUANTIZE, "Identity", "Dropout"})
_SAME_GRID = frozenset(r.op for r in ORT_CPU.rules if r.kind == "mover")
_CANDIDATES = 64
"""How many equal branches are told apart by their constants and names."""
_DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
_FLOATS = frozenset(int(getattr(onnx.TensorProto, name)) for name in ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16"))


@dataclass(frozen=True)
class IntegerGrid:
    """What turns stored integers into the numbers they stand for: ``(q - zero) * scale`` along ``axis``."""

    scale: Array
    zero: Array
    axis: int

    def values(self, stored: Array) -> Array:
        """The float32 numbers."""
        shape = [1] * stored.ndim
        if self.scale.size > 1:
            shape[self.axis] = self.scale.size
        zero = self.zero.astype(np.float64).reshape(shape if self.zero.size > 1 else [1] * stored.ndim)
        scale = self.scale.astype(np.float64).reshape(shape)
        return ((stored.astype(np.float64) - zero) * scale).astype(np.float32)


@dataclass(frozen=True)
class Probe:
    """A tensor to look at, the node that computes its value, and the grid where it is stored as integers.

    ``stacked``: it holds the values of all iterations of a loop, and the first counts.
    """

    tensor: str
    node: str
    op: str
    grid: IntegerGrid | None = None
    stacked: bool = False


@dataclass(frozen=True)
class Pair:
    """One value in both models. ``sources`` are the places, in the list of pairs, of the values it is made from;
    ``output``: whether it is an output of the reference."""

    reference: Probe
    test: Probe
    sources: tuple[int, ...] = ()
    output: bool = False


@dataclass(eq=False)
class _Value:
    """Tensors that hold one value. The first is what the ``producer`` computes; it is None for a graph input."""

    tensors: list[Tensor]
    producer: Node | None
    place: int
    reads: list[_Value] = field(default_factory=list)
    readers: list[_Value] = field(default_factory=list)
    grid: IntegerGrid | None = None
    match: _Value | None = None


Aliases: TypeAlias = Mapping[str, Sequence[str]]


def pair_tensors(
    reference: Graph, test: Graph, aliases: Aliases | None = None, first: Container[str] = ()
) -> tuple[Pair, ...]:
    """The values that both main graphs compute, in the reference's order of computation.

    ``first`` names tensors of the reference that come before the other outputs of their node: those inside it.
    ``aliases`` gives more names to tensors of ``test``: those of the same value before a runtime changed the graph.
    """
    own, second = _values(reference, first), _values(test, first)
    _match_by_name(own, second, aliases or {})
    _match_by_structure(own, second)
    ends = {id(t) for t in reference.outputs}
    pairs: list[Pair] = []
    places: dict[_Value, int] = {}
    for value in own:
        other = value.match
        if other is None or (value.producer is None and len(value.tensors) == len(other.tensors) == 1):
            continue
        one, two = _probe(value), _probe(other)
        if one is None or two is None:
            continue
        places[value] = len(pairs)
        output = any(id(t) in ends for t in value.tensors)
        pairs.append(Pair(one, two, tuple(sorted(_sources(value, places))), output))
    return tuple(pairs)


def aliases_of(graph: Graph) -> dict[str, tuple[str, ...]]:
    """For each tensor before or behind Q/DQ and the like, the names of all tensors that hold the same value."""
    classes = [tuple(t.name for t in value.tensors) for value in _values(graph)]
    return {name: names for names in classes if len(names) > 1 for name in names}


def _values(graph: Graph, first: Container[str] = ()) -> list[_Value]:
    known: dict[Tensor, _Value] = {}
    values: list[_Value] = []

    def new(tensor: Tensor, producer: Node | None, reads: Iterable[_Value] = ()) -> None:
        known[tensor] = _Value([tensor], producer, len(values), list(reads))
        values.append(known[tensor])

    for tensor in graph.inputs:
        new(tensor, None)
    for node in graph.nodes:
        reads = [known[t] for t in node.inputs if t in known]
        if _keeps_value(node) and reads and not is_constant(node.inputs[0]):
            known[node.outputs[0]] = reads[0]
            reads[0].tensors.append(node.outputs[0])
            continue
        if not reads and (node.op == "Constant" or all(map(is_constant, node.inputs))):
            continue
        for tensor in sorted(node.outputs, key=lambda t: t.name not in first):
            if not tensor.is_empty():
                new(tensor, node, reads)
    for value in values:
        value.grid = _grid(value.tensors[0])
        for read in value.reads:
            read.readers.append(value)
    return values


def _keeps_value(node: Node) -> bool:
    if (node.domain or "") not in _DOMAINS or not node.inputs:
        return False
    if node.op == "Cast":
        kind = node.inputs[0].dtype
        return int(node.attrs.get("to", 0)) in _FLOATS and (kind is None or np.dtype(kind).kind not in "iubO")
    return node.op in _SAME_VALUE


def _grid(tensor: Tensor) -> IntegerGrid | None:
    """The grid that a tensor is stored on, when the graph tells: by what reads it, or by what made it."""
    while True:
        for reader in tensor.outputs:
            if reader.op == _DEQUANTIZE and reader.inputs[0] is tensor:
                return _constant_grid(reader, 1, 2)
        node = tensor.inputs[0] if tensor.inputs else None
        if node is None or (node.domain or "") not in _DOMAINS:
            return None
        row = CONVERTIBLE.get(node.op)
        if row is not None:
            return _constant_grid(node, *row.output) if has_output_scale(node, row) else None
        if node.op in (_QUANTIZE, "QLinearConcat"):
            return _constant_grid(node, *((1, 2) if node.op == _QUANTIZE else (0, 1)))
        if node.op not in _SAME_GRID:
            return None
        tensor = node.inputs[0]


def _constant_grid(node: Node, scale: int, zero: int) -> IntegerGrid | None:
    one = constant_value(node.inputs[scale])
    two = constant_value(node.inputs[zero]) if len(node.inputs) > zero and not node.inputs[zero].is_empty() else None
    if one is None or int(node.attrs.get("block_size", 0)):
        return None
    return IntegerGrid(one, np.zeros((), np.int32) if two is None else two, int(node.attrs.get("axis", 1)))


def _probe(value: _Value) -> Probe | None:
    """The tensor whose value is passed on: behind the last DequantizeLinear or QuantizeLinear, else as computed."""
    node = value.producer
    name = "" if node is None else node.name or node.outputs[0].name
    op = "input" if node is None else node.op
    for tensor in reversed(value.tensors):
        maker = tensor.inputs[0] if tensor.inputs else None
        if maker is not None and maker.op == _DEQUANTIZE:
            return Probe(tensor.name, name, op)
        if maker is not None and maker.op == _QUANTIZE and (grid := _grid(tensor)) is not None:
            return Probe(tensor.name, name, op, grid)
    first = value.tensors[0]
    if value.grid is not None:
        return Probe(first.name, name, op, value.grid)
    return Probe(first.name, name, op) if isinstance(first, Variable) else None


def _match_by_name(first: list[_Value], second: list[_Value], aliases: Aliases) -> None:
    names = {t.name: value for value in reversed(first) for t in reversed(value.tensors)}
    for value in second:
        own = [t.name for t in value.tensors]
        for name in (*own, *(alias for n in own for alias in aliases.get(n, ()))):
            found = names.get(name)
            if found is not None and found.match is None:
                found.match, value.match = value, found
                break


def _match_by_structure(first: list[_Value], second: list[_Value]) -> None:
    """Match what no name matches: the same operator on values that are matched.

    Of several, the one with the same constants or the most alike name, else the first.
    """
    places = {value: value.place for value in first}
    waiting: dict[object, list[_Value]] = defaultdict(list)
    for value in first:
        waiting[_form(value, places)].append(value)
    for value in second:
        if value.match is None and value.producer is not None and all(read.match is not None for read in value.reads):
            form = _form(value, {read: read.match.place for read in value.reads if read.match})
            found = list(islice((one for one in waiting.get(form, ()) if one.match is None), _CANDIDATES))
            if found:
                one = _with_activation(max(found, key=lambda c: _likeness(c, value)), value)
                if one.match is None:
                    one.match, value.match = value, one


def _likeness(one: _Value, two: _Value) -> tuple[int, bool]:
    """Constants that both read, by name, and whether a name of one is part of a name of the other."""
    names = [
        {t.name for t in value.producer.inputs if is_constant(t)} if value.producer is not None else set()
        for value in (one, two)
    ]
    alike = any(a.name in b.name or b.name in a.name for a in one.tensors for b in two.tensors)
    return len(names[0] & names[1]), alike


def _form(value: _Value, places: Mapping[_Value, int]) -> object:
    """What computes a value, in terms that do not depend on names."""
    node = value.producer
    if node is None:
        return ("input", value.place)
    row = CONVERTIBLE.get(node.op)
    output = next(i for i, t in enumerate(node.outputs) if t is value.tensors[0])
    return (node.op if row is None else row.op, output, tuple(places.get(read, -1) for read in value.reads))


def _with_activation(one: _Value, two: _Value) -> _Value:
    """``one``, or the activation behind it where a quantized kernel took that over: its grid cuts off the rest."""
    readers = {id(v): v for v in one.readers}
    if two.grid is None or len(readers) != 1:
        return one
    (reader,) = readers.values()
    if reader.producer is None or not reader.producer.is_op(*ORT_CPU.absorbs):
        return one
    kept = any(v.producer is not None and v.producer.op == reader.producer.op for v in two.readers)
    return one if kept else reader


def _sources(value: _Value, places: Mapping[_Value, int]) -> set[int]:
    """The nearest values before this one that are pairs."""
    found: set[int] = set()
    stack, seen = list(value.reads), set(value.reads)
    while stack:
        near = stack.pop()
        if near in places:
            found.add(places[near])
            continue
        fresh = [v for v in near.reads if v not in seen]
        seen.update(fresh)
        stack.extend(fresh)
    return found
