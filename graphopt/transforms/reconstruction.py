"""Closed-form recovery by sequential least squares: inputs from the changed prefix, targets from the reference.

Layer by layer in the order of computation, each weighted layer is fitted so that with the inputs it now gets it gives
what the reference gives at this place, restricted to the channels that are left (He et al. 2017, Channel Pruning;
Luo et al. 2017, ThiNet; Frantar et al. 2022, OBC). A layer that ends in a residual sum is fitted to the reference's
sum less what the other branch now gives. Every fit is judged on held-back samples and dropped when it does not help.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from graphopt.analysis.statistics import Channels, ProgressCallback, Request, collect
from graphopt.data.feeds import Dataset, count_samples
from graphopt.graph import subgraphs
from graphopt.ir import Array, Node, Tensor, constant_value, static_shape
from graphopt.model import Model
from graphopt.transforms.least_squares import RIDGES, System, fit, joined, match_scale
from graphopt.transforms.reconstruction_layers import Layer, layers_of, with_limit
from graphopt.transforms.reconstruction_rows import Against, AgainstAccumulator, KeptRows, RowStore

_LEAST_ROWS, _MOST_ROWS, _ROWS_PER_FEATURE = 16384, 65536, 32
_MOST_FEATURES = 6144


class SourceTensor(Protocol):
    """Where a tensor comes from: a reference tensor, the positions kept on its axes, the factors on them."""

    @property
    def tensor(self) -> str:
        """Name of the reference tensor."""
        ...

    @property
    def kept(self) -> Mapping[int, Array]:
        """Axis to the reference positions that are left."""
        ...

    @property
    def scales(self) -> Mapping[int, Array]:
        """Axis to one factor for each position that is left."""
        ...


OriginOf = Callable[[str], SourceTensor | None]


@dataclass(frozen=True)
class ReconstructionOptions:
    """How to reconstruct. ``max_memory`` bounds stored reference rows and exposed values, in bytes.

    ``match``: no least squares; only mean and standard deviation of each output channel are matched, as
    recalibrating BatchNorm statistics does.
    """

    match: bool = False
    ridges: tuple[float, ...] = RIDGES
    batch: int | None = None
    threads: int = 1
    max_memory: int = 1 << 30
    rows_per_feature: int = _ROWS_PER_FEATURE
    residual_targets: bool = True


@dataclass(frozen=True)
class Step:
    """One layer: relative squared error on held-back samples before and after; ``method`` is what was kept of it."""

    node: str
    output: str
    method: str
    before: float
    after: float
    ridge: float | None = None


@dataclass(frozen=True)
class _Job:
    """A layer to fit, with what its targets are in the reference and in the changed model."""

    layer: Layer
    source: str
    kept: Array | None
    scales: Array | None
    other: Tensor | None
    product: Array | None = None


def reconstruct(
    model: Model,
    reference: Model,
    dataset: Dataset,
    origin: OriginOf,
    options: ReconstructionOptions | None = None,
    *,
    touched: frozenset[str] = frozenset(),
    progress: ProgressCallback | None = None,
) -> tuple[Step, ...]:
    """Fit the layers of ``model`` that its changes reach to ``reference``, in place.

    Args:
        model: the changed model.
        reference: what it should compute; not changed.
        dataset: calibration samples; every fifth is held back to judge each fit, then used as well.
        origin: how each tensor of the model follows from one of the reference.
        options: see there.
        touched: names of nodes that were changed in other ways than by removed input channels.
        progress: called while data streams.

    Raises:
        DataError: no samples, or non-finite values.
    """
    options = options or ReconstructionOptions()
    samples = max(1, count_samples(dataset))
    jobs = plan(model, reference, origin, touched, samples, options)
    steps: list[Step] = []
    for chunk in _chunks(jobs, samples, options):
        stores = _reference_rows(reference, dataset, chunk, options, progress)
        for wave in _waves(model, chunk):
            steps += _fit_wave(model, dataset, wave, stores, options, progress)
    return tuple(steps)


def plan(
    model: Model,
    reference: Model,
    origin: OriginOf,
    touched: frozenset[str],
    samples: int,
    options: ReconstructionOptions,
) -> list[_Job]:
    """The layers to fit, in the order of computation: those that a removed channel or a touched node reaches."""
    jobs: list[_Job] = []
    dirty: set[int] = set()
    originals = reference.graph.tensors()
    for node in model.graph.nodes:
        layers = layers_of(node)
        if not (node.name in touched or _reads_dirty(node, dirty) or any(_cut(layer, origin) for layer in layers)):
            continue
        dirty.update(id(t) for t in node.outputs)
        for layer in layers:
            if node.name in touched or id(layer.data) in dirty or _cut(layer, origin):
                job = _job(layer, originals, origin, samples, options)
                jobs += [] if job is None else [job]
    return _residual_targets(model, jobs, origin, dirty) if options.residual_targets else jobs


def _reads_dirty(node: Node, dirty: set[int]) -> bool:
    if subgraphs(node):
        return bool(dirty)
    return any(id(t) in dirty for t in node.inputs)


def _cut(layer: Layer, origin: OriginOf) -> bool:
    """Whether input channels of the layer were removed or scaled."""
    for tensor in (layer.data, layer.weight):
        source = origin(tensor.name)
        if source is None:
            continue
        if tensor is layer.weight and (layer.weight_axis in source.kept or layer.weight_axis in source.scales):
            return True
        if tensor is layer.data and (source.kept or source.scales):
            return True
    return False


def _job(
    layer: Layer, originals: Mapping[str, Tensor], origin: OriginOf, samples: int, options: ReconstructionOptions
) -> _Job | None:
    matrix = layer.matrix()
    features = matrix.shape[1] - 1
    if features > _MOST_FEATURES:
        return None
    rows = min(max(options.rows_per_feature * features, _LEAST_ROWS), _MOST_ROWS)
    limited = with_limit(layer, max(1, -(-rows // samples)))
    if layer.inner:
        return _inner_job(limited, originals, origin)
    assert isinstance(layer.target, Channels)
    target = _source(layer.output, layer.target.axis, origin)
    return None if target is None else _Job(limited, *target, other=None)


def _inner_job(layer: Layer, originals: Mapping[str, Tensor], origin: OriginOf) -> _Job | None:
    """Targets of a recurrent node's product: the reference's input or hidden state times the reference's weights."""
    data, weight = origin(layer.data.name), origin(layer.weight.name)
    if data is None or weight is None or weight.scales or set(weight.kept) - {1, 2}:
        return None
    original = originals[weight.tensor]
    readers = (lay for n in original.outputs if n.op == layer.node.op for lay in layers_of(n))
    first = next((lay for lay in readers if lay.half == layer.half), None)
    shape = static_shape(original)
    if first is None or shape is None:
        return None
    product = first.matrix()
    kept = weight.kept.get(1)
    if kept is not None and len(product) == 1:
        directions = shape[0]
        per_direction = product.shape[2] // directions
        kept = (np.arange(directions)[:, None] * per_direction + kept).reshape(-1)
    return _Job(layer, data.tensor, kept, None, None, product)


def _source(tensor: Tensor, axis: int, origin: OriginOf) -> tuple[str, Array | None, Array | None] | None:
    """Reference tensor, kept channels and their scales; None when it is unknown or cut on another axis."""
    source = origin(tensor.name)
    if source is None:
        return None
    axes = set(source.kept) | set(source.scales)
    if axis < 0 and axes:
        rank = len(tensor.shape) if tensor.shape is not None else None
        axis = max(axes) if rank is None else axis % rank
    if axes - {axis}:
        return None
    kept, scales = source.kept.get(axis), source.scales.get(axis)
    return source.tensor, kept, scales


def _residual_targets(model: Model, jobs: list[_Job], origin: OriginOf, dirty: set[int]) -> list[_Job]:
    """Aim the last layer that feeds a residual sum at the sum."""
    outputs = {id(t) for t in model.graph.outputs}
    last: dict[int, int] = {}
    for index, job in enumerate(jobs):
        if not job.layer.inner and (add := _sum_of(job.layer.output, outputs)) is not None:
            last[id(add)] = index
    result = list(jobs)
    for index, job in enumerate(jobs):
        add = None if job.layer.inner else _sum_of(job.layer.output, outputs)
        if add is None or last[id(add)] != index:
            continue
        other = next(t for t in add.inputs if t is not job.layer.output)
        assert isinstance(job.layer.target, Channels)
        target = _source(add.outputs[0], job.layer.target.axis, origin)
        if id(other) in dirty and target is not None and constant_value(other) is None:
            result[index] = replace(job, source=target[0], kept=target[1], scales=target[2], other=other)
    return result


def _sum_of(tensor: Tensor, outputs: set[int]) -> Node | None:
    """The Add of two variables that is the tensor's only consumer."""
    if len(tensor.outputs) != 1 or id(tensor) in outputs or not tensor.outputs[0].is_op("Add"):
        return None
    add = tensor.outputs[0]
    others = [t for t in add.inputs if t is not tensor]
    if len(others) != 1 or constant_value(others[0]) is not None:
        return None
    shapes = [t.shape for t in (tensor, others[0])]
    same = shapes[0] is None or shapes[1] is None or len(shapes[0]) == len(shapes[1])
    return add if same else None


def _chunks(jobs: Sequence[_Job], samples: int, options: ReconstructionOptions) -> list[list[_Job]]:
    """Consecutive jobs whose stored reference rows fit into half of the memory."""
    chunks: list[list[_Job]] = []
    used = 0
    for job in jobs:
        limit = job.layer.target.limit or 1
        size = samples * limit * job.layer.matrix()[:, 0].size * 4
        if not chunks or used + size > options.max_memory // 2:
            chunks.append([])
            used = 0
        chunks[-1].append(job)
        used += size
    return chunks


def _reference_rows(
    reference: Model,
    dataset: Dataset,
    jobs: Sequence[_Job],
    options: ReconstructionOptions,
    progress: ProgressCallback | None,
) -> dict[int, RowStore]:
    requests = {
        id(job): Request.of(job.source, KeptRows(job.layer.target, job.kept, job.scales, job.product)) for job in jobs
    }
    found = collect(
        reference, dataset, requests.values(), batch=options.batch, threads=options.threads,
        max_memory=options.max_memory // 2, progress=progress,
    )  # fmt: skip
    return {key: found.typed(request, RowStore) for key, request in requests.items()}


def _waves(model: Model, jobs: Sequence[_Job]) -> list[list[_Job]]:
    """Groups of consecutive jobs of which none depends on the outcome of another in the same group."""
    by_node: dict[int, list[_Job]] = {}
    for job in jobs:
        by_node.setdefault(id(job.layer.node), []).append(job)
    waves: list[list[_Job]] = [[]]
    tainted: set[int] = set()
    for node in model.graph.nodes:
        for job in by_node.get(id(node), ()):
            if id(job.layer.data) in tainted or (job.other is not None and id(job.other) in tainted):
                waves.append([])
                tainted = set()
            waves[-1].append(job)
            tainted.update(id(t) for t in node.outputs)
        if id(node) in by_node:
            continue
        if any(id(t) in tainted for t in node.inputs) or (subgraphs(node) and tainted):
            tainted.update(id(t) for t in node.outputs)
    return [w for w in waves if w]


def _fit_wave(
    model: Model,
    dataset: Dataset,
    wave: Sequence[_Job],
    stores: Mapping[int, RowStore],
    options: ReconstructionOptions,
    progress: ProgressCallback | None,
) -> list[Step]:
    requests: list[Request] = []
    for job in wave:
        layer = job.layer
        groups = layer.matrix().shape[0]
        other = layer.target if job.other is not None and isinstance(layer.target, Channels) else None
        tensors = (layer.data.name,) if job.other is None else (layer.data.name, job.other.name)
        requests.append(Request(tensors, Against(layer.patches, stores[id(job)], groups, other)))
    found = collect(
        model, dataset, requests, batch=options.batch, threads=options.threads,
        max_memory=options.max_memory // 2, progress=progress,
    )  # fmt: skip
    return [
        _fit_layer(model, job, found.typed(request, AgainstAccumulator), options)
        for job, request in zip(wave, requests, strict=True)
    ]


def _fit_layer(model: Model, job: _Job, seen: AgainstAccumulator, options: ReconstructionOptions) -> Step:
    layer = job.layer
    system = System.of(seen.fit)
    held = System.of(seen.held) if seen.held.matrix is not None else system
    start = layer.matrix()
    if options.match:
        return _match_layer(model, layer, joined(system, held) if held is not system else system, start)
    result = fit(system, held, start, bias=layer.has_bias, ridges=options.ridges, refit=held is not system)
    helped = result.after < result.before
    if helped:
        layer.assign(model.graph, result.weights)
    method = "unchanged" if not helped else result.method
    return Step(layer.node.name, layer.output.name, method, result.before, result.after, result.ridge)


def _match_layer(model: Model, layer: Layer, system: System, start: Array) -> Step:
    before = system.relative_error(start)
    if not layer.has_bias:
        return Step(layer.node.name, layer.output.name, "unchanged", before, before)
    matched = match_scale(system, start)
    layer.assign(model.graph, matched)
    return Step(layer.node.name, layer.output.name, "scale", before, system.relative_error(matched))
