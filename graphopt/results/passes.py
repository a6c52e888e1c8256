"""What a pass reports: remarks, sizes before and after, counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

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
    """One pass of a run. ``seconds`` includes verification; ``statistics`` are the pass's own counts.

    ``inner`` has the passes of a composite, each summed over all rounds. ``number`` is the place in the pipeline, such
    as ``2`` or, inside a composite, ``2.1``; "" where there is no pipeline.
    """

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
    inner: tuple[PassResult, ...] = ()
    number: str = ""


@dataclass(frozen=True)
class PlannedPass:
    """One pass that a run would do: its place in the pipeline (``2.1`` inside a composite), and name with options."""

    number: str
    step: str
    inner: tuple[PlannedPass, ...] = ()

    def lines(self) -> list[str]:
        """This pass and those in it, one a line."""
        indent = "  " * self.number.count(".")
        return [f"{indent}{self.number} {self.step}", *(line for one in self.inner for line in one.lines())]


def numbered(passes: tuple[PassResult, ...], prefix: str = "") -> tuple[PassResult, ...]:
    """The results with their places in the pipeline."""
    return tuple(
        dataclasses.replace(result, number=f"{prefix}{place}", inner=numbered(result.inner, f"{prefix}{place}."))
        for place, result in enumerate(passes, 1)
    )
