"""The calibration engine: statistics of inner tensors over a data set, in bounded memory.

::

    stats = collect(model, data, [Request.of("conv1_out", Histogram()), Request.of("x", MinMax())])
    stats.typed(Request.of("x", MinMax()), MinMaxAccumulator).maximum
"""

from graphopt.analysis.statistics.accumulators import (
    Accumulator,
    ChannelMoments,
    ChannelMomentsAccumulator,
    MinMax,
    MinMaxAccumulator,
    Moments,
    MomentsAccumulator,
    Spec,
)
from graphopt.analysis.statistics.engine import Progress, ProgressCallback, Request, Statistics, collect
from graphopt.analysis.statistics.gram import CrossGram, CrossGramAccumulator, Gram, GramAccumulator
from graphopt.analysis.statistics.histogram import Histogram, HistogramAccumulator
from graphopt.analysis.statistics.patches import Channels, Directions, Patches, Window
from graphopt.analysis.statistics.samples import Part, Rows

__all__ = [
    "Accumulator",
    "ChannelMoments",
    "ChannelMomentsAccumulator",
    "Channels",
    "CrossGram",
    "CrossGramAccumulator",
    "Directions",
    "Gram",
    "GramAccumulator",
    "Histogram",
    "HistogramAccumulator",
    "MinMax",
    "MinMaxAccumulator",
    "Moments",
    "MomentsAccumulator",
    "Part",
    "Patches",
    "Progress",
    "ProgressCallback",
    "Request",
    "Rows",
    "Spec",
    "Statistics",
    "Window",
    "collect",
]
