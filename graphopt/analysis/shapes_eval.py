"""Evaluation of small nodes whose inputs are all known: shape arithmetic, masks, tables. Nothing random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from graphopt.analysis.kernels import exact
from graphopt.analysis.opnames import ops
from graphopt.ir import Array, Node

Values: TypeAlias = "Sequence[Array | None]"

_RANDOM = frozenset(ops("RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Bernoulli"))
_HEAVY = frozenset(ops("Conv ConvTranspose LSTM GRU RNN Einsum NonMaxSuppression Unique StringNormalizer"))
_FAILURES = (ValueError, TypeError, IndexError, KeyError, NotImplementedError, RuntimeError, AttributeError)


def evaluate(node: Node, values: Values, opset: int, cap: int) -> list[Array] | None:
    """The outputs of ``node`` for these input values, or None: too large, random, or not computable here."""
    if node.op in _RANDOM or node.op in _HEAVY:
        return None
    given = [v for v in values if v is not None]
    try:
        if not _fits(node, given, cap):
            return None
        made = exact(node, given, opset) if len(given) == len(values) else None
        found = _reference(node, values, opset) if made is None else [made]
    except _FAILURES:
        return None
    if any(not isinstance(v, np.ndarray) or v.size > cap for v in found):
        return None
    return found


def _fits(node: Node, values: Sequence[Array], cap: int) -> bool:
    """Whether the result of an operator that makes much out of little stays under the cap."""
    if node.op in ("Expand", "ConstantOfShape"):
        return abs(int(np.prod(values[-1], dtype=np.int64))) <= cap
    if node.op == "Range":
        start, limit, delta = (float(v.reshape(())) for v in values)
        return delta != 0 and abs((limit - start) / delta) <= cap
    if node.op == "Tile":
        return int(np.prod(values[1], dtype=np.int64)) * values[0].size <= cap
    return True


def _reference(node: Node, values: Values, opset: int) -> list[Array]:
    from onnx.reference import ReferenceEvaluator

    from graphopt.serde.exporter import GraphExporter, Weights

    proto = GraphExporter(Weights("none"))._node(node)
    session = ReferenceEvaluator(proto, opsets={"": opset})
    feeds = {t.name: np.array(v) for t, v in zip(node.inputs, values, strict=True) if v is not None}
    return [np.asarray(v) for v in session.run(None, feeds)]
