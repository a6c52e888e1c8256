"""Replace an If with a known condition by the branch that runs."""

from __future__ import annotations

from collections import Counter

from graphopt.graph import Graph
from graphopt.ir import Node, Tensor
from graphopt.model import Model
from graphopt.pipeline.cleaning import open_editor
from graphopt.pipeline.context import Context
from graphopt.pipeline.passes import Pass
from graphopt.transforms.clean.editing import Editor


class FoldIf(Pass):
    """Moves the nodes of the branch that always runs into the graph around the If.

    An Identity gives each result the name of the If's output; ``eliminate_identity`` removes it.
    """

    guarantee = "exact"
    reports = True

    def run(self, model: Model, ctx: Context) -> None:
        """Fold from the outside in, until no condition is known."""
        while True:
            editor = open_editor(model, ctx)
            editor.rewrite = "if"
            changed = False
            for graph in list(model.graph.graphs()):
                for node in [n for n in graph.nodes if n.is_op("If")]:
                    changed = _fold(node, graph, editor) or changed
                if changed:
                    break
            editor.finish()
            if not changed:
                return
            ctx.invalidate()


def _fold(node: Node, graph: Graph, editor: Editor) -> bool:
    known = editor.fact(node.inputs[0]).numbers()
    if known is None or known.size != 1:
        return False
    branch: Graph = node.attrs["then_branch" if known.reshape(-1)[0] else "else_branch"]
    if not editor.allow(node):
        return False
    _make_unique(branch, editor)
    results = list(branch.outputs)
    moved, branch.nodes = branch.nodes, []
    graph.nodes.extend(moved)
    graph.initializers.extend(branch.initializers)
    branch.initializers, branch.outputs = [], []
    outputs = list(node.outputs)
    node.outputs.clear()
    for old, new in zip(outputs, results, strict=True):
        graph.add_node("Identity", [new], [old])
    editor.root.remove_nodes([node])
    editor.changed += 1
    editor.mark_edited()
    return True


def _make_unique(branch: Graph, editor: Editor) -> None:
    """Rename what another branch also calls so: sibling graphs may share names, nested ones may not."""
    used = Counter(t.name for g in editor.root.graphs() for t in _defined(g))
    for tensor in _defined(branch):
        if used[tensor.name] > 1:
            tensor.name = branch.unique_name(f"{tensor.name}_{branch.name}")


def _defined(graph: Graph) -> list[Tensor]:
    return [*graph.initializers, *(t for n in graph.nodes for t in n.outputs if not t.is_empty())]
