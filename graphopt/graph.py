"""The owned graph: walking, editing, names, use replacement, order and dead code.

Every edit of a pass goes through these primitives, or through the synchronised ``inputs`` and ``outputs`` lists
of nodes. None of them scans the whole graph, except those that say so.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphopt.adoption import adopt
from graphopt.errors import GraphoptError, UsageError
from graphopt.ir import Array, Constant, Node, Shape, Tensor, Variable, constant_node, empty, renamed_annotation
from graphopt.ir import subgraphs as subgraphs
from graphopt.order import sorted_nodes

Opsets: TypeAlias = dict[str, int]


class Graph(gs.Graph):  # type: ignore[misc]
    """A graph, main or nested, that keeps what its file held.

    ``initializers`` lists the constants that this graph owns, in file order. ``opsets`` maps a domain (``""`` is
    ``ai.onnx``) to its version and is shared by all graphs of a model. Before IR version 4 files list initializers
    among the inputs; here they are none, and ``listed`` keeps the order of the file.
    """

    nodes: list[Node]
    inputs: list[Tensor]
    outputs: list[Tensor]
    initializers: list[Constant]
    name: str
    doc_string: str
    metadata_props: Mapping[str, str]
    quantization_annotation: list[onnx.TensorAnnotation]
    listed: list[str]
    ir_version: int

    def __init__(
        self,
        nodes: Sequence[Node] | None = None,
        inputs: Sequence[Tensor] | None = None,
        outputs: Sequence[Tensor] | None = None,
        name: str = "graph",
        doc_string: str = "",
        opset: int | None = None,
        ir_version: int = onnx.IR_VERSION,
        **_: Any,
    ) -> None:
        self.opsets: Opsets = {"": opset or onnx.defs.onnx_opset_version()}
        self.initializers = []
        self.metadata_props = {}
        self.quantization_annotation = []
        self.listed = []
        self._ids: Iterator[int] = itertools.count()
        self._names: dict[str, int] | None = None
        super().__init__(nodes, inputs, outputs, name=name, doc_string=doc_string, opset=opset, ir_version=ir_version)

    def __getattr__(self, name: str) -> Any:
        registered = gs.Graph.GLOBAL_FUNC_MAP.get(name)
        if registered is None:
            raise AttributeError(f"Graph has no attribute {name!r}")
        return lambda *args, **kwargs: registered(self, *args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    @property
    def opset(self) -> int:
        """Version of the ``ai.onnx`` operators. Setting it changes what is exported."""
        return self.opsets.get("", 1)

    @opset.setter
    def opset(self, version: int | None) -> None:
        if version is not None:
            self.opsets[""] = version

    @property
    def import_domains(self) -> Opsets:
        """Same as ``opsets``, under graphsurgeon's name."""
        return self.opsets

    @import_domains.setter
    def import_domains(self, opsets: Opsets | None) -> None:
        if opsets is not None:
            self.opsets = opsets

    def domain_opset(self, domain: str | None) -> int:
        """Version of a domain's operators; 1 when the model does not import it."""
        return self.opsets.get(domain or "", 1)

    # -- walking -------------------------------------------------------------------------------------------------

    def graphs(self) -> Iterator[Graph]:
        """This graph and all graphs nested in its nodes, outer ones first."""
        stack = [self]
        while stack:
            graph = stack.pop()
            yield graph
            stack.extend(
                [
                    value
                    for node in reversed(graph.nodes)
                    if node.attrs
                    for value in node.attrs.values()
                    if isinstance(value, gs.Graph)
                ]
            )

    def walk(self) -> Iterator[Node]:
        """All nodes, those of nested graphs included."""
        for graph in self.graphs():
            yield from graph.nodes

    def tensors(self, check_duplicates: bool = False) -> dict[str, Tensor]:
        """Name to tensor, for the tensors that this graph's own nodes, inputs, outputs and initializers mention."""
        found: dict[str, Tensor] = {}
        for tensor in self._mentioned():
            if check_duplicates and found.get(tensor.name, tensor) is not tensor:
                raise GraphoptError(f"two tensors are called {tensor.name!r}")
            found[tensor.name] = tensor
        return found

    def _mentioned(self) -> Iterator[Tensor]:
        yield from self.inputs
        yield from self.initializers
        for node in self.nodes:
            yield from (t for t in (*node.inputs, *node.outputs) if not t.is_empty())
        yield from self.outputs

    def share_names(self, names: dict[str, int], ids: Iterator[int]) -> None:
        """Use the name table and id counter of the model that this graph belongs to."""
        self._names, self._ids = names, ids

    # -- adding --------------------------------------------------------------------------------------------------

    def unique_name(self, hint: str) -> str:
        """``hint``, or ``hint`` with a number, such that no tensor or node of the model has it."""
        names = self.name_table()
        count = names.get(hint)
        if count is None:
            names[hint] = 0
            return hint
        while (candidate := f"{hint}_{count}") in names:
            count += 1
        names[hint] = count + 1
        names[candidate] = 0
        return candidate

    def new_variable(self, hint: str, dtype: np.dtype[Any] | None = None, shape: Shape | None = None) -> Variable:
        """A new tensor with a unique name."""
        variable = Variable(self.unique_name(hint), dtype, shape)
        variable.id = next(self._ids)
        return variable

    def new_constant(self, hint: str, values: Array | np.generic | float | int) -> Constant:
        """A new initializer of this graph with a unique name. ``values`` is not copied: do not change it afterwards."""
        constant = Constant(self.unique_name(hint), np.asarray(values))
        constant.id = next(self._ids)
        self.initializers.append(constant)
        return constant

    def add_node(
        self,
        op: str,
        inputs: Sequence[Tensor | None],
        outputs: int | Sequence[Tensor] = 1,
        attrs: Mapping[str, Any] | None = None,
        name: str | None = None,
        domain: str = "",
        before: Node | None = None,
    ) -> Node:
        """Add a node and return it; None among ``inputs`` is an omitted optional one.

        ``outputs`` are tensors, or how many new ones to make. With ``before`` the node is put in front of that
        node (this looks for its place); otherwise at the end, and ``sort`` puts it where it belongs.
        """
        label = self.unique_name(name or op)
        made = (
            [self.new_variable(f"{label}_out") for _ in range(outputs)] if isinstance(outputs, int) else list(outputs)
        )
        node = Node(op, label, dict(attrs or {}), [empty() if t is None else t for t in inputs], made, domain)
        node.id = next(self._ids)
        if domain and domain not in self.opsets:
            self.opsets[domain] = 1
        self.nodes.insert(len(self.nodes) if before is None else self._index(before), node)
        return node

    def _index(self, node: Node) -> int:
        for index, candidate in enumerate(self.nodes):
            if candidate is node:
                return index
        raise GraphoptError(f"node {node.name!r} is not in graph {self.name!r}")

    # -- changing ------------------------------------------------------------------------------------------------

    def set_weight(self, tensor: Tensor, values: Array) -> None:
        """Replace the value of an initializer, or of the ``Constant`` node that produces ``tensor``.

        ``values`` is not copied: do not change it afterwards.
        """
        node = constant_node(tensor)
        values = np.asarray(values)
        if isinstance(tensor, Constant):
            tensor.values = values
        elif node is not None:
            node.attrs = {"value": Constant(tensor.name, values)}
            node.attr_types = {"value": onnx.AttributeProto.TENSOR}
            tensor.dtype, tensor.shape = values.dtype, list(values.shape)
        else:
            raise GraphoptError(f"tensor {tensor.name!r} is not a constant; its value cannot be set")

    def rename(self, tensor: Tensor, name: str) -> None:
        """Give a tensor another name, which must be free."""
        names = self.name_table()
        if name in names:
            raise GraphoptError(f"cannot rename {tensor.name!r}: {name!r} is taken")
        names[name] = 0
        old, tensor.name = tensor.name, name
        self.quantization_annotation = [renamed_annotation(a, old, name) for a in self.quantization_annotation]

    def replace_uses(self, old: Tensor, new: Tensor) -> None:
        """Make every consumer of ``old``, nested graphs and graph outputs included, use ``new``.

        An output of a graph keeps its name: ``new`` takes the name over when a node of the same graph produces
        it and it is not an output itself; otherwise an Identity is added.
        """
        if old is new:
            return
        for node in list(old.outputs):
            for index, tensor in enumerate(node.inputs):
                if tensor is old:
                    node.inputs[index] = new
        for graph in self.graphs():
            if any(t is old for t in graph.outputs):
                graph._replace_output(old, new)

    def _replace_output(self, old: Tensor, new: Tensor) -> None:
        if isinstance(old, Constant) or any(t is old for t in self.inputs):
            raise GraphoptError(
                f"output {old.name!r} of graph {self.name!r} is an input or initializer itself; it cannot be replaced"
            )
        produced = isinstance(new, Variable) and bool(new.inputs) and any(n is new.inputs[0] for n in self.nodes)
        if produced and isinstance(old, Variable) and not any(t is new for t in self.outputs):
            assert isinstance(new, Variable)
            new.name, old.name = old.name, self.unique_name(f"{old.name}_replaced")
            new.dtype, new.shape = old.dtype or new.dtype, old.shape if old.shape is not None else new.shape
            new.doc_string, new.metadata_props, new.denotations = (
                old.doc_string,
                old.metadata_props,
                old.denotations,
            )
            new.type_proto = old.type_proto
            self.outputs = [new if t is old else t for t in self.outputs]
            return
        for producer in list(old.inputs):
            index = next(i for i, t in enumerate(producer.outputs) if t is old)
            producer.outputs[index] = self.new_variable(f"{old.name}_replaced", old.dtype, None)
        self.add_node("Identity", [new], [old])

    def remove_nodes(self, nodes: Iterable[Node]) -> None:
        """Take nodes out and cut their links. One scan of the graphs, however many nodes."""
        gone = {id(n) for n in nodes}
        for graph in list(self.graphs()):
            removed = [n for n in graph.nodes if id(n) in gone]
            if removed:
                graph.nodes = [n for n in graph.nodes if id(n) not in gone]
            for node in removed:
                _unlink(node)

    def remove_dead(self) -> int:
        """Remove the nodes and initializers that no output needs; returns how many. Scans the model.

        Outputs of a live node stay where they are, used or not. A node without outputs is kept.
        """
        live = self._live_nodes()
        removed = 0
        for graph in list(self.graphs()):
            dead = [n for n in graph.nodes if id(n) not in live]
            graph.nodes = [n for n in graph.nodes if id(n) in live]
            for node in dead:
                _unlink(node)
            removed += len(dead)
        for graph in self.graphs():
            kept = graph._read_initializers()
            removed += len(graph.initializers) - len(kept)
            graph.initializers = kept
        return removed

    def has_dead(self) -> bool:
        """Whether ``remove_dead`` would remove anything. Scans the model."""
        live = self._live_nodes()
        return any(
            any(id(n) not in live for n in graph.nodes) or len(graph._read_initializers()) < len(graph.initializers)
            for graph in self.graphs()
        )

    def _read_initializers(self) -> list[Constant]:
        ends = {id(t) for t in (*self.inputs, *self.outputs)}
        return [c for c in self.initializers if c.outputs or id(c) in ends]

    def _live_nodes(self) -> set[int]:
        live: set[int] = set()
        stack: list[Tensor] = list(self.outputs)
        for node in self.nodes:
            if not any(not t.is_empty() for t in node.outputs):
                live.add(id(node))
                stack.extend(_reads(node))
        seen: set[int] = set()
        while stack:
            tensor = stack.pop()
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            for node in tensor.inputs:
                if id(node) not in live:
                    live.add(id(node))
                    stack.extend(_reads(node))
        return live

    def sort(self) -> None:
        """Put the nodes of this graph and of nested ones in topological order; already sorted ones do not move.

        Raises:
            InvalidModelError: the nodes form a cycle.
        """
        for graph in self.graphs():
            graph.nodes = sorted_nodes(graph)

    # -- names and ids -------------------------------------------------------------------------------------------

    def adopt(self) -> None:
        """Take over what was added by hand: classes, ids, missing node names, ownership of new constants."""
        adopt(self)

    def name_table(self) -> dict[str, int]:
        """All names of the model, with the number that ``unique_name`` tries next. One table for all its graphs."""
        if self._names is None:
            self._names = {}
            for graph in self.graphs():
                self._names.update((t.name, 0) for t in graph._mentioned())
                self._names.update((n.name, 0) for n in graph.nodes if n.name)
        return self._names

    # -- graphsurgeon operations that are not safe ---------------------------------------------------------------

    def cleanup(self, *_: Any, **__: Any) -> Graph:
        """Same as ``remove_dead`` and ``sort``; returns the graph, as graphsurgeon does."""
        self.remove_dead()
        self.sort()
        return self

    def toposort(self, *_: Any, **__: Any) -> Graph:
        """Same as ``sort``; returns the graph, as graphsurgeon does."""
        self.sort()
        return self

    def layer(self, inputs: Sequence[Any] = (), outputs: Sequence[Any] = (), *, op: str, **kwargs: Any) -> list[Tensor]:
        """Add a node as graphsurgeon's ``layer`` does: arrays become constants, strings become tensor names."""
        made = [self.new_variable(t) if isinstance(t, str) else t for t in outputs]
        read = [
            self.new_constant(op, np.asarray(t)) if isinstance(t, (np.ndarray, list, int, float)) else t for t in inputs
        ]
        return self.add_node(
            op, read, made, kwargs.get("attrs"), kwargs.get("name"), kwargs.get("domain") or ""
        ).outputs

    def fold_constants(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: it folds random operators and has no size limit. Run the ``cleanup`` pass instead."""
        raise UsageError(
            "Graph.fold_constants is not safe (no size limit, folds random operators); run the cleanup pass"
        )

    def copy(self, tensor_map: Any = None) -> NoReturn:
        """Refused: it loses tensor types. Use ``Model.clone``."""
        raise UsageError("Graph.copy loses what the file held; use Model.clone()")


def _reads(node: Node) -> list[Tensor]:
    return [*node.inputs, *(t for sub in subgraphs(node) for t in sub.outputs)]


def _unlink(node: Node) -> None:
    for sub in subgraphs(node):
        for inner in sub.nodes:
            _unlink(inner)
    node.inputs.clear()
    node.outputs.clear()
