"""Why an axis cannot be cut."""

from __future__ import annotations

from graphopt.analysis.labels.engine import Coupling
from graphopt.analysis.labels.space import Axis, Frozen


def frozen_reason(coupling: Coupling, axis: Axis) -> str:
    """What froze an axis, "" when it is free."""
    if isinstance(axis, Frozen):
        return axis.reason
    classes = coupling.solution.class_of[axis]
    stuck = classes[coupling.solution.frozen[classes]]
    return coupling.solution.reason_of(int(stuck[0])) if len(stuck) else ""
