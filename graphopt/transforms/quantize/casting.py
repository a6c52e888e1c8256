"""Casting a model to float16 or bfloat16 where its values fit, and back to float32.

Which nodes can be cast is read from the operators' schemas: every float32 input and output whose type parameter admits
the narrow type is cast, others keep theirs. An operator whose output type hangs on an attribute (Cast, ConstantOfShape,
RandomNormal) stays. Nested graphs stay in float32; what they read from outside is given to them in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

import ml_dtypes
import numpy as np
import onnx

from graphopt.graph import Graph, subgraphs
from graphopt.ir import Array, Constant, Node, Tensor, Variable, constant_value
from graphopt.model import Model
from graphopt.transforms.quantize.probe import element_types
from graphopt.transforms.quantize.units import QUANTIZED_OPS

Narrow: TypeAlias = Literal["float16", "bfloat16"]

FLOAT = int(onnx.TensorProto.FLOAT)
NARROW: Mapping[Narrow, np.dtype[np.generic]] = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_ENUM: Mapping[str, int] = {"float16": int(onnx.TensorProto.FLOAT16), "bfloat16": int(onnx.TensorProto.BFLOAT16)}
SQUARES = frozenset(
    {
        "LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization",
        "LpNormalization", "ReduceL2", "ReduceSumSquare",
    }
)  # fmt: skip
SINGULAR: Mapping[str, int] = {"Div": 1, "Reciprocal": 0, "Log": 0, "Sqrt": 0, "Pow": 0}
"""Position of the operand whose small values matter: near 0 the result changes without bound."""

_CAST_ERROR = 2.0**-7


def largest(narrow: Narrow) -> float:
    """The largest finite value of the type."""
    return float(ml_dtypes.finfo(NARROW[narrow]).max)  # type: ignore[no-untyped-call]


def smallest(narrow: Narrow) -> float:
    """The smallest positive value of full precision of the type."""
    return float(ml_dtypes.finfo(NARROW[narrow]).smallest_normal)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Ports:
    """Positions of the float32 inputs and outputs of a node that can take the narrow type."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def ports(node: Node, types: Mapping[str, int], opset: int, narrow: Narrow) -> Ports | str:
    """What of a node can be cast, or in words why nothing can. ``types``: element type of each tensor by name."""
    if node.domain:
        return f"operators of {node.domain} keep their types"
    if subgraphs(node):
        return "it holds a graph, and nested graphs stay in float32"
    if node.op in QUANTIZED_OPS:
        return "it is part of the quantization"
    if any(t.inputs and t.inputs[0].is_op("DequantizeLinear") for t in node.inputs):
        return "it reads dequantized values, and runs on integers"
    if _crashes(node):
        return "ONNX Runtime crashes while it fuses a half-precision Transpose of the first axis into a MatMul"
    table = _table(node.op, opset, f"tensor({narrow})")
    if table is None:
        return f"{node.op} is not known in opset {opset}"
    inputs = [i for i, t in enumerate(node.inputs) if not t.is_empty() and _is_float(t, types)]
    outputs = [i for i, t in enumerate(node.outputs) if not t.is_empty()]
    if any(t.name not in types for t in node.outputs if not t.is_empty()):
        return "the type of an output is not known"
    outputs = [i for i in outputs if types[node.outputs[i].name] == FLOAT]
    bound = {table.input(i) for i in inputs}
    if any(table.output(i) not in bound for i in outputs):
        return f"{node.op} fixes the type of its output"
    if any(table.output(i) not in table.narrow for i in outputs):
        return f"{node.op} does not take {narrow}"
    kept = tuple(i for i in inputs if table.input(i) in table.narrow)
    return Ports(kept, tuple(outputs)) if kept else f"{node.op} does not take {narrow}"


def _crashes(node: Node) -> bool:
    """A segmentation fault of ONNX Runtime 1.32 (CPU, all optimizations), whatever the MatMul's own type is."""
    perm = list(node.attrs.get("perm", ())) if node.op == "Transpose" else []
    readers = node.outputs[0].outputs
    return perm[:1] not in ([], [0]) and any(r.op in ("MatMul", "Identity", "Cast") for r in readers)


def _is_float(tensor: Tensor, types: Mapping[str, int]) -> bool:
    value = constant_value(tensor)
    return value.dtype == np.float32 if value is not None else types.get(tensor.name) == FLOAT


@dataclass(frozen=True)
class _Table:
    """Type parameters of an operator's inputs and outputs (the last repeats if ``variadic``); ``narrow``: those that
    admit the narrow type."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    narrow: frozenset[str]

    def input(self, place: int) -> str:
        return self.inputs[min(place, len(self.inputs) - 1)]

    def output(self, place: int) -> str:
        return self.outputs[min(place, len(self.outputs) - 1)]


@cache
def _table(op: str, opset: int, wanted: str) -> _Table | None:
    try:
        schema = onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return None
    allowed = frozenset(c.type_param_str for c in schema.type_constraints if wanted in c.allowed_type_strs)
    return _Table(
        tuple(p.type_str for p in schema.inputs), tuple(p.type_str for p in schema.outputs), allowed
    ) if schema.inputs else None  # fmt: skip


def lossy_constant(value: Array, narrow: Narrow) -> str:
    """In words, what the narrow type would do to a constant that it cannot hold; "" when it can."""
    finite = value[np.isfinite(value)]
    if not finite.size:
        return ""
    top = float(np.abs(finite).max())
    if top > largest(narrow):
        return f"holds {top:.3g}, over the largest {narrow}"
    exact = finite.astype(np.float64)
    error = np.linalg.norm(exact - exact.astype(NARROW[narrow]).astype(np.float64))
    norm = float(np.linalg.norm(exact))
    return f"is too small for {narrow} (largest {top:.3g})" if error > _CAST_ERROR * norm else ""


class Caster:
    """Casts chosen nodes of the main graph. Names, and types of inputs and outputs, stay unless ``interface``."""

    def __init__(self, model: Model, narrow: Narrow, interface: bool = False) -> None:
        self.graph: Graph = model.graph
        self.model, self.narrow, self.interface = model, narrow, interface
        self.casts = 0
        self._narrowed: dict[int, Tensor] = {}
        own = {id(t) for t in model.graph.outputs} if interface else set()
        self._ends = {id(t) for g in model.graph.graphs() for t in g.outputs} - own

    def cast(self, chosen: Mapping[int, Ports]) -> None:
        """Cast the nodes whose Python id is a key of ``chosen``."""
        members = {id(n) for n in self.graph.nodes}
        if self.interface:
            self._narrow_inputs()
        for node in list(self.graph.nodes):
            found = chosen.get(id(node))
            if found is None:
                continue
            for place in found.inputs:
                node.inputs[place] = self._narrow(node.inputs[place], node)
            for place in found.outputs:
                self._output(node, place, chosen, members)
        if self.interface:
            self._narrow_outputs()
        self.graph.sort()
        self.graph.remove_dead()

    def _narrow(self, tensor: Tensor, reader: Node) -> Tensor:
        """The narrow form of a float32 tensor, made once."""
        if tensor.dtype == NARROW[self.narrow]:
            return tensor
        if id(tensor) not in self._narrowed:
            value = constant_value(tensor)
            name = f"{tensor.name}_{self.narrow}"
            if value is not None:
                self._narrowed[id(tensor)] = self.graph.new_constant(name, value.astype(NARROW[self.narrow]))
            else:
                self._narrowed[id(tensor)] = self._cast(tensor, self.narrow, self._variable(name, tensor))
        return self._narrowed[id(tensor)]

    def _variable(self, name: str, like: Tensor) -> Variable:
        shape = like.shape if isinstance(like, Variable) else None
        return self.graph.new_variable(name, NARROW[self.narrow], shape)

    def _cast(self, source: Tensor, to: str, result: Tensor) -> Tensor:
        self.casts += 1
        attrs = {"to": _ENUM.get(to, FLOAT)}
        return self.graph.add_node("Cast", [source], [result], attrs, name=f"{result.name}_Cast").outputs[0]

    def _output(self, node: Node, place: int, chosen: Mapping[int, Ports], members: set[int]) -> None:
        tensor = node.outputs[place]
        assert isinstance(tensor, Variable)
        readers = [
            id(tensor) in self._ends,
            *(id(r) not in members or not _reads_narrow(r, tensor, chosen.get(id(r))) for r in tensor.outputs),
        ]
        if not any(readers):
            tensor.dtype = NARROW[self.narrow]
            return
        made = self._variable(f"{tensor.name}_{self.narrow}", tensor)
        node.outputs[place] = made
        self._narrowed[id(tensor)] = made
        self._cast(made, "float32", tensor)

    def _narrow_inputs(self) -> None:
        for tensor in self.graph.inputs:
            if not isinstance(tensor, Variable) or tensor.dtype != np.float32 or tensor.default is not None:
                continue
            wide = self.graph.new_variable(f"{tensor.name}_float32", np.dtype(np.float32), tensor.shape)
            for node in list(tensor.outputs):
                for place, read in enumerate(node.inputs):
                    if read is tensor:
                        node.inputs[place] = wide
            tensor.dtype = NARROW[self.narrow]
            self._narrowed[id(wide)] = tensor
            self._cast(tensor, "float32", wide)

    def _narrow_outputs(self) -> None:
        for tensor in self.graph.outputs:
            if not isinstance(tensor, Variable) or tensor.dtype != np.float32 or not tensor.inputs:
                continue
            producer = tensor.inputs[0]
            place = next(i for i, t in enumerate(producer.outputs) if t is tensor)
            wide = self.graph.new_variable(f"{tensor.name}_float32", np.dtype(np.float32), tensor.shape)
            for node in list(tensor.outputs):
                for index, read in enumerate(node.inputs):
                    if read is tensor:
                        node.inputs[index] = wide
            producer.outputs[place] = wide
            tensor.dtype = NARROW[self.narrow]
            self._cast(wide, self.narrow, tensor)


def _reads_narrow(node: Node, tensor: Tensor, found: Ports | None) -> bool:
    return found is not None and all(i in found.inputs for i, t in enumerate(node.inputs) if t is tensor)


def widen(model: Model) -> int:
    """Make every float16 and bfloat16 tensor float32, nested graphs included; returns how many weights were cast.

    Inputs and outputs keep their types, behind a Cast. Local functions are expanded.
    """
    narrow = set(NARROW.values())
    if model.functions:
        model.inline_functions()
    graph = model.graph
    ends = [t for t in (*graph.inputs, *graph.outputs) if isinstance(t, Variable) and t.type_proto is None]
    boundary = [t for t in ends if t.dtype in narrow]
    count = 0
    for one in list(graph.graphs()):
        for tensor in list(one.initializers):
            if tensor.dtype in narrow:
                _widen_weight(one, tensor)
                count += 1
        for node in one.nodes:
            _widen_attributes(node, narrow)
    for tensor in {id(t): t for g in graph.graphs() for t in _variables(g)}.values():
        if tensor.dtype in narrow and not any(tensor is b for b in boundary):
            tensor.dtype = np.dtype(np.float32)
    for tensor in boundary:
        _keep_type(graph, tensor)
    graph.sort()
    return count


def _widen_weight(owner: Graph, tensor: Constant) -> None:
    """Cast a weight; one that is an output too stays, and its readers get a copy."""
    wide = tensor.values.astype(np.float32)
    if not any(tensor is end for end in owner.outputs):
        owner.set_weight(tensor, wide)
        return
    copy = owner.new_constant(f"{tensor.name}_float32", wide)
    for node in list(tensor.outputs):
        for place, read in enumerate(node.inputs):
            if read is tensor:
                node.inputs[place] = copy


def _variables(graph: Graph) -> list[Variable]:
    found = [*graph.inputs, *graph.outputs, *(t for n in graph.nodes for t in (*n.inputs, *n.outputs))]
    return [t for t in found if isinstance(t, Variable)]


def _widen_attributes(node: Node, narrow: set[np.dtype[np.generic]]) -> None:
    for name, value in list(node.attrs.items()):
        if name in ("to", "dtype", "output_dtype") and value in _ENUM.values():
            node.attrs[name] = FLOAT
        elif name == "value" and getattr(value, "dtype", None) in narrow:
            array = np.asarray(value.values if hasattr(value, "values") else value)
            node.attrs[name] = array.astype(np.float32)


def _keep_type(graph: Graph, tensor: Variable) -> None:
    kind = "float16" if tensor.dtype == np.float16 else "bfloat16"
    wide = graph.new_variable(f"{tensor.name}_float32", np.dtype(np.float32), tensor.shape)
    for owner in graph.graphs():
        for node in owner.nodes:
            for place, read in enumerate(node.inputs):
                if read is tensor:
                    node.inputs[place] = wide
    if tensor.inputs:
        producer = tensor.inputs[0]
        producer.outputs[next(i for i, t in enumerate(producer.outputs) if t is tensor)] = wide
        graph.add_node("Cast", [wide], [tensor], {"to": _ENUM[kind]}, name=f"{tensor.name}_Cast")
    else:
        graph.add_node("Cast", [tensor], [wide], {"to": FLOAT}, name=f"{tensor.name}_Cast")


def emulated(model: Model) -> Model:
    """The model itself, or, where it computes in bfloat16, a copy that computes in float32 on bfloat16 values."""
    bfloat = _ENUM["bfloat16"]
    types = element_types(model)
    held = any(c.dtype == NARROW["bfloat16"] for g in model.graph.graphs() for c in g.initializers)
    if not held and bfloat not in types.values():
        return model
    clone = model.clone()
    found = {}
    for node in clone.graph.nodes:
        if not node.is_op("Cast", "Constant"):
            places = [
                tuple(i for i, t in enumerate(side) if not t.is_empty() and _is_bfloat(t, types))
                for side in (node.inputs, node.outputs)
            ]
            found[id(node)] = Ports(*places)
    for tensor in (t for n in clone.graph.nodes for t in n.outputs):
        if isinstance(tensor, Variable) and types.get(tensor.name) == bfloat:
            tensor.dtype = NARROW["bfloat16"]
    emulate(clone, found)
    return clone


def _is_bfloat(tensor: Tensor, types: Mapping[str, int]) -> bool:
    value = constant_value(tensor)
    return value.dtype == NARROW["bfloat16"] if value is not None else types.get(tensor.name) == _ENUM["bfloat16"]


def emulate(model: Model, nodes: Mapping[int, Ports]) -> None:
    """Make cast nodes compute in float32 on narrow values, for runtimes without kernels for the narrow type."""
    graph = model.graph
    for node in list(graph.nodes):
        found = nodes.get(id(node))
        if found is None:
            continue
        for place in found.inputs:
            source = node.inputs[place]
            node.inputs[place] = graph.add_node("Cast", [source], attrs={"to": FLOAT}, before=node).outputs[0]
        for place in found.outputs:
            target = node.outputs[place]
            wide = graph.new_variable(f"{target.name}_wide", np.dtype(np.float32))
            kind = next(k for k, v in NARROW.items() if v == target.dtype)
            node.outputs[place] = wide
            graph.add_node("Cast", [wide], [target], attrs={"to": _ENUM[kind]})
    graph.sort()
