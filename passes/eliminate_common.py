"""Compute the same thing once, and keep equal constants once."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np

from graphopt.graph import Graph, subgraphs
from graphopt.ir import Array, Constant, Node, RawAttribute
from graphopt.model import Model
from graphopt.pipeline.cleaning import KEEPS_FACTS, open_editor
from graphopt.pipeline.context import Context
from graphopt.pipeline.passes import Pass
from graphopt.transforms.clean.editing import Editor
from graphopt.transforms.clean.evaluate import NONDETERMINISTIC

SMALL = 256


class EliminateCommon(Pass):
    """Joins nodes of a graph with the same operator, attributes and inputs, and initializers with the same bytes.

    Random operators and nodes that hold graphs are left alone.
    """

    guarantee = "exact"
    preserves = KEEPS_FACTS
    reports = True

    def run(self, model: Model, ctx: Context) -> None:
        """Join in one sweep, from the inputs on."""
        editor = open_editor(model, ctx)
        for graph in list(model.graph.graphs()):
            _join_constants(graph, editor)
        for graph in list(model.graph.graphs()):
            _join_nodes(graph, editor)
        editor.finish()


def _join_constants(graph: Graph, editor: Editor) -> None:
    editor.rewrite = "constant"
    first: dict[Any, Constant] = {}
    shared = [c for c in graph.initializers if c.outputs and not editor.is_end(c)]
    forms = Counter((c.dtype, c.shape) for c in shared)
    samples = {c: _sample(c) for c in shared if forms[c.dtype, c.shape] > 1}
    alike = Counter(samples.values())
    for constant, sample in samples.items():
        if alike[sample] < 2:
            continue
        key = (*sample[:2], _fingerprint(constant.values))
        other = first.setdefault(key, constant)
        if other is not constant and editor.allow(constant.outputs[0]):
            editor.changed += editor.replace(constant, other)


def _sample(constant: Constant) -> tuple[np.dtype[Any], tuple[int, ...], Any]:
    """Type, shape and a few values: what differs in these needs no closer look."""
    flat = constant.values.reshape(-1)
    few = flat[:: max(1, flat.size // 16)]
    return constant.dtype, constant.shape, tuple(few.tolist()) if few.dtype == object else few.tobytes()


def _fingerprint(values: Array) -> Any:
    if values.dtype == object:
        return tuple(values.reshape(-1).tolist())
    data = np.ascontiguousarray(values).tobytes()
    return data if len(data) <= SMALL else hashlib.blake2b(data, digest_size=32).digest()


def _join_nodes(graph: Graph, editor: Editor) -> None:
    editor.rewrite = "node"
    first: dict[Any, list[Node]] = {}
    for node in [n for n in graph.nodes if editor.is_live(n)]:
        if not editor.is_live(node) or node.op in NONDETERMINISTIC or node.op == "Constant" or subgraphs(node):
            continue
        if node.op == "Dropout" or node.domain or not node.outputs:
            continue
        place = (node.op, len(node.outputs), *[id(t) if t.name else 0 for t in node.inputs])
        alike = first.setdefault(place, [])
        key = _attributes(node) if alike else None
        other = next((n for n in alike if editor.is_live(n) and _attributes(n) == key), None)
        if other is None:
            alike.append(node)
            continue
        if not _replaceable(node, other, editor) or not editor.allow(node):
            continue
        for old, new in zip(list(node.outputs), list(other.outputs), strict=True):
            if not old.is_empty():
                editor.changed += editor.replace(old, new)


def _replaceable(node: Node, other: Node, editor: Editor) -> bool:
    for old, new in zip(node.outputs, other.outputs, strict=True):
        if (editor.is_end(old) and not editor._can_take_over(old, new)) or (new.is_empty() and not old.is_empty()):
            return False
    return True


def _attributes(node: Node) -> Any:
    return sorted((k, _value(v)) for k, v in node.attrs.items() if v is not None)


def _value(value: Any) -> Any:
    if isinstance(value, RawAttribute):
        return value.proto.SerializeToString(deterministic=True)
    if isinstance(value, Constant):
        value = value.values
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, _fingerprint(value))
    return repr(value)
