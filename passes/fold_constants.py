"""Compute in advance what depends on constants only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.graph import Graph
from graphopt.ir import Array, Constant, Node, Tensor, constant_value
from graphopt.model import Model
from graphopt.pipeline.cleaning import KEEPS_FACTS, open_editor
from graphopt.pipeline.context import Context
from graphopt.pipeline.options import option
from graphopt.pipeline.passes import Guarantee, Pass
from graphopt.pipeline.rewrite import RewriteOptions
from graphopt.transforms.clean.editing import Editor
from graphopt.transforms.clean.evaluate import SUMMING, evaluate, may_fold

SMALL = 4096
"""Bytes that a folded value may always add."""
PICKING = frozenset({"NonZero", "Unique", "Compress"})
"""Operators whose outputs have as many positions as the data says, but at most those of the input."""


class FoldConstantsOptions(RewriteOptions):
    """Options of ``fold_constants``."""

    limit_kb: int = option(1024, "A folded value may be this many kB larger than the constants that it replaces.", ge=0)
    growth_kb: int = option(
        8192, "When all folded values together grow the file by more kB than this, only small ones are folded.", ge=0
    )


class FoldConstants(Pass[FoldConstantsOptions]):
    """Computes nodes whose inputs are all constant, and turns Constant nodes into initializers.

    As ONNX Runtime without optimizations would. With ``guarantee=exact`` operators that add up numbers are left alone:
    their last bit depends on where the runtime puts its buffers. Random operators, control flow and quantization are
    left alone, and so is what would make the file grow: a ConstantOfShape of 500 MB stays one node.
    """

    preserves = KEEPS_FACTS
    reports = True

    def effective_guarantee(self) -> Guarantee:
        """As the option says."""
        return self.options.guarantee

    def run(self, model: Model, ctx: Context) -> None:
        """Fold in one sweep."""
        editor = open_editor(model, ctx)
        editor.rewrite = "fold"
        Folding(editor, self.options).run()
        if model.ir_version >= 4:
            lift_constants(editor)
        editor.finish()


class Folding:
    """One sweep: forward to compute, backward to choose which results become constants."""

    def __init__(self, editor: Editor, options: FoldConstantsOptions) -> None:
        self._editor = editor
        self._exact = options.guarantee == "exact"
        self._limit = options.limit_kb * 1024
        self._growth = options.growth_kb * 1024
        self._computed: dict[Tensor, Array] = {}
        self._roots: dict[Tensor, frozenset[Tensor]] = {}

    def run(self) -> None:
        """Fold all graphs of the model."""
        order = [n for graph in self._editor.root.graphs() for n in graph.nodes]
        foldable = self._foldable(order)
        done = [n for n in order if n in foldable and self._compute(n, foldable)]
        chosen, growth = self._choose(done, self._limit)
        if growth > self._growth:
            self._editor.gate.skipped(
                None, f"folding everything would grow the file by {growth // 1024} kB; only what is small is folded"
            )
            chosen, _ = self._choose(done, SMALL)
        for node, needed in chosen:
            self._commit(node, needed)

    def _foldable(self, order: Sequence[Node]) -> set[Node]:
        """Nodes that depend on constants only and whose results are not too large to compute."""
        fixed: set[Tensor] = set()
        found: set[Node] = set()
        for node in order:
            if not all(self._is_fixed(t, fixed) for t in node.inputs) or not node.outputs or not may_fold(node):
                continue
            if self._exact and node.op in SUMMING:
                continue
            sizes = [self._size(node, t) for t in node.outputs if not t.is_empty()]
            inputs = sum(self._editor.fact(t).nbytes or 0 for t in node.inputs if not t.is_empty())
            if any(s is None or s > inputs + 8 * self._limit for s in sizes):
                self._editor.gate.skipped(node, "not folded: the result is too large, or its size is unknown")
                continue
            found.add(node)
            fixed.update(node.outputs)
        return found

    def _size(self, node: Node, output: Tensor) -> int | None:
        """Bytes of an output, at most; None when that is not known."""
        known = self._editor.fact(output).nbytes
        data = self._editor.fact(node.inputs[0]) if known is None and node.op in PICKING else None
        if data is None or data.nbytes is None or data.shape is None:
            return known
        return np.dtype(np.int64).itemsize * data.nbytes * max(1, len(data.shape))

    def _is_fixed(self, tensor: Tensor, fixed: set[Tensor]) -> bool:
        if tensor.is_empty() or tensor in fixed or isinstance(tensor, Constant):
            return True
        maker = tensor.inputs[0] if tensor.inputs else None
        return maker is not None and maker.is_op("Constant") and "sparse_value" not in maker.attrs

    def _compute(self, node: Node, foldable: set[Node]) -> bool:
        inputs: list[Array | None] = []
        roots: set[Tensor] = set()
        for tensor in node.inputs:
            value = None if tensor.is_empty() else self._value(tensor)
            if value is None and not tensor.is_empty():
                return False
            inputs.append(value)
            roots |= self._roots.get(tensor, frozenset({tensor} if self._is_private(tensor, foldable) else ()))
        outputs = evaluate(node, inputs, self._editor.root)
        if outputs is None:
            self._editor.gate.skipped(node, "not folded: ONNX Runtime does not run it alone")
            return False
        for tensor, made in zip(node.outputs, outputs, strict=True):
            self._computed[tensor] = made
            self._roots[tensor] = frozenset(roots)
        return True

    def _value(self, tensor: Tensor) -> Array | None:
        return self._computed[tensor] if tensor in self._computed else constant_value(tensor)

    def _is_private(self, tensor: Tensor, foldable: set[Node]) -> bool:
        """Whether folding frees the constant: nothing else reads it."""
        return isinstance(tensor, Constant) and all(n in foldable for n in tensor.outputs)

    def _choose(self, done: Sequence[Node], limit: int) -> tuple[list[tuple[Node, list[Tensor]]], int]:
        """The nodes whose outputs become constants, with those outputs, and by how much that grows the file.

        A result that grows the file by more than ``limit`` stays computed, and so what it is computed from is needed.
        """
        computed = set(done)
        chosen: list[tuple[Node, list[Tensor]]] = []
        total = 0
        constants_end = self._editor.model.ir_version < 4  # a Constant node can make an output, an initializer cannot
        for node in reversed(done):
            needed = [t for t in node.outputs if not t.is_empty() and self._is_needed(t, computed)]
            if not constants_end and any(self._editor.is_end(t) for t in needed):
                computed.discard(node)
                continue
            growth = [self._computed[t].nbytes - sum(_bytes(r) for r in self._roots[t]) for t in needed]
            if any(g > limit for g in growth):
                self._editor.gate.skipped(node, f"not folded: the file would grow by {max(growth) // 1024} kB")
                computed.discard(node)
            elif needed:
                chosen.append((node, needed))
                total += sum(max(0, g) for g in growth)
        return chosen, total

    def _is_needed(self, tensor: Tensor, computed: set[Node]) -> bool:
        return self._editor.is_end(tensor) or any(r not in computed for r in tensor.outputs)

    def _commit(self, node: Node, needed: Sequence[Tensor]) -> None:
        editor = self._editor
        if not editor.allow(node):
            return
        for tensor in needed:
            constant = editor.const(node, self._computed[tensor], hint=f"{tensor.name}_folded")
            if editor.replace(tensor, constant):
                editor.changed += 1


def _bytes(tensor: Tensor) -> int:
    return tensor.nbytes if isinstance(tensor, Constant) else 0


def lift_constants(editor: Editor) -> None:
    """Turn Constant nodes into initializers of the same graph, under the same name, without copying."""
    for graph in editor.root.graphs():
        for node in [n for n in graph.nodes if n.is_op("Constant") and editor.is_live(n)]:
            output = node.outputs[0]
            if not editor.is_end(output) and output.outputs and constant_value(output) is not None:
                lift(editor, graph, node)


def lift(editor: Editor, graph: Graph, node: Node) -> None:
    """Turn one Constant node into an initializer."""
    output = node.outputs[0]
    held = node.attrs.get("value")
    values = held._values if isinstance(held, Constant) else np.asarray(constant_value(output))
    editor.rewrite = "lift_constant"
    if not editor.allow(node):
        return
    name = output.name
    constant = Constant(name, values)
    constant.id = output.id
    graph.initializers.append(constant)
    fact = editor.fact(output)
    output.name = graph.unique_name(f"{name}_lifted")
    editor.replace(output, constant)
    editor.facts.facts[constant] = fact
    editor.changed += 1
