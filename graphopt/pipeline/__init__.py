"""Passes, rewrites, pipelines and their manager: what a custom pass imports, and what runs it."""

from graphopt.pipeline.context import Context, Settings
from graphopt.pipeline.extensions import criterion, rule
from graphopt.pipeline.manager import PassManager, Run
from graphopt.pipeline.matching import Match
from graphopt.pipeline.options import Options, Tunable, option
from graphopt.pipeline.passes import Composite, Guarantee, Pass
from graphopt.pipeline.patterns import Const, Op, Out, Rest, Var
from graphopt.pipeline.pipeline import Pipeline
from graphopt.pipeline.registry import Registry
from graphopt.pipeline.rewrite import Builder, Rewrite, RewriteOptions, RewritePass, rewrite
from graphopt.pipeline.values import Pattern, PatternMap, Share, Size

__all__ = [
    "Builder",
    "Composite",
    "Const",
    "Context",
    "Guarantee",
    "Match",
    "Op",
    "Options",
    "Out",
    "Pass",
    "PassManager",
    "Pattern",
    "PatternMap",
    "Pipeline",
    "Registry",
    "Rest",
    "Rewrite",
    "RewriteOptions",
    "RewritePass",
    "Run",
    "Settings",
    "Share",
    "Size",
    "Tunable",
    "Var",
    "criterion",
    "option",
    "rewrite",
    "rule",
]
