"""Closed-form recovery by sequential least squares: inputs from the changed prefix, targets from the reference.

Layer by layer in the order of computation, each weighted layer is fitted so that with the inputs it now gets it gives
what the reference gives at this place, restricted to the channels that are left (He et al. 2017, Channel Pruning;
Luo et al. 2017, ThiNet; Frantar et al. 2022, OBC). A layer that ends in a residual sum is fitted to the reference's
sum less what the other branch now gives. A layer followed by an activation is then fitted to what comes after it (see
``response_fit``). A layer with too many features for a Gram matrix gets a factor and a bias a channel.
Every fit is judged on held-back samples and dropped when it does not help.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.analysis.statistics import Channels, ProgressCallback, Request, collect
from graphopt.data.feeds import Dataset, count_samples
from graphopt.graph import subgraphs
from graphopt.ir import Array, Node, constant_value
from graphopt.model import Model
from graphopt.transforms.recover.blocks import refine_chain
from graphopt.transforms.recover.bounded import Box
from graphopt.transforms.recover.chain import chain_of
from graphopt.transforms.recover.frontier import Frontier
from graphopt.transforms.recover.least_squares import Fit, System, fit, joined, match_scale, solve
from graphopt.transforms.recover.plan import Job, ReconstructionOptions, narrowed, plan
from graphopt.transforms.recover.response_fit import advance, refine, relative_error
from graphopt.transforms.recover.rows import Against, AgainstAccumulator, KeptRows, RowStore
from graphopt.transforms.recover.sources import OriginOf

__all__ = ["JOINT", "ReconstructionOptions", "Step", "reconstruct"]

JOINT = "joint fit"


@dataclass(frozen=True)
class Step:
    """One layer: relative squared error on held-back samples before and after; ``method`` is what was kept of it."""

    node: str
    output: str
    method: str
    before: float
    after: float
    ridge: float | None = None


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
    known = [*jobs, *narrowed(model, reference, jobs, origin, samples, options)] if options.together else []
    frontier = Frontier(model, dataset, options.batch, options.threads, options.max_memory // 4)
    pending = _pending(jobs, known)
    for chunk in _chunks(jobs, samples, options):
        stores = _reference_rows(reference, dataset, chunk, options, progress)
        for wave in _waves(model, chunk):
            frontier.advance(_still_open(wave, pending))
            for part in _portions(wave, samples, options):
                steps += _fit_wave(model, frontier, part, stores, options, progress)
            if options.together:
                steps += _refine_chains(model, reference, dataset, wave, known, options)
    return tuple(steps)


def _pending(jobs: Sequence[Job], known: Sequence[Job]) -> dict[int, list[Node]]:
    """For each job, by ``id`` and in order, the nodes whose weights its fits may change."""
    return {id(j): [j.layer.node, *(c.layer.node for c in (chain_of(j, known) if known else ()))] for j in jobs}


def _still_open(wave: Sequence[Job], pending: dict[int, list[Node]]) -> list[Node]:
    """Nodes that this wave and later ones may change; jobs before it are dropped from ``pending``."""
    now = {id(j) for j in wave}
    for key in list(pending):
        if key in now:
            break
        del pending[key]
    return [n for nodes in pending.values() for n in nodes]


def _chunks(jobs: Sequence[Job], samples: int, options: ReconstructionOptions) -> list[list[Job]]:
    """Consecutive jobs whose stored reference rows fit into half of the memory."""
    chunks: list[list[Job]] = []
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
    jobs: Sequence[Job],
    options: ReconstructionOptions,
    progress: ProgressCallback | None,
) -> dict[int, RowStore]:
    requests = {
        id(job): Request.of(
            job.source, KeptRows(job.layer.target, job.kept, job.scales, job.product, job.elsewhere)
        )
        for job in jobs
    }
    found = collect(
        reference, dataset, requests.values(), batch=options.batch, threads=options.threads,
        max_memory=options.max_memory // 2, progress=progress,
    )  # fmt: skip
    return {key: found.typed(request, RowStore) for key, request in requests.items()}


def _waves(model: Model, jobs: Sequence[Job]) -> list[list[Job]]:
    """Groups of consecutive jobs of which none depends on the outcome of another in the same group."""
    by_node: dict[int, list[Job]] = {}
    for job in jobs:
        by_node.setdefault(id(job.layer.node), []).append(job)
    waves: list[list[Job]] = [[]]
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
    frontier: Frontier,
    wave: Sequence[Job],
    stores: Mapping[int, RowStore],
    options: ReconstructionOptions,
    progress: ProgressCallback | None,
) -> list[Step]:
    requests: list[Request] = []
    for job in wave:
        layer = job.layer
        groups = len(_start(job))
        other = layer.target if job.other is not None and isinstance(layer.target, Channels) else None
        source = layer.output if job.narrow else layer.data
        tensors = (source.name,) if job.other is None else (source.name, job.other.name)
        stride = 0 if job.response is None else job.stride
        kept = job.kept_bytes * len(stores[id(job)].rows)
        requests.append(Request(tensors, Against(layer.patches, stores[id(job)], groups, other, stride, kept)))
    found = collect(
        frontier.rest(), frontier.dataset, requests, batch=options.batch, threads=options.threads,
        max_memory=options.max_memory // 2, progress=progress,
    )  # fmt: skip
    return [
        _fit_layer(model, job, found.typed(request, AgainstAccumulator), options)
        for job, request in zip(wave, requests, strict=True)
    ]


def _refine_chains(
    model: Model,
    reference: Model,
    dataset: Dataset,
    wave: Sequence[Job],
    jobs: Sequence[Job],
    options: ReconstructionOptions,
) -> list[Step]:
    steps = []
    for job in wave:
        found = refine_chain(model, reference, dataset, job, jobs, options)
        if found is not None:
            layer = job.layer
            steps.append(Step(layer.node.name, layer.output.name, JOINT, found.before, found.after))
    return steps


def _portions(wave: Sequence[Job], samples: int, options: ReconstructionOptions) -> Iterator[list[Job]]:
    """Parts of a wave whose kept rows fit into half of the memory."""
    part: list[Job] = []
    used = 0
    for job in wave:
        size = job.kept_bytes * samples
        if part and used + size > options.max_memory // 2:
            yield part
            part, used = [], 0
        part.append(job)
        used += size
    yield part


def _start(job: Job) -> Array:
    """The weights that a fit starts from: the layer's own, or a factor of one and no bias for each channel."""
    matrix = job.layer.matrix()
    if not job.narrow:
        return matrix
    return np.tile(np.array([[1.0], [0.0]]), (matrix.shape[0] * matrix.shape[2], 1, 1))


def _assign(model: Model, job: Job, weights: Array) -> None:
    if job.narrow:
        matrix = job.layer.matrix()
        factors, biases = (weights[:, k, 0].reshape(matrix.shape[0], matrix.shape[2]) for k in (0, 1))
        matrix *= factors[:, None]
        matrix[:, -1] += biases
        weights = matrix
    job.layer.assign(model.graph, weights)


def _fit_layer(model: Model, job: Job, seen: AgainstAccumulator, options: ReconstructionOptions) -> Step:
    layer = job.layer
    system = System.of(seen.fit)
    held = System.of(seen.held) if seen.held.matrix is not None else system
    start = _start(job)
    if options.match:
        return _match_layer(model, job, joined(system, held) if held is not system else system, start)
    support = start != 0 if options.keep_zeros and not job.narrow else None
    box = _box(job, start, support, options)
    result = fit(
        system, held, start, bias=layer.has_bias, ridges=options.ridges, refit=False, support=support, box=box
    )
    if not result.after < result.before:
        return Step(layer.node.name, layer.output.name, "unchanged", result.before, result.after)
    weights = result.weights
    if result.ridge is not None and held is not system:
        weights = solve(joined(system, held), start, result.ridge, layer.has_bias, support, box)
        if job.response is not None and layer.has_bias and seen.held_rows and seen.fit_rows:
            return _fit_response(model, job, seen, result, weights, box)
    _assign(model, job, weights)
    method = "scale and bias" if job.narrow else result.method
    return Step(layer.node.name, layer.output.name, method, result.before, result.after, result.ridge)


def _box(job: Job, start: Array, support: Array | None, options: ReconstructionOptions) -> Box | None:
    """Between which values the weights of the layer stay; the factors of a narrow one are one."""
    layer = job.layer
    limit = options.limits.get(layer.weight.name)
    values = constant_value(layer.weight)
    weights = start[:, :-1]
    if values is None or (limit is None and support is None):
        return None
    if job.narrow:
        return None if limit is None else Box(np.ones_like(weights), np.ones_like(weights))
    most = np.inf if limit is None else np.asarray(limit, np.float64) * abs(layer.weight_scale)
    high = layer.to_matrix(np.broadcast_to(most, values.shape))
    if support is None:
        return Box(-high, high)
    inside = support[:, :-1]
    return Box(np.where(inside, -high, weights), np.where(inside, high, weights))


def _fit_response(
    model: Model, job: Job, seen: AgainstAccumulator, linear: Fit, weights: Array, box: Box | None
) -> Step:
    """Go on behind the activation from the least squares solution; ``weights`` is that of all rows."""
    response, ridge, layer = job.response, linear.ridge, job.layer
    assert response is not None
    assert ridge is not None
    system = System.of(seen.fit)
    before = relative_error(seen.held_rows, _start(job), response)
    found = refine(seen.fit_rows, seen.held_rows, system, linear.weights, response, ridge, box)
    if found.iterations:
        rows = [*seen.fit_rows, *seen.held_rows]
        weights = advance(rows, joined(system, System.of(seen.held)), weights, response, ridge, found.iterations, box)
    _assign(model, job, weights)
    method = "least squares behind the activation" if found.iterations else linear.method
    return Step(layer.node.name, layer.output.name, method, before, found.after, ridge)


def _match_layer(model: Model, job: Job, system: System, start: Array) -> Step:
    layer = job.layer
    before = system.relative_error(start)
    if not layer.has_bias:
        return Step(layer.node.name, layer.output.name, "unchanged", before, before)
    matched = match_scale(system, start)
    _assign(model, job, matched)
    return Step(layer.node.name, layer.output.name, "scale", before, system.relative_error(matched))
