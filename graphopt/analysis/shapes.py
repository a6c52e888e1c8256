"""What is known of every tensor once the symbolic input dims have numbers: type, extents, and value where it is small.

Walks the nodes in order. A node whose inputs all have known small values is evaluated; others get their output
types from a fast path or from ONNX's own shape inference of that one node. Symbolic dims become distinct primes, so
that no two axes are mistaken for each other; what depends on the data itself gets a fresh prime as well and is marked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from graphopt.analysis import shapes_fast
from graphopt.analysis.dim_choices import dim_choices
from graphopt.analysis.shapes_eval import evaluate
from graphopt.graph import Graph, subgraphs
from graphopt.ir import Array, Constant, Node, Tensor, Variable, constant_value
from graphopt.model import Model
from graphopt.serde.exporter import GraphExporter, Weights, element_type

VALUE_CAP = 100_000
PRIMES = (3, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61)
OTHER_PRIMES = (5, 7, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83)


@dataclass(frozen=True)
class Fact:
    """What is known of one tensor. ``shape`` is None when not even the rank is known.

    ``value`` is a computed value (of at most ``VALUE_CAP`` elements). ``from_shape``: the value was computed from
    the extents of tensors, so pruning may change it.
    """

    dtype: np.dtype[Any] | None
    shape: tuple[int, ...] | None
    value: Array | None = None
    from_shape: bool = False


UNKNOWN = Fact(None, None)


@dataclass
class Facts:
    """The facts of a graph's tensors. ``guessed`` holds the extents that only the data decides."""

    table: dict[Tensor, Fact] = field(default_factory=dict)
    dims: dict[str, int] = field(default_factory=dict)
    guessed: set[int] = field(default_factory=set)
    problems: dict[Node, str] = field(default_factory=dict)

    def __getitem__(self, tensor: Tensor) -> Fact:
        fact = self.table.get(tensor)
        if fact is None:
            fact = self.table[tensor] = _constant_fact(tensor) or UNKNOWN
        return fact

    def shape(self, tensor: Tensor) -> tuple[int, ...] | None:
        """The extents, or None."""
        return self[tensor].shape

    def value(self, tensor: Tensor) -> Array | None:
        """The value of a constant or of a small computed tensor, else None."""
        if tensor.is_empty():
            return None
        fixed = constant_value(tensor)
        return fixed if fixed is not None else self[tensor].value


def interpret(
    graph: Graph,
    dims: Mapping[str, int] | None = None,
    primes: tuple[int, ...] = PRIMES,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    before: Callable[[Node, Facts], None] | None = None,
) -> Facts:
    """The facts of ``graph`` with the symbolic dims set to ``dims``, the rest to ``primes`` in order of appearance.

    ``input_shapes`` overrides whole inputs by name. ``before`` is called ahead of each node with the facts so far; it
    may change the node's inputs and add facts for them. Nodes that cannot be understood are listed in ``problems`` and
    their outputs stay unknown.
    """
    facts = Facts(dims=dict(dims or {}))
    spare = _spare_primes(primes, facts)
    for tensor in graph.inputs:
        if isinstance(tensor, Variable):
            shape = (input_shapes or {}).get(tensor.name) or _input_shape(tensor, facts, spare)
            facts.table[tensor] = Fact(tensor.dtype, shape)
    walker = _Walker(graph, facts, spare)
    for node in list(graph.nodes):
        if before is not None:
            before(node, facts)
        walker.visit(node)
    return facts


def interpret_best(graph: Graph, other: bool = False) -> Facts:
    """``interpret`` with the first choice of numbers for the symbolic dims under which most nodes make sense.

    ``dim_choices`` says which are tried. ``other`` uses a second set of numbers throughout.
    """
    small = OTHER_PRIMES if other else PRIMES
    best: Facts | None = None
    for chosen in dim_choices(graph, small, other):
        facts = interpret(graph, chosen, small)
        if not facts.problems:
            return facts
        if best is None or len(facts.problems) < len(best.problems):
            best = facts
        if not facts.dims:
            break
    assert best is not None
    return best


def _spare_primes(primes: tuple[int, ...], facts: Facts) -> Iterator[int]:
    taken = set(facts.dims.values())
    yield from (p for p in primes if p not in taken)
    candidate = primes[-1]
    while True:
        candidate += 2
        if candidate not in taken and all(candidate % d for d in range(3, int(candidate**0.5) + 1, 2)):
            yield candidate


def _input_shape(tensor: Variable, facts: Facts, spare: Iterator[int]) -> tuple[int, ...] | None:
    if tensor.shape is None:
        return None
    extents = []
    for axis, extent in enumerate(tensor.shape):
        if isinstance(extent, int) and extent >= 0:
            extents.append(extent)
            continue
        key = extent if isinstance(extent, str) and extent else f"{tensor.name}:{axis}"
        if key not in facts.dims:
            facts.dims[key] = next(spare)
        extents.append(facts.dims[key])
    return tuple(extents)


def _constant_fact(tensor: Tensor) -> Fact | None:
    if isinstance(tensor, Constant):
        return Fact(tensor.dtype, tensor.shape)
    value = constant_value(tensor)
    return None if value is None else Fact(value.dtype, value.shape)


class _Walker:
    """Visits nodes in order and adds their outputs to the facts."""

    def __init__(self, graph: Graph, facts: Facts, spare: Iterator[int]) -> None:
        self._graph = graph
        self._facts = facts
        self._spare = spare
        self._exporter = GraphExporter(Weights("none"))

    def visit(self, node: Node) -> None:
        """Find the facts of the node's outputs."""
        facts = self._facts
        if node.is_op("Constant"):
            return
        if node.is_op("If", "Loop"):
            known = self._branches(node) if node.op == "If" else self._loop(node)
        else:
            known = None if subgraphs(node) else self._evaluated(node)
        if known is None:
            known = self._fast(node)
        if known is None:
            known = self._inferred(node)
        for tensor, fact in zip(node.outputs, known, strict=False):
            if not tensor.is_empty():
                facts.table[tensor] = Fact(fact.dtype, None) if fact.shape and min(fact.shape) < 0 else fact
                if fact.shape and min(fact.shape) < 1 and ("Conv" in node.op or "Pool" in node.op):
                    facts.problems[node] = f"its output has extents {list(fact.shape)}; the input is too small"
        if node.is_op("Reshape") and self._resizes(node):
            facts.problems[node] = "its input does not have as many elements as its output"

    def _resizes(self, node: Node) -> bool:
        """Whether a Reshape would have to make or lose elements."""
        shapes = [self._facts.shape(t) for t in (node.inputs[0], node.outputs[0])]
        if any(s is None or self._facts.guessed & set(s) for s in shapes):
            return False
        before, after = (int(np.prod(s, dtype=np.int64)) for s in shapes if s is not None)
        return before != after

    def _branches(self, node: Node) -> list[Fact] | None:
        """What both branches of an If agree on; extents on which they differ are decided by the data."""
        found: list[list[Fact]] = []
        for branch in subgraphs(node):
            for inner in branch.nodes:
                self.visit(inner)
            found.append([self._facts[t] for t in branch.outputs])
        return [self._agreed(facts) for facts in zip(*found, strict=True)]

    def _loop(self, node: Node) -> list[Fact] | None:
        """What the states keep from round to round; extents that a round changes are decided by the data."""
        (body,) = subgraphs(node)
        states = [self._plain(self._facts[t]) for t in node.inputs[2:]]
        for _ in range(2):
            starts = [Fact(np.dtype(np.int64), ()), Fact(np.dtype(bool), ()), *states]
            self._facts.table.update(zip(body.inputs, starts, strict=True))
            for inner in body.nodes:
                self.visit(inner)
            ends = [self._facts[t] for t in body.outputs[1:]]
            states = [self._agreed((before, after)) for before, after in zip(states, ends, strict=False)]
        scans = [Fact(f.dtype, None if f.shape is None else (self._guess(), *f.shape)) for f in ends[len(states) :]]
        return [*states, *scans]

    def _plain(self, fact: Fact) -> Fact:
        return Fact(fact.dtype, fact.shape)

    def _agreed(self, facts: tuple[Fact, ...]) -> Fact:
        dtype = facts[0].dtype
        shapes = [f.shape for f in facts if f.shape is not None]
        if len(shapes) < len(facts) or len({len(s) for s in shapes}) > 1:
            return Fact(dtype, None)
        return Fact(dtype, tuple(e[0] if len(set(e)) == 1 else self._guess() for e in zip(*shapes, strict=True)))

    def _evaluated(self, node: Node) -> list[Fact] | None:
        facts = self._facts
        if node.is_op("Shape", "Size"):
            shape = facts.shape(node.inputs[0])
            if shape is None or any(e in facts.guessed for e in shape):
                return None
            values = shapes_fast.shape_value(node, shape)
            return [Fact(values.dtype, values.shape, values, from_shape=True)]
        if node.domain or not node.inputs:
            return None
        values_in: list[Array | None] = []
        tainted = False
        for tensor in node.inputs:
            if tensor.is_empty():
                values_in.append(None)
                continue
            fact = facts[tensor]
            if fact.value is None and (
                fact.shape is None or np.prod(fact.shape, dtype=np.int64) > VALUE_CAP or not _is_fixed(tensor)
            ):
                return None
            tainted |= fact.from_shape
            values_in.append(facts.value(tensor))
        outputs = evaluate(node, values_in, self._graph.opset, VALUE_CAP)
        if outputs is None:
            return None
        return [Fact(v.dtype, v.shape, v, tainted) for v in outputs]

    def _fast(self, node: Node) -> list[Fact] | None:
        facts = self._facts
        given = [UNKNOWN if t.is_empty() else facts[t] for t in node.inputs]
        found = shapes_fast.infer(node, [(f.dtype, f.shape) for f in given], self._value_of(node), facts.guessed)
        return None if found is None else [Fact(dtype, shape) for dtype, shape in found]

    def _value_of(self, node: Node) -> Callable[[int], Array | None]:
        def value(index: int) -> Array | None:
            if index >= len(node.inputs) or node.inputs[index].is_empty():
                return None
            fact = self._facts[node.inputs[index]]
            if fact.value is None and (fact.shape is None or np.prod(fact.shape, dtype=np.int64) > VALUE_CAP):
                return None
            return self._facts.value(node.inputs[index])

        return value

    def _inferred(self, node: Node) -> list[Fact]:
        try:
            found = self._by_onnx(node)
        except (
            onnx.shape_inference.InferenceError,
            onnx.checker.ValidationError,
            onnx.defs.SchemaError,
            ValueError,
            TypeError,
        ) as error:
            self._facts.problems[node] = str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)
            found = {}
        return [self._fact_of(tensor, found.get(tensor.name)) for tensor in node.outputs]

    def _by_onnx(self, node: Node) -> dict[str, onnx.TypeProto]:
        domain = node.domain or ""
        version = self._graph.domain_opset(domain)
        schema = onnx.defs.get_schema(node.op, version, domain)
        proto = self._exporter._node(node)
        types: dict[str, onnx.TypeProto] = {}
        data: dict[str, onnx.TensorProto] = {}
        value_of = self._value_of(node)
        for index, tensor in enumerate(node.inputs):
            if tensor.is_empty():
                continue
            fact = self._facts[tensor]
            if fact.dtype is None:
                raise ValueError(f"type of {tensor.name!r} is not known")
            types[tensor.name] = onnx.helper.make_tensor_type_proto(element_type(fact.dtype), fact.shape)
            if fact.shape is not None and len(fact.shape) <= 1 and (value := value_of(index)) is not None:
                data[tensor.name] = onnx.numpy_helper.from_array(np.ascontiguousarray(value), tensor.name)
        return onnx.shape_inference.infer_node_outputs(
            schema,
            proto,
            types,
            data,
            opset_imports=[onnx.helper.make_opsetid(d, v) for d, v in self._graph.opsets.items()],
            ir_version=self._graph.ir_version,
        )

    def _fact_of(self, tensor: Tensor, found: onnx.TypeProto | None) -> Fact:
        """The fact of an output that ONNX described; unknown extents become marked primes."""
        if tensor.is_empty():
            return UNKNOWN
        dtype, shape = _described(found) if found is not None else (None, None)
        if shape is None and isinstance(tensor, Variable) and tensor.shape is not None:
            shape = [e if isinstance(e, int) else self._facts.dims.get(str(e)) for e in tensor.shape]
        if dtype is None and isinstance(tensor, Variable):
            dtype = tensor.dtype
        if shape is None:
            return Fact(dtype, None)
        return Fact(dtype, tuple(self._guess() if e is None else e for e in shape))

    def _guess(self) -> int:
        prime = next(self._spare)
        self._facts.guessed.add(prime)
        return prime


def _is_fixed(tensor: Tensor) -> bool:
    return isinstance(tensor, Constant) or (bool(tensor.inputs) and tensor.inputs[0].is_op("Constant"))


def _described(proto: onnx.TypeProto) -> tuple[np.dtype[Any] | None, list[int | None] | None]:
    if not proto.HasField("tensor_type") or not proto.tensor_type.elem_type:
        return None, None
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(proto.tensor_type.elem_type))
    if not proto.tensor_type.HasField("shape"):
        return dtype, None
    return dtype, [d.dim_value if d.HasField("dim_value") else None for d in proto.tensor_type.shape.dim]


def infer_shapes(model: Model) -> None:
    """Write types and symbolic shapes into the variables of ``model`` where ONNX can infer them.

    Works on a stub without the large weights. What is declared already stays; what cannot be inferred stays unknown.
    """
    proto = onnx.shape_inference.infer_shapes(model.stub_proto(), data_prop=True)
    _write(model.graph, proto.graph)


def _write(graph: Graph, proto: onnx.GraphProto) -> None:
    infos = {v.name: v for v in proto.value_info}
    for node in graph.nodes:
        for tensor in node.outputs:
            info = infos.get(tensor.name)
            if info is None or not isinstance(tensor, Variable) or not info.type.HasField("tensor_type"):
                continue
            described = info.type.tensor_type
            if tensor.dtype is None and described.elem_type:
                tensor.dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(described.elem_type))
            if tensor.shape is None and described.HasField("shape"):
                tensor.shape = [
                    d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in described.shape.dim
                ]
