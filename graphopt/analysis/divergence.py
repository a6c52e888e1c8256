"""Where two models part: the agreement of every inner tensor that both compute, in order of computation.

Both models run with the runtime's optimizations off, so that inner tensors exist; to look through a runtime's
optimizations, the graph that ONNX Runtime makes of the second model takes its place.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx

from graphopt.analysis.channel_factors import ChannelFactors
from graphopt.analysis.inner_tensors import Inner, lift_inner
from graphopt.analysis.pairing import Aliases, Pair, Probe, aliases_of, pair_tensors
from graphopt.data.checks import is_float
from graphopt.data.feeds import Dataset, Feeds
from graphopt.errors import GraphoptError
from graphopt.ir import Array, Variable, subgraphs
from graphopt.model import Model, load
from graphopt.results import OutputComparison, TensorAgreement, TensorProfile
from graphopt.runtime.agreement import Agreement
from graphopt.runtime.materialize import session_source
from graphopt.runtime.session import Session, SessionConfig, save_optimized

AT_ONCE = 128
"""Inner tensors exposed at a time: bounds memory, at the price of one more run for each further group."""
FLOAT_DB, HALF_DB, QUANTIZED_DB = 60.0, 40.0, 20.0
"""Default thresholds: an error of a thousandth of the signal; of a hundredth with float16, of a tenth with Q/DQ."""
_CAP_DB = 100.0
_Figures: TypeAlias = tuple[OutputComparison, ChannelFactors]
_HALVES = ("float16", "bfloat16")
_HALF_TYPES = (int(onnx.TensorProto.FLOAT16), int(onnx.TensorProto.BFLOAT16))
_QUANTIZERS = ("QuantizeLinear", "DynamicQuantizeLinear", "QLinear", "QGemm", "MatMulInteger", "ConvInteger")


@dataclass(frozen=True)
class ProfileConfig:
    """How to compare inner tensors.

    Attributes:
        threshold_db: a tensor under this SQNR has diverged; None: 60 dB, 40 with float16, 20 with Q/DQ in a model.
        optimized: look at what ONNX Runtime's graph optimizations make of the second model.
        batch: samples a run.
        threads: threads inside one operator.
        kept: for tensors of the reference that were cut in the second model, by axis, the positions that are left.
    """

    threshold_db: float | None = None
    optimized: bool = False
    batch: int = 1
    threads: int = 1
    kept: Mapping[str, Mapping[int, Array]] = field(default_factory=dict)


def tensor_profile(reference: Model, test: Model, data: Dataset, config: ProfileConfig | None = None) -> TensorProfile:
    """Agreement of each inner tensor over all samples. Memory does not grow with the samples.

    Local functions are expanded in copies. Tensors inside Loop, Scan and If are looked at where the runtime can show
    them (``note`` says where it cannot): those of the first iteration, since later ones start from what already
    differs.

    Raises:
        GraphoptError: a model does not run, or the data does not fit.
    """
    config = config or ProfileConfig()
    one, two = _expanded(reference), _expanded(test)
    threshold = config.threshold_db
    if threshold is None:
        threshold = min(_threshold(one), _threshold(two))
    note, aliases = "", aliases_of(two.graph)
    if config.optimized:
        try:
            two = _optimized(two, config.threads)
            note = "as ONNX Runtime optimizes it"
        except GraphoptError as error:
            note = f"without the runtime's optimizations ({error})"
    try:
        pairs, figures, samples = _figures(one, two, aliases, data, config)
    except GraphoptError as error:
        if not any(subgraphs(n) for n in (*one.graph.nodes, *two.graph.nodes)):
            raise
        note = f"{note + '; ' if note else ''}tensors inside its bodies could not be shown ({error})"
        pairs, figures, samples = _figures(one, two, aliases, data, config, inside=False)
    computed = sum(1 for n in one.graph.walk() if n.op != "Constant" for t in n.outputs if not t.is_empty())
    return TensorProfile(
        tensors=_rows(pairs, figures, threshold),
        threshold_db=threshold,
        samples=samples,
        synthetic=data.synthetic,
        computed=computed,
        note=note,
    )


def _figures(
    one: Model, two: Model, aliases: Aliases, data: Dataset, config: ProfileConfig, inside: bool = True
) -> tuple[Sequence[Pair], dict[int, _Figures], int]:
    """The pairs of tensors, their figures by place, and the samples; with those ``inside`` bodies, or without."""
    shown = [one.clone(), two.clone()]
    inner = [lift_inner(model) if inside else {} for model in shown]
    found = pair_tensors(shown[0].graph, shown[1].graph, aliases, inner[0])
    pairs = [replace(p, reference=_placed(p.reference, inner[0]), test=_placed(p.test, inner[1])) for p in found]
    figures: dict[int, _Figures] = {}
    samples = 0
    for start in range(0, len(pairs), AT_ONCE):
        part = range(start, min(start + AT_ONCE, len(pairs)))
        samples, measured = _measure(one, two, [pairs[i] for i in part], data, config)
        figures.update(zip(part, measured, strict=True))
    return pairs, figures, samples


def _placed(probe: Probe, inner: Mapping[str, Inner]) -> Probe:
    """A probe of a tensor inside a body names the node of the body."""
    own = inner.get(probe.tensor)
    return probe if own is None else replace(probe, node=own.node, op=own.op, stacked=own.stacked)


def _expanded(model: Model) -> Model:
    clone = model.clone()
    if clone.functions:
        clone.inline_functions()
    return clone


def _threshold(model: Model) -> float:
    if any(n.op.startswith(_QUANTIZERS) for n in model.graph.nodes):
        return QUANTIZED_DB
    halves = any(c.dtype.name in _HALVES for c in model.graph.initializers)
    casts = any(n.op == "Cast" and n.attrs.get("to") in _HALF_TYPES for n in model.graph.nodes)
    return HALF_DB if halves or casts else FLOAT_DB


def _optimized(model: Model, threads: int) -> Model:
    """The graph that ONNX Runtime makes of a model, without the layouts that belong to one processor."""
    extra = {
        "session.optimized_model_external_initializers_file_name": "optimized.bin",
        "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
    }
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        path = Path(folder) / "optimized.onnx"
        config = SessionConfig(threads=threads, optimize="extended", session_options=extra)
        with session_source(model) as source:
            save_optimized(source, path, config)
        loaded = load(path)
        for constant in loaded.graph.initializers:
            constant.values = np.array(constant.values)
        return loaded


def _measure(
    one: Model, two: Model, pairs: Sequence[Pair], data: Dataset, config: ProfileConfig
) -> tuple[int, list[_Figures]]:
    agreements = [Agreement(pair.reference.tensor) for pair in pairs]
    factors = [ChannelFactors() for _ in pairs]
    samples = 0
    with ExitStack() as stack:
        first = stack.enter_context(_exposed(one, [p.reference for p in pairs], config.threads))
        second = stack.enter_context(_exposed(two, [p.test for p in pairs], config.threads))
        for part in data.iter_batches(config.batch):
            before = part.trim_outputs(_run(first, [p.reference for p in pairs], part.feeds))
            after = part.trim_outputs(_run(second, [p.test for p in pairs], part.feeds))
            samples += part.valid
            for pair, agreement, scaling in zip(pairs, agreements, factors, strict=True):
                two_value = after.get(pair.test.tensor)
                one_value = _cut(before.get(pair.reference.tensor), two_value, config.kept.get(pair.reference.tensor))
                agreement.add(one_value, two_value)
                if isinstance(one_value, np.ndarray) and isinstance(two_value, np.ndarray):
                    scaling.add(one_value, two_value)
    return samples, [(a.result(), f) for a, f in zip(agreements, factors, strict=True)]


def _cut(value: Any, other: Any, kept: Mapping[int, Array] | None) -> Any:
    """A value of the reference at the positions that are left, where the other one was cut."""
    if not kept or not isinstance(value, np.ndarray) or not isinstance(other, np.ndarray) or value.shape == other.shape:
        return value
    cut = value
    for axis, positions in kept.items():
        if axis < cut.ndim and len(positions) and cut.shape[axis] > int(positions[-1]):
            cut = np.take(cut, positions, axis)
    return cut if cut.shape == other.shape else value


@contextmanager
def _exposed(model: Model, probes: Sequence[Probe], threads: int) -> Iterator[Session]:
    """A session whose outputs are the probed tensors."""
    clone = model.clone()
    lift_inner(clone, {p.tensor for p in probes})
    graph = clone.graph
    tensors = graph.tensors()
    ends = {id(t) for t in (*graph.inputs, *graph.outputs)}
    inputs = {id(t) for t in graph.inputs}
    outputs = []
    for name in dict.fromkeys(p.tensor for p in probes):
        tensor = tensors[name]
        if id(tensor) in inputs:
            continue
        if id(tensor) not in ends and isinstance(tensor, Variable):
            tensor.shape, tensor.type_proto = None, None
        outputs.append(tensor)
    graph.outputs = outputs or graph.outputs
    graph.remove_dead()
    with session_source(clone) as source:
        config = SessionConfig(threads=threads, optimize="off", fit_floats=True)
        yield Session(source, config, name="the model with inner tensors")


def _run(session: Session, probes: Sequence[Probe], feeds: Feeds) -> dict[str, Any]:
    """Values of the probed tensors, as the numbers they stand for."""
    wanted = {info.name for info in session.interface.inputs}
    found: Mapping[str, Any] = session.run({n: a for n, a in feeds.items() if n in wanted})
    values: dict[str, Any] = {}
    for probe in probes:
        value = found[probe.tensor] if probe.tensor in found else feeds[probe.tensor]
        if probe.stacked and isinstance(value, np.ndarray) and len(value):
            value = value[0]
        if probe.grid is not None and isinstance(value, np.ndarray) and value.dtype.kind in "iu":
            value = probe.grid.values(value)
        elif isinstance(value, np.ndarray) and is_float(value.dtype):
            value = value.astype(np.float32) if value.dtype != np.float64 else value
        values[probe.tensor] = value
    return values


def _rows(pairs: Sequence[Pair], figures: Mapping[int, _Figures], threshold: float) -> tuple[TensorAgreement, ...]:
    rows: list[TensorAgreement] = []
    effective: list[OutputComparison] = []
    for place, pair in enumerate(pairs):
        raw, factors = figures[place]
        own, note = (raw, "") if pair.output else _without_factors(raw, factors, threshold)
        effective.append(own)
        before = min((_capped(effective[s]) for s in pair.sources if effective[s].elements), default=_CAP_DB)
        rows.append(
            TensorAgreement(
                tensor=pair.reference.tensor,
                node=pair.reference.node,
                op=pair.reference.op,
                test_tensor=pair.test.tensor,
                test_node=pair.test.node,
                test_op=pair.test.op,
                agreement=own,
                lost_db=max(0.0, before - _capped(own)),
                diverged=_diverged(own, threshold),
                scaled=note,
            )
        )
    return tuple(rows)


def _without_factors(own: OutputComparison, factors: ChannelFactors, threshold: float) -> tuple[OutputComparison, str]:
    """The agreement after one factor a channel, where an inner tensor agrees only so: ranges were evened out."""
    if own.new_non_finite or own.lost_non_finite or own.shape_mismatches or not own.sqnr_db < threshold:
        return own, ""
    found = factors.result()
    if found is None or found[0] < threshold:
        return own, ""
    sqnr, low, high = found
    return replace(own, sqnr_db=sqnr), f"equal up to a factor a channel ({low:.3g} to {high:.3g})"


def _capped(figures: OutputComparison) -> float:
    """SQNR for a difference: equal counts as 100 dB, as do tensors that have none."""
    return _CAP_DB if math.isnan(figures.sqnr_db) else min(_CAP_DB, max(-_CAP_DB, figures.sqnr_db))


def _diverged(figures: OutputComparison, threshold: float) -> str:
    if figures.new_non_finite:
        return f"{figures.new_non_finite} new NaN or Inf"
    if figures.lost_non_finite:
        return f"{figures.lost_non_finite} NaN or Inf are gone"
    if figures.shape_mismatches:
        return ""
    if figures.equal_share is not None:
        return "" if figures.equal_share == 1.0 else f"{1 - figures.equal_share:.2%} of the elements differ"
    return f"SQNR {figures.sqnr_db:.1f} dB" if figures.sqnr_db < threshold else ""
