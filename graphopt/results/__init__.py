"""The frozen result model that everything reports into.

Passes, comparisons, timings and runs fill these; the terminal, JSON and HTML reports only read them. ``as_json``
turns any of them into plain dicts and lists.
"""

from graphopt.results.check import BuiltKernel, CheckReport, EngineReport, LayerPrecision, Problem, Severity
from graphopt.results.comparison import Accuracy, Comparison, OutputComparison, TensorAgreement, TensorProfile
from graphopt.results.layers import Bound, LayerBound, LayerChange, LayerTime, WeightHistogram
from graphopt.results.passes import GraphStats, PassResult, PlannedPass, Remark, RemarkKind, numbered
from graphopt.results.plain import as_json, counted
from graphopt.results.run import ModelFile, RunResult, timed_names
from graphopt.results.timing import (
    Availability,
    CpuInfo,
    Footprint,
    NodeAssignment,
    NodeTime,
    Ratio,
    SweepPoint,
    Timing,
    TimingReport,
    Verdict,
)

__all__ = [
    "Accuracy",
    "Availability",
    "Bound",
    "BuiltKernel",
    "CheckReport",
    "Comparison",
    "CpuInfo",
    "EngineReport",
    "Footprint",
    "GraphStats",
    "LayerBound",
    "LayerChange",
    "LayerPrecision",
    "LayerTime",
    "ModelFile",
    "NodeAssignment",
    "NodeTime",
    "OutputComparison",
    "PassResult",
    "PlannedPass",
    "Problem",
    "Ratio",
    "Remark",
    "RemarkKind",
    "RunResult",
    "Severity",
    "SweepPoint",
    "TensorAgreement",
    "TensorProfile",
    "Timing",
    "TimingReport",
    "Verdict",
    "WeightHistogram",
    "as_json",
    "counted",
    "numbered",
    "timed_names",
]
