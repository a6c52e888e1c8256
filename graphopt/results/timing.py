"""What a model costs where it runs: latency, memory, time of each node, and the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True)
class CpuInfo:
    """The processor that figures were taken on. ``vnni`` is None where it cannot be told."""

    model: str
    machine: str
    logical_cores: int
    usable_cores: int
    vnni: bool | None
    features: tuple[str, ...] = ()


@dataclass(frozen=True)
class Availability:
    """Whether an execution provider really runs here. ``evidence`` says what was tried, ``reason`` why not."""

    provider: str
    usable: bool
    reason: str = ""
    evidence: str = ""


@dataclass(frozen=True)
class NodeAssignment:
    """The execution provider that a node of the model was given to, before fusion."""

    provider: str
    name: str
    op: str
    domain: str


@dataclass(frozen=True)
class NodeTime:
    """Time of one node of the optimized graph a run, in microseconds: the median over runs and its share of all.

    ``name`` is the runtime's (fused nodes have new names); shapes are text such as ``float[1,3,8,8]``. ``nodes`` are
    the nodes of the file that are in it, where that is known, and ``macs`` what they count.
    """

    name: str
    op: str
    provider: str
    microseconds: float
    share: float
    calls: int
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    macs: int = 0


@dataclass(frozen=True)
class Ratio:
    """A ratio of times (reference / this; above 1 is faster) with its 95 % interval."""

    value: float
    low: float
    high: float


Verdict: TypeAlias = Literal["reference", "faster", "slower", "same", "noise"]
"""``same``: within 3 %, interval and all. ``noise``: the interval crosses a limit, so nothing is claimed."""


@dataclass(frozen=True)
class Timing:
    """Latency of one model, in milliseconds a run.

    ``p50``, ``p90`` and ``p99`` are over single calls, ``wall_ms`` and ``cpu_ms`` medians over rounds, ``spread_ms``
    the interquartile range of rounds. CPU time is of the calling thread, or of the process with more threads.
    ``throughput`` is samples a second (``rows`` a run). ``reason`` says why a difference is not claimed, if not the
    interval does.
    """

    name: str
    wall_ms: float
    cpu_ms: float
    spread_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    calls: int
    rounds: int
    rows: int
    throughput: float
    providers: tuple[str, ...]
    verdict: Verdict
    speedup: Ratio | None = None
    cpu_speedup: Ratio | None = None
    reason: str = ""


@dataclass(frozen=True)
class TimingReport:
    """Models timed in turns. The first one is the reference of every ratio.

    ``sessions`` is how often every model was loaded in a run; with ``confirmed`` there were two runs.
    """

    timings: tuple[Timing, ...]
    provider: str
    threads: int
    cpu: CpuInfo
    confirmed: bool
    sessions: int = 1


@dataclass(frozen=True)
class SweepPoint:
    """Models timed with one batch size (None: the model's own) and one number of threads."""

    batch: int | None
    threads: int
    timing: TimingReport


@dataclass(frozen=True)
class Footprint:
    """Cost of one fresh process that loads a model and runs it once.

    ``load_ms`` is session creation, ``first_run_ms`` the first run. ``peak_bytes`` is the process's peak resident
    memory, ``baseline_bytes`` what it was before the model was loaded; both None where the system does not tell.
    """

    load_ms: float
    first_run_ms: float
    peak_bytes: int | None
    baseline_bytes: int | None

    @property
    def model_bytes(self) -> int | None:
        """Peak memory above the baseline."""
        if self.peak_bytes is None or self.baseline_bytes is None:
            return None
        return max(self.peak_bytes - self.baseline_bytes, 0)
