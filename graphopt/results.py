"""The frozen result model that everything reports into.

Passes, comparisons, timings and runs fill these; the terminal, JSON and HTML reports only read them. ``as_json``
turns any of them into plain dicts and lists.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

RemarkKind: TypeAlias = Literal["did", "skipped", "note", "warning"]


@dataclass(frozen=True)
class Remark:
    """What a pass did, or did not do and why. ``node`` is the node or tensor it is about ("" for the whole model)."""

    kind: RemarkKind
    source: str
    node: str
    message: str


@dataclass(frozen=True)
class GraphStats:
    """Size of a model. ``macs`` is None when shapes are not all known, ``weight_bytes`` counts initializers."""

    nodes: int
    parameters: int
    weight_bytes: int
    macs: int | None = None


@dataclass(frozen=True)
class PassResult:
    """One pass of a run. ``seconds`` includes verification; ``statistics`` are the pass's own counts."""

    name: str
    options: str
    guarantee: str
    changed: bool
    seconds: float
    before: GraphStats
    after: GraphStats
    statistics: Mapping[str, float] = field(default_factory=dict)
    remarks: tuple[Remark, ...] = ()
    verification: str = ""


@dataclass(frozen=True)
class OutputComparison:
    """How far one output is from the original's. Errors are absolute; ``sqnr_db`` is inf when they are equal."""

    name: str
    dtype: str
    max_abs: float
    mean_abs: float
    relative_to_range: float
    cosine: float
    sqnr_db: float
    top1_agreement: float | None = None
    equal_share: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """Two models run on the same data. ``finite`` is about the second one."""

    outputs: tuple[OutputComparison, ...]
    samples: int
    finite: bool
    synthetic: bool
    accuracy_before: float | None = None
    accuracy_after: float | None = None


@dataclass(frozen=True)
class Accuracy:
    """A metric before and after, with the paired difference and its 95 % interval."""

    metric: str
    before: float
    after: float
    difference: float
    low: float
    high: float
    samples: int
    higher_is_better: bool = True


def as_json(value: Any) -> Any:
    """Plain dicts, lists, strings and numbers for any result; NaN and infinities become strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
