"""Size of a model for the results: nodes, parameters, bytes, and MACs where shapes are known."""

from __future__ import annotations

from dataclasses import replace

from graphopt.errors import GraphoptError
from graphopt.model import Model
from graphopt.pipeline.manager import graph_stats
from graphopt.results import GraphStats


def measure(model: Model) -> GraphStats:
    """Counts of a model; MACs are those of one sample (batch 1), None when they cannot be known."""
    from graphopt.analysis.cost import total_macs

    stats = graph_stats(model)
    try:
        return replace(stats, macs=total_macs(model))
    except GraphoptError:
        return stats
