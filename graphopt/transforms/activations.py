"""What activation-based criteria read: moments of the input channels of all weighted nodes, collected on first use."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from graphopt.data.feeds import Dataset
from graphopt.ir import Array, Node, Tensor
from graphopt.model import Model
from graphopt.transforms.criteria import contracted_input
from graphopt.transforms.selection_units import Units


class ActivationStatistics:
    """Moments over a data set of the channels that weighted nodes of ``units`` contract. One pass over the data."""

    def __init__(self, model: Model, data: Dataset, units: Units, cache: Path | None = None) -> None:
        self._model = model
        self._data = data
        self._units = units
        self._cache = cache
        self._found: dict[tuple[Tensor, int], object] | None = None

    def channel(self, tensor: Tensor, axis: int, kind: str) -> Array | None:
        """One float64 number per position of ``axis``: ``rms``, ``mean`` or ``variance``; None when not collected."""
        from graphopt.analysis.statistics import ChannelMomentsAccumulator

        if self._found is None:
            self._found = self._collect()
        moments = self._found.get((tensor, axis))
        if not isinstance(moments, ChannelMomentsAccumulator):
            return None
        match kind:
            case "rms":
                return np.sqrt(moments.energy)
            case "mean":
                return np.asarray(moments.mean)
            case "variance":
                return moments.variance
        raise ValueError(f"unknown kind of statistic {kind!r}")

    def _collect(self) -> dict[tuple[Tensor, int], object]:
        from graphopt.analysis.statistics import ChannelMoments, Request, collect

        wanted: dict[tuple[Tensor, int], Request] = {}
        nodes: dict[Node, None] = {n: None for f in self._units.families for n in f.nodes}
        for node in nodes:
            place = contracted_input(node)
            if place is not None and not node.inputs[0].is_empty() and self._units.coupling.facts[node.inputs[0]].shape:
                tensor = node.inputs[0]
                if tensor.inputs or tensor in self._model.graph.inputs:
                    wanted[tensor, place] = Request.of(tensor.name, ChannelMoments(place))
        found = collect(self._model, self._data, wanted.values(), cache=self._cache)
        return {key: found[request] for key, request in wanted.items()}
