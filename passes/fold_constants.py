"""Compute in advance what depends on constants only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.graph import Graph
from graphopt.ir import Array, Constant, Node, Tensor, constant_value
from graphopt.model import Model
from graphopt.pipeline.cleaning import open_editor
from graphopt.pipeline.context import Context
from graphopt.pipeline.options import Options, option
from graphopt.pipeline.passes import Pass
from graphopt.transforms.editing import Editor
from graphopt.transforms.evaluate import evaluate, may_fold


class FoldConstantsOptions(Options):
    """Options of ``fold_constants``."""

    limit_kb: int = option(1024, "A folded value may be this many kB larger than the constants that it replaces.", ge=0)
    growth_kb: int = option(8192, "All folded values together may grow the file by this many kB.", ge=0)


class FoldConstants(Pass[FoldConstantsOptions]):
    """Computes nodes whose inputs are all constant, and turns Constant nodes into initializers.

    Bit for bit as ONNX Runtime without optimizations. Random operators, control flow and quantization are left
    alone, and so is what would make the file grow: a ConstantOfShape of 500 MB stays one node.
    """

    guarantee = "exact"

    def run(self, model: Model, ctx: Context) -> None:
        """Fold in one sweep."""
        editor = open_editor(model, ctx)
        editor.rewrite = "fold"
        Folding(editor, self.options).run()
        lift_constants(editor)
        editor.finish()


class Folding:
    """One sweep: forward to compute, backward to choose which results become constants."""

    def __init__(self, editor: Editor, options: FoldConstantsOptions) -> None:
        self._editor = editor
        self._limit = options.limit_kb * 1024
        self._growth = options.growth_kb * 1024
        self._computed: dict[Tensor, Array] = {}
        self._roots: dict[Tensor, frozenset[Tensor]] = {}

    def run(self) -> None:
        """Fold all graphs of the model."""
        order = [n for graph in self._editor.root.graphs() for n in graph.nodes]
        foldable = self._foldable(order)
        done = [n for n in order if n in foldable and self._compute(n, foldable)]
        computed = set(done)
        for node in reversed(done):
            if not self._commit(node, computed):
                computed.discard(node)

    def _foldable(self, order: Sequence[Node]) -> set[Node]:
        """Nodes that depend on constants only and whose results are not too large to compute."""
        fixed: set[Tensor] = set()
        found: set[Node] = set()
        for node in order:
            if not may_fold(node) or not node.outputs or not all(self._is_fixed(t, fixed) for t in node.inputs):
                continue
            sizes = [self._editor.fact(t).nbytes for t in node.outputs if not t.is_empty()]
            inputs = sum(self._editor.fact(t).nbytes or 0 for t in node.inputs if not t.is_empty())
            if any(s is None or s > inputs + 8 * self._limit for s in sizes):
                self._editor.gate.skipped(node, "not folded: the result is too large, or its size is unknown")
                continue
            found.add(node)
            fixed.update(node.outputs)
        return found

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

    def _commit(self, node: Node, computed: set[Node]) -> bool:
        """Turn the outputs that somebody needs into constants; False when one would be too large."""
        editor = self._editor
        needed = [
            t
            for t in node.outputs
            if not t.is_empty() and (editor.is_end(t) or any(r not in computed for r in t.outputs))
        ]
        if not needed:
            return True
        sizes = [(self._computed[t].nbytes, sum(r.nbytes for r in self._roots[t])) for t in needed]
        growth = sum(max(0, size - freed) for size, freed in sizes)
        if any(size > freed + self._limit for size, freed in sizes) or growth > self._growth:
            editor.gate.skipped(node, f"not folded: the file would grow by {growth // 1024} kB")
            return False
        if not editor.allow(node):
            return False
        self._growth -= growth
        for tensor in needed:
            constant = editor.const(node, self._computed[tensor], hint=f"{tensor.name}_folded")
            if editor.replace(tensor, constant):
                editor.changed += 1
        return True


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
