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


def numbered(passes: tuple[PassResult, ...], prefix: str = "") -> tuple[PassResult, ...]:
    """The results with their places in the pipeline."""
    return tuple(
        dataclasses.replace(result, number=f"{prefix}{place}", inner=numbered(result.inner, f"{prefix}{place}."))
        for place, result in enumerate(passes, 1)
    )


@dataclass(frozen=True)
class OutputComparison:
    """How far one output is from the original's, over all samples.

    Errors are absolute; ``relative_to_range`` is the largest error over the original's value range, and
    ``sqnr_db`` the signal-to-error ratio (inf when equal). NaN stands where a figure does not apply: strings,
    empty outputs, sequences (``note`` says why). ``equal_share`` is the share of equal elements, for types that
    are not float. ``new_non_finite`` counts elements that are NaN or Inf in the second model but not
    alike in the original, ``lost_non_finite`` those that are only so in the original, ``shape_mismatches`` the
    runs whose shapes differ, ``zero_signs`` zeros of the other sign.
    """

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
    elements: int = 0
    new_non_finite: int = 0
    lost_non_finite: int = 0
    shape_mismatches: int = 0
    zero_signs: int = 0


@dataclass(frozen=True)
class Accuracy:
    """A metric before and after, with the paired difference (after - before) and its 95 % interval.

    ``low`` and ``high`` are None when the metric gives no values per sample; ``method`` names the interval.
    """

    metric: str
    before: float
    after: float
    difference: float
    low: float | None
    high: float | None
    samples: int
    higher_is_better: bool = True
    method: str = ""
    details_before: Mapping[str, float] = field(default_factory=dict)
    details_after: Mapping[str, float] = field(default_factory=dict)

    @property
    def drop(self) -> float:
        """How much worse the metric became, in its own unit; negative when it improved."""
        return -self.difference if self.higher_is_better else self.difference


@dataclass(frozen=True)
class Comparison:
    """Two models run on the same data. ``finite``: the second one made no NaN or Inf that the first did not."""

    outputs: tuple[OutputComparison, ...]
    samples: int
    finite: bool
    synthetic: bool
    accuracy: Accuracy | None = None

    @property
    def worst(self) -> float:
        """Largest error relative to range over all outputs; inf for other shapes or new non-finite values."""
        values = [0.0]
        for output in self.outputs:
            if output.new_non_finite or output.lost_non_finite or output.shape_mismatches:
                values.append(math.inf)
            elif output.equal_share is not None:
                values.append(1.0 - output.equal_share)
            elif not math.isnan(output.relative_to_range):
                values.append(output.relative_to_range)
        return max(values)


@dataclass(frozen=True)
class TensorAgreement:
    """One inner tensor of two models.

    ``node`` and ``op`` compute it in the reference, ``test_node`` and ``test_op`` in the other model. ``lost_db`` is
    by how much its SQNR lies under that of the worst tensor it is made from (equal counts as 100 dB): where error
    is added. ``diverged`` says why it counts as diverged, "" when it does not. ``scaled`` says that the SQNR is the one
    after a factor a channel, because passes evened out the ranges of channels; "" when it is not.
    """

    tensor: str
    node: str
    op: str
    test_tensor: str
    test_node: str
    test_op: str
    agreement: OutputComparison
    lost_db: float
    diverged: str = ""
    scaled: str = ""


@dataclass(frozen=True)
class TensorProfile:
    """The inner tensors that two models have in common, in the reference's order of computation.

    ``computed`` counts the tensors that the reference computes; those without a counterpart are not in ``tensors``.
    ``note`` says in which form the second model was looked at.
    """

    tensors: tuple[TensorAgreement, ...]
    threshold_db: float
    samples: int
    synthetic: bool
    computed: int
    note: str = ""

    @property
    def first(self) -> TensorAgreement | None:
        """The first tensor that has diverged; None when all agree."""
        return next((t for t in self.tensors if t.diverged), None)

    @property
    def other_extents(self) -> tuple[TensorAgreement, ...]:
        """Tensors that have other extents in the second model (pruned, or not the same thing): not compared."""
        return tuple(t for t in self.tensors if t.agreement.shape_mismatches)


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
    the nodes of the file that are in it, where that is known, ``macs`` what they count, and ``passes`` the passes of
    the run that made or changed them.
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
    passes: tuple[str, ...] = ()


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


@dataclass(frozen=True)
class LayerChange:
    """One weighted node before and after. Shapes are those of its weight; "" and () where it is gone."""

    name: str
    op: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    precision: str
    parameters_before: int
    parameters_after: int

    @property
    def kept(self) -> float:
        """Share of the parameters that is left."""
        return self.parameters_after / self.parameters_before if self.parameters_before else 1.0


Bound: TypeAlias = Literal["compute", "memory", "fixed"]


@dataclass(frozen=True)
class LayerBound:
    """What bounds one node on a target: the longest of three times, each the least that its profile allows.

    ``compute_us``: ``macs`` at the fastest rate measured; ``memory_us``: ``bytes`` read and written at the rate of an
    elementwise Add; ``fixed_us``: running a node at all. ``intensity`` is MACs a byte.
    """

    node: str
    op: str
    precision: str
    macs: int
    bytes: int
    intensity: float
    compute_us: float
    memory_us: float
    fixed_us: float
    bound: Bound

    @property
    def floor_us(self) -> float:
        """The least time that the profile allows."""
        return max(self.compute_us, self.memory_us, self.fixed_us)


@dataclass(frozen=True)
class WeightHistogram:
    """Weights of one layer before and after, counted in the same bins. ``step`` is the quantization step, if any."""

    name: str
    low: float
    high: float
    before: tuple[int, ...]
    after: tuple[int, ...]
    step: float | None = None


@dataclass(frozen=True)
class ModelFile:
    """A model on disk, its data files included."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class RunResult:
    """Everything that one ``graphopt run`` found out. ``not_timed`` says why there is no timing, if there is none.

    ``shortfall`` says by how much a budget was missed; the output is then the best model found.
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
    histograms: tuple[WeightHistogram, ...] = ()
    warnings: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    shortfall: str = ""
    report: str = ""

    @property
    def size_ratio(self) -> float | None:
        """Bytes of the result over bytes of the input."""
        return None if self.output is None else self.output.bytes / self.input.bytes

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """The remarks of all passes."""
        return tuple(r for p in self.passes for r in p.remarks)


Severity: TypeAlias = Literal["error", "warning", "note"]
"""``error``: it will not run on the target. ``warning``: it runs, but slower or in another way than it looks."""


@dataclass(frozen=True)
class Problem:
    """One finding of ``check``. ``fix`` says what to do; ``fixable``: the ``legalize`` pass does it."""

    rule: str
    severity: Severity
    node: str
    op: str
    message: str
    fix: str = ""
    fixable: bool = False


@dataclass(frozen=True)
class BuiltKernel:
    """One kernel of a built engine: its kind, the nodes of the model in it, and the types that it reads and writes."""

    name: str
    kind: str
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class LayerPrecision:
    """How one convolution, matrix product or quantized addition of the model runs in an engine.

    ``quantized``: the model has Q/DQ on its inputs, so it should be integer (an addition should read integers).
    ``precision`` is ``int8``, ``float32``, ..., or ``int8 weights`` for a float kernel that unpacks integer weights;
    "" when no kernel names it.
    ``reason`` says why it is not integer, where that is known.
    """

    node: str
    op: str
    quantized: bool
    precision: str
    kernel: str
    reason: str = ""


@dataclass(frozen=True)
class EngineReport:
    """What NVIDIA's builder made of a model for one class of GPUs (``capability``, such as ``sm86``), without a GPU."""

    capability: str
    built: bool
    seconds: float
    message: str = ""
    kernels: tuple[BuiltKernel, ...] = ()
    layers: tuple[LayerPrecision, ...] = ()

    @property
    def quantized(self) -> int:
        """Number of layers that have Q/DQ."""
        return sum(layer.quantized for layer in self.layers)

    @property
    def float_anyway(self) -> tuple[LayerPrecision, ...]:
        """Layers that have Q/DQ and yet do not compute on integers."""
        return tuple(layer for layer in self.layers if layer.quantized and layer.precision != "int8")


@dataclass(frozen=True)
class CheckReport:
    """Whether a model will run on a target. ``evidence`` names what was asked, ``not_checked`` what could not be."""

    target: str
    problems: tuple[Problem, ...]
    engines: tuple[EngineReport, ...] = ()
    evidence: tuple[str, ...] = ()
    not_checked: tuple[str, ...] = ()
    fixed: tuple[Remark, ...] = ()

    @property
    def errors(self) -> tuple[Problem, ...]:
        """What keeps the model from running."""
        return tuple(p for p in self.problems if p.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What makes it slower or other than it looks."""
        return tuple(p for p in self.problems if p.severity == "warning")

    @property
    def runs(self) -> bool:
        """No error was found."""
        return not self.errors


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
