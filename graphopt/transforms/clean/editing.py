"""An editor for many small rewrites in one go: scopes, facts, uses, and removal as soon as nothing reads a node.

``Graph``'s own primitives scan the model for some edits. The editor knows which graph owns a node and which tensors
are outputs, so that each rewrite costs what it touches. ``finish`` puts the graph in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import onnx

from graphopt.graph import Graph, subgraphs
from graphopt.ir import Array, Constant, Node, Tensor, Variable, constant_value, is_constant
from graphopt.model import Model
from graphopt.transforms.clean.fact_rows import ROWS
from graphopt.transforms.clean.facts import Fact, Interpreter


def tensor_facts(model: Model) -> Interpreter:
    """An analysis: what is known of every tensor of the model, which is put in topological order first."""
    model.graph.sort()
    facts = Interpreter(model.graph, ROWS)
    facts.run()
    return facts


class Gate(Protocol):
    """Who decides whether a rewrite may happen, and hears of it. A pass's context is one."""

    def allow(self, where: Node | Tensor | str | None, rewrite: str = "") -> bool:
        """Whether the rewrite may be applied here."""
        ...

    def skipped(self, where: Node | Tensor | str | None, reason: str) -> None:
        """Hear what was not done, and why."""
        ...

    def count(self, statistic: str, amount: float = 1) -> None:
        """Hear how often something was done."""
        ...

    def report_change(self) -> None:
        """Hear that the model changed."""
        ...


@dataclass(frozen=True)
class Rewrite:
    """A rewrite of the nodes of some operators.

    ``apply`` looks at one node, changes the graph when its pattern and conditions hold, and says whether it did.
    It must ask ``editor.allow(node)`` after the last condition and before the first change.
    """

    name: str
    ops: tuple[str, ...]
    apply: Callable[[Node, Editor], bool]
    guarantee: Literal["exact", "equivalent"] = "exact"


class Editor:
    """Edits one model. ``facts`` are those of the tensors as they are now, and are kept up to date."""

    def __init__(self, model: Model, gate: Gate, facts: Interpreter) -> None:
        root = model.graph
        self.model = model
        self.root = root
        self.gate = gate
        self.facts = facts
        self.changed = 0
        self.rewrite = ""
        self._owners: dict[Node, Graph] = {}
        self._ends: dict[Tensor, list[Graph]] = {}
        self._removed: set[Node] = set()
        self._stale: set[Node] = set()
        self._edited = False
        self._by_hand = False
        self._made: set[Node] = set()
        self._queue: deque[Node] = deque()
        self._waiting: set[Node] = set()
        self._by_op: dict[str, list[Rewrite]] = {}
        for graph in root.graphs():
            self._owners.update(dict.fromkeys(graph.nodes, graph))
            for tensor in graph.outputs:
                self._ends.setdefault(tensor, []).append(graph)

    # -- asking --------------------------------------------------------------------------------------------------

    @property
    def opset(self) -> int:
        """The ``ai.onnx`` version."""
        return self.root.opset

    def allow(self, node: Node) -> bool:
        """Whether the rewrite that is running may change things at this node."""
        return self.gate.allow(node, self.rewrite)

    def fact(self, tensor: Tensor) -> Fact:
        """What is known of a tensor."""
        return self.facts.fact(tensor)

    def owner(self, node: Node) -> Graph:
        """The graph that holds the node."""
        return self._owners[node]

    def is_live(self, node: Node) -> bool:
        """Whether the node is still in the model."""
        return node in self._owners and node not in self._removed

    def is_end(self, tensor: Tensor) -> bool:
        """Whether the tensor is an output of the main or a nested graph."""
        return tensor in self._ends

    def only_user(self, tensor: Tensor) -> Node | None:
        """The one node that reads the tensor, once, in the same graph; None when there are others."""
        if len(tensor.outputs) != 1 or self.is_end(tensor):
            return None
        user = tensor.outputs[0]
        producer = tensor.inputs[0] if tensor.inputs else None
        if producer is not None and self._owners.get(user) is not self._owners.get(producer):
            return None
        return user

    def producer(self, tensor: Tensor, user: Node, *ops: str) -> Node | None:
        """The node that makes the tensor, when it is one of ``ops`` and in the same graph as ``user``."""
        if isinstance(tensor, Constant) or not tensor.inputs:
            return None
        node = tensor.inputs[0]
        if node.domain or (ops and node.op not in ops) or self._owners.get(node) is not self._owners.get(user):
            return None
        return node

    def private_producer(self, tensor: Tensor, user: Node, *ops: str) -> Node | None:
        """``producer``, when ``user`` is the only reader of its first output and no other output is read."""
        node = self.producer(tensor, user, *ops)
        if node is None or self.only_user(tensor) is not user:
            return None
        return None if any(t.outputs or self.is_end(t) for t in node.outputs if t is not tensor) else node

    def constant(self, node: Node, index: int) -> Array | None:
        """The value of an input that is fixed in the file."""
        if index >= len(node.inputs) or node.inputs[index].is_empty():
            return None
        return constant_value(node.inputs[index])

    def ints(self, node: Node, index: int) -> list[int] | None:
        """A known integer input, flat."""
        known = self.facts.array(node, index)
        return None if known is None else known.reshape(-1).tolist()

    def has_input(self, node: Node, index: int) -> bool:
        """Whether the input is given."""
        return index < len(node.inputs) and not node.inputs[index].is_empty()

    # -- changing ------------------------------------------------------------------------------------------------

    def replace(self, old: Tensor, new: Tensor) -> bool:
        """Make every reader of ``old`` read ``new``; what then is not needed is removed.

        False, and no change, when ``old`` is an output that could only be kept by an Identity.
        """
        if old is new:
            return False
        if self.is_end(old) and not self._can_take_over(old, new):
            return False
        readers = list(dict.fromkeys(old.outputs))
        self._edited = True
        self._stale.update(readers)
        fact = self.fact(old)
        graphs = self._ends.pop(old, [])
        if graphs:
            self._move_end(old, new, graphs)
        for node in list(old.outputs):
            for index, tensor in enumerate(node.inputs):
                if tensor is old:
                    node.inputs[index] = new
        self._learn(new, fact)
        makers = list(old.inputs)
        for node in makers:
            self.discard(node)
            if not graphs:
                self._inherit_names(old, node, new)
        self._requeue(readers)
        return True

    def _inherit_names(self, old: Tensor, maker: Node, new: Tensor) -> None:
        """Give what was made in this session the names of what it stands for."""
        made = new.inputs[0] if new.inputs else None
        if made is None or made not in self._made or self.is_live(maker) or self.is_end(new):
            return
        old.name, new.name = new.name, old.name
        if made.op == maker.op and maker.name:
            made.name, maker.name = maker.name, made.name

    def _can_take_over(self, old: Tensor, new: Tensor) -> bool:
        if not isinstance(new, Variable) or not new.inputs or not isinstance(old, Variable) or new in self._ends:
            return False
        if self.fact(old).dtype != self.fact(new).dtype:
            return False
        return all(self._owners.get(new.inputs[0]) is g for g in self._ends[old])

    def _move_end(self, old: Tensor, new: Tensor, graphs: list[Graph]) -> None:
        graphs[0].replace_uses(old, new)
        for graph in graphs[1:]:
            graph.replace_uses(old, new)
        self._ends[new] = graphs

    def _learn(self, tensor: Tensor, fact: Fact) -> None:
        """Keep the more precise of what two equal tensors say."""
        known = self.fact(tensor)
        if known.shape is None or (known.value is None and fact.value is not None and known.dtype == fact.dtype):
            self.facts.facts[tensor] = fact

    def add(
        self,
        op: str,
        inputs: Sequence[Tensor | None],
        near: Node,
        attrs: Mapping[str, Any] | None = None,
        outputs: int | Sequence[Tensor] = 1,
    ) -> Node:
        """Add a node to the graph of ``near``, with its name as a hint."""
        graph = self.owner(near)
        node = graph.add_node(op, inputs, outputs, attrs, name=near.name or op)
        self._owners[node] = graph
        self._made.add(node)
        self._edited = True
        self.facts.facts.update(zip(node.outputs, self.facts.interpret(node), strict=True))
        self._requeue([node])
        return node

    def new(
        self, op: str, inputs: Sequence[Tensor | None], near: Node, attrs: Mapping[str, Any] | None = None
    ) -> Tensor:
        """Add a node and return its output."""
        return self.add(op, inputs, near, attrs).outputs[0]

    def const(self, near: Node, values: Array | np.generic | Sequence[int], hint: str = "") -> Tensor:
        """A new constant in the graph of ``near``; a sequence is int64.

        An initializer, or the output of a Constant node before IR version 4, where initializers had to be inputs.
        """
        array = np.asarray(values, np.int64 if isinstance(values, (list, tuple)) else None)
        name = hint or f"{near.name or near.op}_const"
        if self.model.ir_version >= 4:
            self._edited = True
            return self.owner(near).new_constant(name, array)
        node = self.add("Constant", [], near, {"value": Constant(name, array)})
        node.attr_types = {"value": onnx.AttributeProto.TENSOR}
        return node.outputs[0]

    def set_input(self, node: Node, index: int, tensor: Tensor | None) -> None:
        """Make input ``index`` read another tensor, or leave it out; what then is not needed is removed."""
        old = node.inputs[index]
        node.inputs[index] = Variable("") if tensor is None else tensor
        while node.inputs and node.inputs[-1].is_empty():
            del node.inputs[len(node.inputs) - 1]
        self._edited = True
        self._stale.add(node)
        self.release(old)
        self._requeue([node])

    def mark_edited(self) -> None:
        """Say that the graph was changed without the editor; ``finish`` then looks for what nothing needs any more."""
        self._edited = self._by_hand = True

    def release(self, tensor: Tensor) -> None:
        """Remove what makes the tensor, when nothing reads it any more."""
        for node in list(tensor.inputs):
            self.discard(node)

    def discard(self, node: Node) -> None:
        """Remove a node of which nothing is read, and then what only it read."""
        stack = [node]
        while stack:
            node = stack.pop()
            if not self.is_live(node) or any(t.outputs or self.is_end(t) for t in node.outputs if not t.is_empty()):
                continue
            if not node.outputs:
                continue
            self._removed.add(node)
            self._edited = True
            sources = [p for t in _all_reads(node) for p in t.inputs]
            _unlink(node, self._removed)
            stack.extend(dict.fromkeys(sources))
            self._requeue([r for p in sources for t in p.outputs for r in t.outputs])

    def finish(self) -> int:
        """Drop removed nodes and unread initializers, sort, update the facts; returns the number of rewrites."""
        if self._edited:
            for node in self._made:
                self.discard(node)
            for graph in self.root.graphs():
                if self._removed:
                    graph.nodes = [n for n in graph.nodes if n not in self._removed]
                ends = {*graph.inputs, *graph.outputs}
                graph.initializers = [c for c in graph.initializers if c.outputs or c in ends]
            if self._by_hand:
                self.root.remove_dead()
            self.root.sort()
            self.facts.update(self._stale - self._removed)
            self.gate.report_change()
        return self.changed

    # -- running -------------------------------------------------------------------------------------------------

    def run(self, rewrites: Iterable[Rewrite]) -> int:
        """Apply rewrites, in order of the nodes, until none applies any more. Returns how many did.

        Nodes are indexed by operator: a rewrite is only tried on nodes of its operators, and again only on nodes
        whose surroundings changed.
        """
        by_op: dict[str, list[Rewrite]] = {}
        for rewrite in rewrites:
            for op in rewrite.ops:
                by_op.setdefault(op, []).append(rewrite)
        before = self.changed
        self._by_op = by_op
        self._queue = deque(n for n in self._owners if n.op in by_op and not n.domain)
        self._waiting = set(self._queue)
        while self._queue:
            node = self._queue.popleft()
            self._waiting.discard(node)
            if self._try(node):
                self._requeue([node])
        self._by_op = {}
        return self.changed - before

    def _try(self, node: Node) -> bool:
        for rewrite in self._by_op[node.op]:
            if not self.is_live(node):
                return False
            self.rewrite = rewrite.name
            if rewrite.apply(node, self):
                self.changed += 1
                self.gate.count(rewrite.name)
                return True
        return False

    def _requeue(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            if node.op in self._by_op and node not in self._waiting and not node.domain and self.is_live(node):
                self._waiting.add(node)
                self._queue.append(node)


def _all_reads(node: Node) -> list[Tensor]:
    found = list(node.inputs)
    for sub in subgraphs(node):
        found.extend(sub.outputs)
        for inner in sub.nodes:
            found.extend(_all_reads(inner))
    return found


def _unlink(node: Node, removed: set[Node]) -> None:
    for sub in subgraphs(node):
        for inner in sub.nodes:
            removed.add(inner)
            _unlink(inner, removed)
    node.inputs.clear()
    node.outputs.clear()


def known(tensor: Tensor) -> bool:
    """Whether the tensor's value is fixed in the file."""
    return is_constant(tensor)
