"""Everything that one run found out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graphopt.results.comparison import Accuracy, Comparison
from graphopt.results.layers import LayerBound, LayerChange, LayerTime, WeightHistogram
from graphopt.results.passes import PassResult, Remark
from graphopt.results.timing import Footprint, NodeTime, TimingReport


@dataclass(frozen=True)
class ModelFile:
    """A model on disk, its data files included."""

    name: str
    bytes: int
    sha256: str


def timed_names(first: str, second: str) -> tuple[str, str]:
    """What input and output are called side by side: their file names, told apart where they are the same."""
    return (first, second) if first != second else (f"{first} (input)", f"{second} (output)")


@dataclass(frozen=True)
class RunResult:
    """Everything that one ``graphopt run`` found out. ``not_timed`` says why there is no timing, if there is none.

    ``shortfall`` says by how much a budget was missed; the output is then the best model found. ``bounds`` are those of
    the result's nodes, ``operators`` the number of nodes before and after, by operator.
    """

    input: ModelFile
    output: ModelFile | None
    pipeline: str
    target: str
    provider: str
    seed: int
    data: str
    passes: tuple[PassResult, ...]
    layers: tuple[LayerChange, ...]
    comparison: Comparison | None
    accuracy: Accuracy | None
    timing: TimingReport | None
    not_timed: str
    footprints: Mapping[str, Footprint] = field(default_factory=dict)
    node_times: Mapping[str, tuple[NodeTime, ...]] = field(default_factory=dict)
    layer_times: tuple[LayerTime, ...] = ()
    bounds: tuple[LayerBound, ...] = ()
    operators: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    histograms: tuple[WeightHistogram, ...] = ()
    warnings: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    shortfall: str = ""
    report: str = ""
    command: str = ""

    @property
    def size_ratio(self) -> float | None:
        """Bytes of the result over bytes of the input."""
        return None if self.output is None else self.output.bytes / self.input.bytes

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """The remarks of all passes."""
        return tuple(r for p in self.passes for r in p.remarks)
