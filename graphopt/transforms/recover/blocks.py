"""Whole maps for the joint fits of ``chain``: gathered from reference and changed model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from graphopt.analysis.statistics import Rows, Window
from graphopt.analysis.statistics.exposure import exposed, run_shapes
from graphopt.data.feeds import Dataset
from graphopt.ir import Array
from graphopt.model import Model
from graphopt.transforms.recover.chain import Improved, Link, Maps, chain_of, improve
from graphopt.transforms.recover.layers import Layer, layers_of
from graphopt.transforms.recover.plan import Job, ReconstructionOptions
from graphopt.transforms.recover.rows import HELD_PERIOD

_POSITIONS = 3 << 14
_LEAST_SAMPLES = 20
_WORK = 1.5e9


def refine_chain(
    model: Model,
    reference: Model,
    dataset: Dataset,
    job: Job,
    jobs: Sequence[Job],
    options: ReconstructionOptions,
) -> Improved | None:
    """Fit the chain that ends in ``job`` as a whole, in place; None when there is no chain or nothing helped.

    ``jobs`` are all layers that may be part of a chain.
    """
    chain = chain_of(job, jobs)
    if not chain or not all(j.layer.has_bias for j in chain):
        return None
    maps = _maps(model, reference, dataset, chain, options)
    if maps is None:
        return None
    held = np.arange(len(maps.inputs)) % HELD_PERIOD == HELD_PERIOD - 1
    links = [Link(replace(j, layer=_as_it_is_now(j)), j.response) for j in chain]
    found = improve(links, maps.part(~held), maps.part(held))
    if not found.after < found.before:
        return None
    for link, matrix in zip(links, found.matrices, strict=True):
        link.job.layer.assign(model.graph, matrix)
    return found


def _as_it_is_now(job: Job) -> Layer:
    """The layer once more: it may have got a bias since the job was made."""
    return next(layer for layer in layers_of(job.layer.node) if layer.half == job.layer.half)


def _maps(
    model: Model, reference: Model, dataset: Dataset, chain: Sequence[Job], options: ReconstructionOptions
) -> Maps | None:
    """Maps of as many samples as time and memory allow.

    None when those are too few for the chain's weights, or when they are no maps of one size with a batch.
    """
    last = chain[-1]
    if last.elsewhere:
        return None
    own = [chain[0].layer.data.name, *([] if last.other is None else [last.other.name])]
    first = next(iter(dataset.iter_batches(1)))
    shapes = run_shapes(model, own, first.feeds, options.threads)
    shape, channel = shapes[own[0]], 1 if isinstance(chain[0].layer.patches, Window) else len(shapes[own[0]]) - 1
    positions = max(math.prod(shape) // max(shape[channel], 1), 1)
    values = sum(math.prod(s) for s in shapes.values()) + positions * len(chain) * 64
    weights = [j.layer.matrix().shape for j in chain]
    rows = min(_POSITIONS, int(_WORK / sum(math.prod(s) for s in weights)))
    count = min(len(dataset), rows // positions, options.max_memory // (64 * max(values, 1)))
    if count < _LEAST_SAMPLES or count * positions < max(s[1] for s in weights):
        return None
    chosen = dataset.select(np.unique(np.linspace(0, len(dataset) - 1, count).round().astype(int)).tolist())
    axis = 1 if isinstance(chain[0].layer.patches, Window) else -1
    found = _gather(model, chosen, own, axis, options)
    wanted = _gather(reference, chosen, [last.source], axis, options)
    if found is None or wanted is None or len(wanted[last.source]) != len(found[own[0]]):
        return None
    targets = wanted[last.source]
    targets = targets if last.kept is None else targets[..., last.kept]
    targets = targets if last.scales is None else targets * last.scales.astype(np.float32)
    if axis == -1 and targets.shape[:-1] != found[own[0]].shape[:-1]:
        return None
    other = None if last.other is None else found[own[1]]
    return None if other is not None and other.shape != targets.shape else Maps(found[own[0]], targets, other)


def _gather(
    model: Model, dataset: Dataset, names: Sequence[str], axis: int, options: ReconstructionOptions
) -> dict[str, Array] | None:
    """Whole tensors of all samples, channels last; None when the batch is no axis of its own, or sizes differ."""
    found: dict[str, list[Array]] = {n: [] for n in names}
    with exposed(model, names, options.threads) as session:
        for item in dataset.iter_batches(options.batch):
            rows = Rows(item.rows, item.valid, item.start)
            for name, value in session.run(item.feeds).items():
                samples = rows.samples(value)
                if samples.ndim != value.ndim:
                    return None
                found[name].append(np.moveaxis(samples, axis, -1).astype(np.float32))
    if any(len({b.shape[1:] for b in blocks}) > 1 for blocks in found.values()):
        return None
    if len({len(np.concatenate(b)) for b in found.values()}) > 1:
        return None
    return {n: np.concatenate(b) for n, b in found.items()}
