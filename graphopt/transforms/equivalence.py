"""Masked equivalence: the pruned graph against the oracle, on the same inputs, with a test that the check can fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.analysis.labels import Coupling
from graphopt.ir import Array
from graphopt.model import Model
from graphopt.transforms.keepset import KeepSet
from graphopt.transforms.masking import Oracle
from graphopt.transforms.selection_units import Family, find_units

TOLERANCE = 1e-5
POWER = 100.0
_MAX_FAMILIES = 12


@dataclass(frozen=True)
class Equivalence:
    """``error``: largest difference over the range of the output. ``inconclusive`` names families whose exchange moved
    no output by 100 tolerances; ``tested`` counts the families that were exchanged."""

    error: float
    tolerance: float
    tested: int = 0
    inconclusive: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Within tolerance."""
        return self.error <= self.tolerance


def check(
    pruned: Model,
    oracle: Oracle,
    coupling: Coupling,
    keep: KeepSet,
    feeds: Mapping[str, Array],
    families: Sequence[Family] | None = None,
    tolerance: float = TOLERANCE,
    max_families: int = _MAX_FAMILIES,
) -> Equivalence:
    """Run both on ``feeds`` with runtime optimizations off and compare all outputs.

    The power test exchanges one kept for one removed unit in the oracle, per family, at most ``max_families`` of them
    spread over the graph.
    """
    session = _session(oracle.model)
    expected = session.run(None, {**feeds, **oracle.feeds(keep)})
    found = _session(pruned).run(None, dict(feeds))
    error = difference(expected, found)
    if families is None:
        families = find_units(coupling).families
    mixed = [f for f in families if 0 < int(keep.removed[f.classes].sum()) < len(f)]
    step = max(1, len(mixed) // max_families) if max_families else len(mixed) + 1
    weak: list[str] = []
    chosen = mixed[::step][:max_families]
    for family in chosen:
        other = KeepSet.removing(coupling, _exchanged(keep, family) & coupling.solution.leaf)
        moved = difference(expected, session.run(None, {**feeds, **oracle.feeds(other)}))
        if moved < POWER * tolerance:
            weak.append(family.name)
    return Equivalence(error, tolerance, len(chosen), tuple(weak))


def _exchanged(keep: KeepSet, family: Family) -> Array:
    removed = keep.removed.copy()
    gone = family.classes[removed[family.classes]]
    stays = family.classes[~removed[family.classes]]
    removed[gone[0]], removed[stays[0]] = False, True
    return removed


def difference(expected: Sequence[Array], found: Sequence[Array]) -> float:
    """The largest difference of any output, over the range of that output; infinite when shapes or NaNs differ."""
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        worst = max(worst, _one(np.asarray(a), np.asarray(b)))
    return worst


def _one(a: Array, b: Array) -> float:
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if a.dtype.kind not in "fiub":
        return 0.0 if np.array_equal(a, b) else float("inf")
    x, y = a.astype(np.float64), b.astype(np.float64)
    if not np.array_equal(np.isfinite(x), np.isfinite(y)):
        return float("inf")
    finite = np.isfinite(x)
    if not finite.any():
        return 0.0
    x, y = x[finite], y[finite]
    span = max(float(x.max() - x.min()), float(np.abs(x).max()) * 1e-3, 1e-30)
    return float(np.abs(x - y).max() / span)


def _session(model: Model):  # type: ignore[no-untyped-def]
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.serialize(), options, providers=["CPUExecutionProvider"])
