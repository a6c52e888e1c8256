"""Output types of ai.onnx.ml operators that ONNX itself does not infer: [N, features] in, one row for each N."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from graphopt.analysis.opnames import ops
from graphopt.analysis.shapes_fast import Typed, ValueOf
from graphopt.ir import Node

Row: TypeAlias = "Callable[[Node, Sequence[Typed]], list[Typed]]"
_FLOAT = np.dtype(np.float32)
_INT64 = np.dtype(np.int64)


def infer_ml(node: Node, given: Sequence[Typed], value: ValueOf) -> list[Typed] | None:
    """Types of the outputs of an ai.onnx.ml node, or None when it has no row or its input is not known."""
    row = _ROWS.get(node.op)
    return None if row is None or not given or not given[0][1] else row(node, given)


def _same(node: Node, given: Sequence[Typed]) -> list[Typed]:
    return [(_FLOAT, given[0][1])]


def _rows(given: Sequence[Typed]) -> int:
    shape = given[0][1]
    return 1 if shape is None or len(shape) < 2 else shape[0]


def _regressor(node: Node, given: Sequence[Typed]) -> list[Typed]:
    return [(_FLOAT, (_rows(given), int(node.attrs.get("targets", node.attrs.get("n_targets", 1)))))]


def _classifier(node: Node, given: Sequence[Typed]) -> list[Typed]:
    names = [a for a in ("classlabels_ints", "classlabels_int64s") if node.attrs.get(a)]
    texts = node.attrs.get("classlabels_strings")
    labels = node.attrs[names[0]] if names else texts or ()
    scores: Typed = (_FLOAT, (_rows(given), max(len(labels), 2)) if labels else None)
    return [(_INT64 if names else np.dtype(object), (_rows(given),)), scores]


def _vector(node: Node, given: Sequence[Typed]) -> list[Typed]:
    return [(_FLOAT, (_rows(given), sum(int(e) for e in node.attrs.get("inputdimensions", ()))))]


_ROWS: Mapping[str, Row] = {
    **dict.fromkeys(ops("Scaler Imputer Normalizer"), _same),
    **dict.fromkeys(ops("LinearRegressor SVMRegressor TreeEnsembleRegressor"), _regressor),
    **dict.fromkeys(ops("LinearClassifier SVMClassifier TreeEnsembleClassifier"), _classifier),
    "FeatureVectorizer": _vector,
}
