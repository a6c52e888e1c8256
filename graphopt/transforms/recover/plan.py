"""Which layers a reconstruction fits, in which order, and what each is fitted to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from graphopt.analysis.statistics import Channels
from graphopt.graph import subgraphs
from graphopt.ir import Array, Node, Tensor, constant_value, static_shape
from graphopt.model import Model
from graphopt.transforms.recover.layers import Layer, layers_of, with_limit
from graphopt.transforms.recover.least_squares import RIDGES
from graphopt.transforms.recover.responses import Response, response_of
from graphopt.transforms.recover.sources import Aim, Cut, OriginOf, Sources

_LEAST_ROWS, _MOST_ROWS, _ROWS_PER_FEATURE = 16384, 65536, 32
_MORE_ROWS = 4
_ROW_WORK = 1e11
_SLOW_FEATURES = 1024
_MOST_FEATURES = 6144
_FLOAT = 4


@dataclass(frozen=True)
class ReconstructionOptions:
    """How to reconstruct. ``max_memory`` bounds stored reference rows and exposed values, in bytes.

    ``match``: no least squares; only mean and standard deviation of each output channel are matched, as
    recalibrating BatchNorm statistics does. ``most_features``: layers that read more only get a factor and a bias a
    channel. ``responses``: fit what comes after a layer's activation. ``chains``: fit convolutions in
    a row together. ``keep_zeros``: weights that are zero stay zero; such fits are linear and layer by layer.
    ``limits``: largest magnitude that fitted weights may have, by the name of the weight, broadcast to its shape.
    ``rows_per_feature``, ``least_rows``, ``most_rows``: rows of a layer to look at, up to four times that where cheap.
    """

    match: bool = False
    ridges: tuple[float, ...] = RIDGES
    batch: int | None = None
    threads: int = 1
    max_memory: int = 1 << 30
    rows_per_feature: int = _ROWS_PER_FEATURE
    least_rows: int = _LEAST_ROWS
    most_rows: int = _MOST_ROWS
    residual_targets: bool = True
    most_features: int = _MOST_FEATURES
    responses: bool = True
    chains: bool = True
    keep_zeros: bool = False
    limits: Mapping[str, Array] = field(default_factory=dict)

    @property
    def together(self) -> bool:
        """Whether layers are fitted together."""
        return self.chains and not self.match and not self.keep_zeros and not self.limits


@dataclass(frozen=True)
class Job:
    """A layer to fit, with what its targets are in the reference and in the changed model.

    ``narrow``: no Gram fits; its own output gets a factor and a bias a channel. ``response`` is the activation that
    follows, ``stride`` says that every so many rows are kept for it. ``elsewhere``: how the targets are cut on axes
    other than that of the channels.
    """

    layer: Layer
    source: str
    kept: Array | None
    scales: Array | None
    other: Tensor | None
    product: Array | None = None
    narrow: bool = False
    response: Response | None = None
    stride: int = 1
    elsewhere: tuple[Cut, ...] = ()

    @classmethod
    def of(cls, layer: Layer, aim: Aim, narrow: bool = False) -> Job:
        """The job to fit ``layer`` to ``aim``."""
        return cls(layer, aim.tensor, aim.kept, aim.scales, None, narrow=narrow, elsewhere=aim.elsewhere)

    @property
    def kept_bytes(self) -> int:
        """Of the rows kept for the activation, at most, for one sample."""
        if self.response is None:
            return 0
        groups, features, outputs = self.layer.matrix().shape
        rows = -(-int(self.layer.target.limit or 1) // self.stride)
        return int(rows * groups * (features + 2 * outputs) * _FLOAT)


def plan(
    model: Model,
    reference: Model,
    origin: OriginOf,
    touched: frozenset[str],
    samples: int,
    options: ReconstructionOptions,
) -> list[Job]:
    """The layers to fit, in the order of computation: those that a removed channel or a touched node reaches."""
    jobs: list[Job] = []
    dirty: set[int] = set()
    sources = Sources(reference, origin)
    for node in model.graph.nodes:
        layers = layers_of(node)
        if not (node.name in touched or _reads_dirty(node, dirty) or any(_cut(layer, origin) for layer in layers)):
            continue
        dirty.update(id(t) for t in node.outputs)
        for layer in layers:
            if node.name in touched or id(layer.data) in dirty or _cut(layer, origin):
                job = _job(layer, sources, samples, options)
                jobs += [] if job is None else [job]
    if options.residual_targets:
        jobs = _residual_targets(model, jobs, sources, dirty)
    plain = options.match or not options.responses
    return jobs if plain else _responses(model, jobs, samples, options)


def narrowed(
    model: Model,
    reference: Model,
    jobs: Sequence[Job],
    origin: OriginOf,
    samples: int,
    options: ReconstructionOptions,
) -> list[Job]:
    """Layers that only lost outputs: nothing to fit on their own, but they can be part of a chain."""
    known = {id(j.layer.node) for j in jobs}
    sources = Sources(reference, origin)
    found = []
    for node in model.graph.nodes:
        for layer in () if id(node) in known else layers_of(node):
            if layer.inner or not isinstance(layer.target, Channels):
                continue
            aim = sources.aim(layer.output, layer.target.axis)
            if aim is not None and aim.kept is not None:
                found.append(Job.of(layer, aim))
    return _responses(model, found, samples, options)


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
    layer: Layer, sources: Sources, samples: int, options: ReconstructionOptions
) -> Job | None:
    groups, features, outputs = layer.matrix().shape
    narrow = features - 1 > options.most_features
    rows = _rows(1, 1, options) if narrow else _rows(groups, features - 1, options)
    limited = with_limit(layer, max(1, -(-rows // samples)))
    if narrow:
        if layer.inner or not isinstance(limited.target, Channels):
            return None
        limited = replace(limited, patches=replace(limited.target, groups=groups * outputs))
    if layer.inner:
        return _inner_job(limited, sources)
    assert isinstance(layer.target, Channels)
    aim = sources.aim(layer.output, layer.target.axis)
    return None if aim is None else Job.of(limited, aim, narrow)


def _rows(groups: int, features: int, options: ReconstructionOptions) -> int:
    """Rows to look at: so many for each feature, and more where that is cheap. Products of few features are slow."""
    least = min(max(options.rows_per_feature * features, options.least_rows), options.most_rows)
    work = max(features, 1) ** 2 if groups == 1 else groups * features * max(features, _SLOW_FEATURES)
    affordable = int(min(_ROW_WORK / work, _MORE_ROWS * options.most_rows))
    return max(least, min(_MORE_ROWS * least, affordable))


def _inner_job(layer: Layer, sources: Sources) -> Job | None:
    """Targets of a recurrent node's product: the reference's input or hidden state times the reference's weights."""
    data, weight = sources.origin(layer.data.name), sources.origin(layer.weight.name)
    if data is None or weight is None or weight.scales or set(weight.kept) - {1, 2}:
        return None
    original = sources.originals[weight.tensor]
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
    return Job(layer, data.tensor, kept, None, None, product)


def _residual_targets(model: Model, jobs: list[Job], sources: Sources, dirty: set[int]) -> list[Job]:
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
        aim = sources.aim(add.outputs[0], job.layer.target.axis)
        if id(other) in dirty and aim is not None and constant_value(other) is None:
            result[index] = replace(Job.of(job.layer, aim, job.narrow), other=other)
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


def _responses(model: Model, jobs: list[Job], samples: int, options: ReconstructionOptions) -> list[Job]:
    """Add the activation that follows to each layer; rows are thinned until they fit into a quarter of the memory."""
    outputs = {id(t) for t in model.graph.outputs}
    result = []
    for job in jobs:
        tensor = job.layer.output
        if job.other is not None:
            tensor = next(n for n in tensor.outputs if n.is_op("Add")).outputs[0]
        response = None if job.layer.inner or job.narrow else response_of(tensor, outputs)
        if response is not None:
            job = replace(job, response=response)
            job = replace(job, stride=max(1, -(-4 * samples * job.kept_bytes // options.max_memory)))
        result.append(job)
    return result
