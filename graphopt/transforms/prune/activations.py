"""What activation-based criteria read: statistics of the input channels of all weighted nodes, collected on first
use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graphopt.data.feeds import Dataset
from graphopt.ir import Array, Node, Tensor
from graphopt.model import Model
from graphopt.transforms.prune.criteria import Kind, contracted_input
from graphopt.transforms.prune.selection_units import Units

if TYPE_CHECKING:
    from graphopt.analysis.statistics import Spec


class ActivationStatistics:
    """Moments and zero shares over a data set of the channels that weighted nodes of ``units`` contract. One pass over
    the data for the moments, one for the zeros if they are asked for."""

    def __init__(self, model: Model, data: Dataset, units: Units, cache: Path | None = None) -> None:
        self._model = model
        self._data = data
        self._units = units
        self._cache = cache
        self._found: dict[bool, dict[tuple[Tensor, int], object]] = {}

    def channel(self, tensor: Tensor, axis: int, kind: Kind) -> Array | None:
        """One float64 number per position of ``axis``, or None when nothing was collected there."""
        from graphopt.analysis.statistics import ChannelMoments, ChannelMomentsAccumulator
        from graphopt.analysis.statistics.zeros import ChannelZeros, ChannelZerosAccumulator

        zeros = kind == "zeros"
        if zeros not in self._found:
            self._found[zeros] = self._collect(ChannelZeros if zeros else ChannelMoments)
        found = self._found[zeros].get((tensor, axis))
        if isinstance(found, ChannelZerosAccumulator):
            return found.share
        if not isinstance(found, ChannelMomentsAccumulator):
            return None
        match kind:
            case "rms":
                return np.sqrt(found.energy)
            case "mean":
                return np.asarray(found.mean)
            case _:
                return found.variance

    def _places(self) -> Iterator[tuple[Tensor, int]]:
        nodes: dict[Node, None] = {n: None for f in self._units.families for n in f.nodes}
        for node in nodes:
            place = contracted_input(node)
            if place is not None and not node.inputs[0].is_empty() and self._units.coupling.facts[node.inputs[0]].shape:
                tensor = node.inputs[0]
                if tensor.inputs or tensor in self._model.graph.inputs:
                    yield tensor, place

    def _collect(self, spec: Callable[[int], Spec]) -> dict[tuple[Tensor, int], object]:
        from graphopt.analysis.statistics import Request, collect

        wanted = {(t, place): Request.of(t.name, spec(place)) for t, place in self._places()}
        found = collect(self._model, self._data, wanted.values(), cache=self._cache)
        return {key: found[request] for key, request in wanted.items()}
