"""Applies rewrites to a model until none fits any more.

Nodes are indexed by operator, so a rewrite is tried only where its last operator stands; after an application only
the neighbourhood is tried again. New nodes take the place of those they replace. What nothing needs any more goes at
once, so that later conditions on consumers see the truth.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from graphopt.errors import GraphoptError
from graphopt.graph import Graph, subgraphs
from graphopt.ir import Constant, Node, Tensor, Variable
from graphopt.pipeline.context import Context
from graphopt.pipeline.matching import Match, Matcher
from graphopt.pipeline.rewrite import Builder, Rewrite

_FEW = 8
"""A tensor with more consumers than this is not inside any sensible pattern."""


def apply_rewrites(root: Graph, rewrites: Sequence[Rewrite], ctx: Context) -> int:
    """Apply the rewrites to ``root`` and its nested graphs; returns how many applications there were.

    Stops with a warning when there are more than ten applications a node: rewrites then undo each other.
    """
    if not rewrites:
        return 0
    total = 0
    while True:
        sweep = _Sweep(root, rewrites, ctx)
        limit = 10 * len(sweep.matcher.home) + 1000 - total
        applied = sweep.run(limit)
        sweep.finish()
        total += applied
        if applied >= limit:
            ctx.warn(None, f"stopped after {total} rewrites; these undo each other: {', '.join(sweep.recent())}")
            return total
        if not applied:
            return total


class _Sweep:
    """One visit of every node, and again of every neighbourhood that changed."""

    def __init__(self, root: Graph, rewrites: Sequence[Rewrite], ctx: Context) -> None:
        self.root = root
        self.ctx = ctx
        self.graphs = list(root.graphs())
        self.matcher = Matcher({n: g for g in self.graphs for n in g.nodes}, _outputs(self.graphs))
        self.by_op: dict[tuple[str, str], list[Rewrite]] = {}
        for rewrite in rewrites:
            for op in rewrite.pattern.ops:
                self.by_op.setdefault((rewrite.pattern.domain, op), []).append(rewrite)
        self.depth = max(r.pattern.depth() for r in rewrites)
        self.queue: deque[Node] = deque(n for n in self.matcher.home if self._key(n) in self.by_op)
        self.queued = set(self.queue)
        self.gone: set[Node] = set()
        self.released: set[Constant] = set()
        self.anchored: dict[Node, list[Node]] = {}
        self._recent: deque[str] = deque(maxlen=100)

    def run(self, limit: int) -> int:
        """Work the queue off; returns the number of applications, at most ``limit``."""
        applied = 0
        while self.queue and applied < limit:
            node = self.queue.popleft()
            self.queued.discard(node)
            if node not in self.gone and self._try(node):
                applied += 1
        return applied

    def recent(self) -> list[str]:
        """The rewrites that were applied last."""
        return sorted(set(self._recent))

    def finish(self) -> None:
        """Put new nodes where the old ones were and drop the old ones."""
        if not self.gone and not self.anchored:
            return
        new = {n for nodes in self.anchored.values() for n in nodes}
        for graph in self.graphs:
            order: list[Node] = []
            for node in graph.nodes:
                if node not in new:
                    order.extend(self._in_place(node))
            graph.nodes = order
            if self.released:
                graph.initializers = [c for c in graph.initializers if c.outputs or c not in self.released]
        self.root.sort()

    def _in_place(self, node: Node) -> Iterator[Node]:
        """What stands where ``node`` stood: replacements, theirs, and the node itself unless it is gone."""
        stack: list[tuple[Node, bool]] = [(node, False)]
        while stack:
            item, expanded = stack.pop()
            if not expanded:
                stack.append((item, True))
                replacements: list[Node] = self.anchored.get(item, [])
                stack.extend((n, False) for n in reversed(replacements))
            elif item not in self.gone:
                yield item

    # -- one node ------------------------------------------------------------------------------------------------

    def _try(self, node: Node) -> bool:
        if self._is_final(node):
            return False
        for rewrite in self.by_op[self._key(node)]:
            match = self.matcher.find(rewrite.pattern, node)
            if match is None or self._refused(rewrite, match):
                continue
            if self.ctx.allow(node, rewrite.name):
                self._apply(rewrite, match)
                return True
        return False

    def _is_final(self, node: Node) -> bool:
        """Whether this is an Identity that only gives a graph output its name and can go nowhere."""
        if not node.is_op("Identity") or node.outputs[0] not in self.matcher.outputs:
            return False
        source = node.inputs[0]
        movable = isinstance(source, Variable) and source.inputs and source not in self.matcher.outputs
        return not movable or self.matcher.home.get(source.inputs[0]) is not self.matcher.home[node]

    def _refused(self, rewrite: Rewrite, match: Match) -> bool:
        verdict = True if rewrite.condition is None else rewrite.condition(match)
        if isinstance(verdict, str):
            self.ctx.skipped(match.root, f"{rewrite.name}: {verdict}")
        return verdict is not True

    def _apply(self, rewrite: Rewrite, match: Match) -> None:
        root = match.root
        build = Builder(match.graph, root.name or root.op)
        result = rewrite.replacement(match, build)
        results = list(result) if isinstance(result, Sequence) else [result]
        olds = list(root.outputs)
        self._check(rewrite, match, results)
        self.ctx.did(root, f"{rewrite.name}: {rewrite.description}" if rewrite.description else rewrite.name)
        self.ctx.count(rewrite.name)
        self._recent.append(rewrite.name)
        self.matcher.home.update(dict.fromkeys(build.nodes, match.graph))
        self.anchored.setdefault(root, []).extend(build.nodes)
        made = [t for n in build.nodes for t in n.outputs]
        freed = self._unlink(root)
        taken = self._splice(root, olds, results, set(made))
        for node in reversed(build.nodes):
            self._discard_unused(node, freed)
        self._release(freed)
        self._inherit_names(match, build)
        if self.ctx.reference is not None:
            for tensor in (*made, *build.constants):
                if tensor not in taken:
                    self.ctx.origins.forget(tensor.name)
        self._requeue(build.nodes, [*olds, *results, *made], freed)

    def _check(self, rewrite: Rewrite, match: Match, results: Sequence[Tensor]) -> None:
        for index, old in enumerate(match.root.outputs):
            if index < len(results):
                if results[index] is old:
                    raise GraphoptError(f"rewrite {rewrite.name!r} replaces {old.name!r} by itself")
            elif old.outputs or old in self.matcher.outputs:
                raise GraphoptError(f"rewrite {rewrite.name!r} gives nothing for {old.name!r}, which is in use")

    # -- links ---------------------------------------------------------------------------------------------------

    def _splice(self, root: Node, olds: Sequence[Tensor], results: Sequence[Tensor], made: set[Tensor]) -> set[Tensor]:
        """Let the results stand for the old outputs; returns the new tensors that an old one took the place of."""
        taken: set[Tensor] = set()
        for old, new in zip(olds, results, strict=False):
            if old.is_empty():
                continue
            if new in made and new not in taken:
                producer = new.inputs[0]
                index = next(i for i, t in enumerate(producer.outputs) if t is new)
                producer.outputs[index] = old
                _move_uses(new, old)
                taken.add(new)
            elif old in self.matcher.outputs:
                self.root.replace_uses(old, new)
                self._register_identity(root, old)
            else:
                _move_uses(old, new)
        return taken

    def _register_identity(self, root: Node, old: Tensor) -> None:
        """Take note of the Identity that a graph output needed to keep its name, if there is one."""
        self.matcher.outputs = _outputs(self.graphs)
        for node in old.inputs:
            home = next(g for g in self.graphs if g.nodes and g.nodes[-1] is node)
            self.matcher.home[node] = home
            self.anchored[root].append(node)

    def _unlink(self, node: Node) -> list[Tensor]:
        """Cut a node, and those inside it, from the graph; returns the tensors that it read."""
        freed: list[Tensor] = []
        stack = [node]
        while stack:
            item = stack.pop()
            self.gone.add(item)
            freed.extend(t for t in item.inputs if not t.is_empty())
            item.inputs.clear()
            item.outputs.clear()
            for sub in subgraphs(item):
                freed.extend(sub.outputs)
                stack.extend(sub.nodes)
        return freed

    def _discard_unused(self, node: Node, freed: list[Tensor]) -> None:
        used = any(t.outputs or t in self.matcher.outputs for t in node.outputs)
        if not used and node not in self.gone:
            freed.extend(self._unlink(node))

    def _release(self, freed: list[Tensor]) -> None:
        """Drop what produces the tensors, if nothing reads it any more, and so on upwards. Extends ``freed``."""
        for tensor in freed:
            if tensor.outputs or tensor in self.matcher.outputs:
                continue
            if isinstance(tensor, Constant):
                self.released.add(tensor)
            for node in list(tensor.inputs):
                self._discard_unused(node, freed)

    def _inherit_names(self, match: Match, build: Builder) -> None:
        """New nodes are called as the ones they replace: the one of the same operator, or the root if alone."""
        free = [n for n in match.nodes.values() if n in self.gone and n.name]
        for node in build.nodes:
            heir = next((n for n in free if n.op == node.op), match.root if len(build.nodes) == 1 else None)
            if heir is not None and heir in free:
                free.remove(heir)
                node.name, node.doc_string, node.metadata_props = heir.name, heir.doc_string, heir.metadata_props

    # -- queue ---------------------------------------------------------------------------------------------------

    def _requeue(self, new: Iterable[Node], changed: Sequence[Tensor], freed: Sequence[Tensor]) -> None:
        """Look again at the new nodes and at everything whose pattern could reach a changed tensor."""
        near = [t for t in freed if not isinstance(t, Constant) and len(t.outputs) <= _FEW]
        level: list[Node] = [*new, *(n for t in (*changed, *near) for n in t.outputs)]
        for _ in range(self.depth):
            for node in level:
                self._push(node)
            level = list(dict.fromkeys(n for node in level for t in node.outputs for n in t.outputs))

    def _push(self, node: Node) -> None:
        known = node in self.matcher.home and node not in self.gone
        if known and node not in self.queued and self._key(node) in self.by_op:
            self.queued.add(node)
            self.queue.append(node)

    @staticmethod
    def _key(node: Node) -> tuple[str, str]:
        return (node.domain or "", node.op)


def _outputs(graphs: Iterable[Graph]) -> set[Tensor]:
    return {t for g in graphs for t in g.outputs}


def _move_uses(old: Tensor, new: Tensor) -> None:
    """Make every node that reads ``old`` read ``new``; ``old`` is no graph output."""
    for node in list(dict.fromkeys(old.outputs)):
        for index, tensor in enumerate(node.inputs):
            if tensor is old:
                node.inputs[index] = new
