"""Masked equivalence: the pruned graph against the oracle, on the same inputs, with a test that the check can fail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from graphopt.analysis.labels import Coupling
from graphopt.analysis.labels.site import Axes
from graphopt.analysis.opnames import ops
from graphopt.errors import UnsupportedError
from graphopt.ir import Array, Tensor, Variable, is_constant
from graphopt.model import Model
from graphopt.runtime.materialize import session_source
from graphopt.transforms.prune.free_choice import again, exchanges
from graphopt.transforms.prune.in_float32 import in_float32
from graphopt.transforms.prune.keepset import KeepSet
from graphopt.transforms.prune.masking import Oracle
from graphopt.transforms.prune.selection_units import Family, find_units

TOLERANCE = 1e-5
POWER = 100.0
MAX_FAMILIES = 12
_TRIES = 4
_SHUFFLES = 7
_NOISE_FACTOR = 10.0
_DECIDES = frozenset(ops("TopK ArgMax ArgMin NonMaxSuppression NonZero Unique If Loop"))
_QUANTIZERS = frozenset(ops("QuantizeLinear DynamicQuantizeLinear DynamicQuantizeMatMul DynamicQuantizeLSTM"))
_FLOOR = 0.1  # the range of a nearly constant tensor counts as a tenth of its magnitude


@dataclass(frozen=True)
class Equivalence:
    """``error``: largest difference of any output over that output's range; ``probe_error``: the same for probed inner
    tensors. ``inconclusive`` names families whose exchange moved neither an output nor a probe by 100 tolerances;
    ``tested`` counts the families that were exchanged. ``unstable`` names outputs that differ behind an operator that
    decides (a sort, a threshold) while everything in front of it agrees: rounding decides them, so they prove nothing.
    ``noise`` and ``probe_noise`` are measured only beyond the tolerance: how far outputs and probes of the oracle move
    when its float inputs change by one unit in the last place.
    """

    error: float
    probe_error: float
    tolerance: float
    tested: int = 0
    inconclusive: tuple[str, ...] = ()
    unstable: tuple[str, ...] = ()
    noise: float = 0.0
    probe_noise: float = 0.0

    @property
    def passed(self) -> bool:
        """Outputs and probes are within tolerance, or, in an ill-conditioned model, within its own rounding noise."""
        outputs = max(self.tolerance, _NOISE_FACTOR * self.noise)
        return self.error <= outputs and self.probe_error <= max(self.tolerance, _NOISE_FACTOR * self.probe_noise)

    @property
    def ill_conditioned(self) -> bool:
        """Beyond the tolerance, but not beyond what rounding does to this model: no proof, no refutation."""
        return self.passed and max(self.error, self.probe_error) > self.tolerance


@dataclass(frozen=True)
class _Probe:
    name: str
    axes: Axes

    def kept(self, value: Array, *keeps: KeepSet) -> Array:
        """The positions that stay under all of ``keeps``."""
        for place, axis in enumerate(self.axes):
            mask = np.logical_and.reduce([k.mask(axis) for k in keeps])
            if not mask.all():
                value = np.compress(mask, value, axis=place)
        return value


def check(
    pruned: Model,
    oracle: Oracle,
    coupling: Coupling,
    keep: KeepSet,
    feeds: Mapping[str, Array],
    families: Sequence[Family] | None = None,
    tolerance: float = TOLERANCE,
    max_families: int = MAX_FAMILIES,
) -> Equivalence:
    """Run both on ``feeds`` with runtime optimizations off and compare all outputs and some inner tensors.

    The power test exchanges one kept for one removed unit in the oracle, per family, at most ``max_families`` of them
    spread over the graph. The first tensor computed from each such family is probed. Beyond the tolerance, the float
    inputs are shuffled a few times: the range of a tensor with few elements shows only over several inputs.
    A float16 model is checked in float32: the graph is proven, not its rounding.
    """
    if families is None:
        families = find_units(coupling).families
    oracle, pruned = replace(oracle, model=in_float32(oracle.model)), in_float32(pruned)
    mixed = [f for f in families if 0 < int(keep.removed[f.classes].sum()) < len(f)]
    step = max(1, -(-len(mixed) // max_families)) if max_families else len(mixed) + 1
    chosen = mixed[::step]
    probes = _probes(coupling, keep, chosen)
    behind = _decided(coupling, probes)
    pair = _Pair.of(oracle, pruned, keep, list(probes.values()))
    runs = [pair.run(feeds)]
    outputs, inner = pair.errors(runs)
    unstable = [i for i, e in enumerate(outputs) if e > tolerance and coupling.graph.outputs[i] in behind]
    if max([*(e for i, e in enumerate(outputs) if i not in unstable), inner], default=0.0) > tolerance:
        runs += [pair.run(other) for other in _shuffled(feeds)]
        outputs, inner = pair.errors(runs)
    error = max((e for i, e in enumerate(outputs) if i not in unstable), default=0.0)
    expected = pair.before(feeds)
    weak = [f.name for f in chosen if not pair.notices(f, expected, feeds, POWER * tolerance)]
    noise = (0.0, 0.0)
    if max(error, inner) > tolerance:
        noise = _noise(pair, {**feeds, **oracle.feeds(keep)}, expected)
    names_of = tuple(coupling.graph.outputs[i].name for i in unstable)
    return Equivalence(error, inner, tolerance, len(chosen), tuple(weak), names_of, *noise)


@dataclass
class _Pair:
    """The sessions of the masked and the pruned model, with probed tensors as further outputs."""

    oracle: Any
    pruned: Any
    masks: Oracle
    keep: KeepSet
    probes: list[_Probe]
    outputs: int

    @classmethod
    def of(cls, oracle: Oracle, pruned: Model, keep: KeepSet, probes: list[_Probe]) -> _Pair:
        names = [p.name for p in probes]
        sessions = _session(oracle.model, names), _session(pruned, names, "the pruned model")
        return cls(*sessions, oracle, keep, probes, len(pruned.graph.outputs))

    def before(self, feeds: Mapping[str, Array], keep: KeepSet | None = None) -> list[Array]:
        """Outputs and probes of the masked model."""
        return list(self.oracle.run(None, {**feeds, **self.masks.feeds(keep or self.keep)}))

    def run(self, feeds: Mapping[str, Array]) -> list[tuple[Array, Array]]:
        """Every output and probe, as the oracle and as the pruned model have it."""
        expected, found = self.before(feeds), list(self.pruned.run(None, dict(feeds)))
        kept = [p.kept(v, self.keep) for p, v in zip(self.probes, expected[self.outputs :], strict=True)]
        return list(zip([*expected[: self.outputs], *kept], found, strict=True))

    def errors(self, runs: Sequence[Sequence[tuple[Array, Array]]]) -> tuple[list[float], float]:
        """The error of every output, and the largest of any probe; ranges are those over all runs."""
        errors = [_over(pairs) for pairs in zip(*runs, strict=True)]
        return errors[: self.outputs], max(errors[self.outputs :], default=0.0)

    def notices(self, family: Family, expected: Sequence[Array], feeds: Mapping[str, Array], bound: float) -> bool:
        """Whether exchanging two units of a family moves some output or probe by ``bound`` from ``expected``."""
        for other in _exchanges(self.keep, family):
            moved = self.before(feeds, other)
            change = difference(expected[: self.outputs], moved[: self.outputs])
            rest = zip(self.probes, expected[self.outputs :], moved[self.outputs :], strict=True)
            for probe, *values in rest:
                old, new = (probe.kept(v, self.keep, other) for v in values)
                change = max(change, difference([old], [new]))
            if change >= bound:
                return True
        return False


def _over(pairs: Sequence[tuple[Array, Array]]) -> float:
    if len(pairs) == 1 or any(a.shape != b.shape or a.dtype != b.dtype for a, b in pairs):
        return max(_one(np.asarray(a), np.asarray(b)) for a, b in pairs)
    return _one(*(np.concatenate([np.asarray(p[k]).reshape(-1) for p in pairs]) for k in (0, 1)))


def _shuffled(feeds: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """The same inputs with the elements of the float ones in other places and of either sign."""
    for seed in range(_SHUFFLES):
        random = np.random.default_rng(seed)
        yield {name: _moved(x, random) for name, x in feeds.items()}


def _moved(x: Array, random: np.random.Generator) -> Array:
    if x.dtype.kind != "f" or x.size < 2:
        return x
    signs = np.where(random.random(x.size) < 0.5, -1, 1).astype(x.dtype) if (x < 0).any() else x.dtype.type(1)
    return np.asarray(random.permutation(x.reshape(-1)) * signs, x.dtype).reshape(x.shape)


def run_once(model: Model, names: Sequence[str], feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The values of inner tensors of ``model`` on ``feeds``, runtime optimizations off.

    Raises:
        UnsupportedError: ONNX Runtime has no kernel for an operator.
    """
    found = _session(model, names, "the model").run(list(names), dict(feeds)) if names else []
    return dict(zip(names, found, strict=True))


def identical(first: Model, second: Model, feeds: Mapping[str, Array]) -> bool:
    """Whether both give the same outputs, bit for bit, runtime optimizations off; True when nothing can run them."""
    try:
        outputs = [_session(m, [], "the model").run(None, dict(feeds)) for m in (first, second)]
    except UnsupportedError:
        return True
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in zip(*outputs, strict=True))


def largest_difference(first: Model, second: Model, feeds: Mapping[str, Array]) -> float:
    """The largest difference of any output, over its range on ``feeds`` and shuffles of it, optimizations off.

    Raises:
        UnsupportedError: ONNX Runtime has no kernel for an operator.
    """
    sessions = [_session(model, [], "the model") for model in (first, second)]
    runs = [list(zip(*(s.run(None, dict(f)) for s in sessions), strict=True)) for f in (feeds, *_shuffled(feeds))]
    return max((_over(pairs) for pairs in zip(*runs, strict=True)), default=0.0)


def _noise(pair: _Pair, feeds: Mapping[str, Array], expected: Sequence[Array]) -> tuple[float, float]:
    """The largest change of an output, and of a probe, when float inputs change by one unit in the last place; in a
    model that quantizes (its inputs, to begin with) float vectors such as scales of normalisations change as well."""
    outputs, probes, keep = pair.outputs, pair.probes, pair.keep
    quantizes = any(n.op in _QUANTIZERS for n in pair.masks.model.graph.nodes)
    worst, inner = 0.0, 0.0
    for seed in range(3):
        random = np.random.default_rng(seed)
        session = _nudged_session(pair, random) if quantizes else pair.oracle
        moved = session.run(None, {name: _nudged(x, random) for name, x in feeds.items()})
        worst = max(worst, difference(expected[:outputs], moved[:outputs]))
        for probe, before, after in zip(probes, expected[outputs:], moved[outputs:], strict=True):
            inner = max(inner, difference([probe.kept(before, keep)], [probe.kept(after, keep)]))
    return worst, inner


def _nudged_session(pair: _Pair, random: np.random.Generator) -> Any:
    model = pair.masks.model.clone()
    for constant in list(model.graph.initializers):
        if constant.dtype is not None and constant.dtype.kind == "f" and len(constant.shape) == 1:
            model.graph.set_weight(constant, _nudged(np.asarray(constant.values), random))
    return _session(model, [p.name for p in pair.probes])


def _nudged(x: Array, random: np.random.Generator) -> Array:
    if x.dtype.kind != "f":
        return x
    toward = np.where(random.random(x.shape) < 0.5, -np.inf, np.inf).astype(x.dtype)
    return np.asarray(np.nextafter(x, toward))


def _probes(coupling: Coupling, keep: KeepSet, families: Sequence[Family]) -> dict[Tensor, _Probe]:
    """For each family the output of the first node that reduces over it."""
    wanted = {f.number: set(f.classes.tolist()) for f in families}
    found: dict[Tensor, _Probe] = {}
    ends = set(coupling.graph.outputs)
    for mask in coupling.record.masks:
        classes = coupling.solution.classes(mask.labels)
        if classes is None or not wanted or not keep.changed(mask.labels):
            continue
        here = set(np.unique(classes).tolist()) | _factors_of(coupling, classes)
        hit = [n for n, members in wanted.items() if members & here]
        tensor = mask.node.outputs[0]
        axes = coupling.record.axes.get(tensor)
        if not hit or axes is None or not tensor.name:
            continue
        for number in hit:
            del wanted[number]
        if tensor not in ends:
            found[tensor] = _Probe(tensor.name, axes)
    return found


def _decided(coupling: Coupling, probes: dict[Tensor, _Probe]) -> set[Tensor]:
    """The tensors behind an operator that decides; those in front of the first such operators become probes."""
    behind: set[Tensor] = set()
    for node in coupling.graph.nodes:
        if any(t in behind for t in node.inputs):
            behind.update(node.outputs)
        elif node.op in _DECIDES:
            behind.update(node.outputs)
            for tensor in node.inputs:
                axes = coupling.record.axes.get(tensor)
                if axes and not is_constant(tensor) and tensor.inputs and tensor not in coupling.graph.outputs:
                    probes[tensor] = _Probe(tensor.name, axes)
    return behind


def _factors_of(coupling: Coupling, classes: Array) -> set[int]:
    members: set[int] = set()
    for grid in coupling.solution.grids:
        if np.isin(grid.merged, classes).any():
            members.update(*(f.tolist() for f in grid.factors))
    return members


def _exchanges(keep: KeepSet, family: Family) -> Iterator[KeepSet]:
    """One kept for one removed unit; further pairs in case the first happens to be dead on these inputs."""
    inside = islice(exchanges(keep, family.classes), _TRIES)
    first = next(inside, None)
    if first is not None:
        yield first
        yield from inside
        return
    gone = family.classes[keep.removed[family.classes]]
    stays = family.classes[~keep.removed[family.classes]]
    for number in range(min(_TRIES, max(len(gone), len(stays)))):
        removed = keep.removed.copy()
        removed[gone[number % len(gone)]], removed[stays[number % len(stays)]] = False, True
        yield again(keep, removed)


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
    span = max(float(x.max() - x.min()), float(np.abs(x).max()) * _FLOOR, 1e-30)
    return float(np.abs(x - y).max() / span)


def _session(model: Model, probes: Sequence[str], name: str = "the masked model") -> Any:
    """A session with the named inner tensors as further outputs, runtime optimizations off.

    Raises:
        UnsupportedError: ONNX Runtime has no kernel for an operator.
    """
    import onnxruntime as ort

    from graphopt.runtime.ort_errors import load_error, ort_exceptions

    tensors = {t.name: t for n in model.graph.nodes for t in n.outputs}
    added = [tensors[name] for name in probes]
    kept = list(model.graph.outputs)
    saved = [(t, t.shape) for t in added if isinstance(t, Variable)]
    model.graph.outputs = [*kept, *added]
    for tensor, _ in saved:
        tensor.shape = None
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        with session_source(model) as source:
            return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except ort_exceptions() as error:
        raise load_error(error, name, "input") from error
    finally:
        model.graph.outputs = kept
        for tensor, shape in saved:
            tensor.shape = shape
