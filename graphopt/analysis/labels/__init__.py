"""Coupled channels: which positions of which axes must be removed together."""

from __future__ import annotations

from graphopt.analysis.labels.engine import Coupling, analyse
from graphopt.analysis.labels.records import Kept
from graphopt.analysis.labels.site import Rule, Site
from graphopt.analysis.labels.space import Axis, Frozen

__all__ = ["Axis", "Coupling", "Frozen", "Kept", "Rule", "Site", "analyse"]
