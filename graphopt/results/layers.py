"""One layer before and after, and what bounds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True)
class LayerChange:
    """One weighted node before and after. Shapes are those of its weight; "" and () where it is gone.

    ``op_after`` is the operator that it became (MatMulNBits, QLinearConv, ...).
    """

    name: str
    op: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    precision: str
    parameters_before: int
    parameters_after: int
    op_after: str = ""

    @property
    def kept(self) -> float:
        """Share of the parameters that is left."""
        return self.parameters_after / self.parameters_before if self.parameters_before else 1.0


Bound: TypeAlias = Literal["compute", "memory", "fixed"]


@dataclass(frozen=True)
class LayerBound:
    """What bounds one node on a target: the longest of three times, each the least that its profile allows.

    ``compute_us``: ``macs`` at the fastest rate measured; ``memory_us``: ``bytes`` read and written at the rate of an
    elementwise Add; ``fixed_us``: running a node at all. ``intensity`` is MACs a byte.
    """

    node: str
    op: str
    precision: str
    macs: int
    bytes: int
    intensity: float
    compute_us: float
    memory_us: float
    fixed_us: float
    bound: Bound

    @property
    def floor_us(self) -> float:
        """The least time that the profile allows."""
        return max(self.compute_us, self.memory_us, self.fixed_us)


@dataclass(frozen=True)
class LayerTime:
    """Time of one weighted layer a run before and after, in microseconds; 0 where it has no kernel any more.

    ``bound``: what bounds it after the run, by the target's profile. ``passes``: those that changed it.
    """

    name: str
    op: str
    before_us: float
    after_us: float
    bound: Bound | None = None
    passes: tuple[str, ...] = ()


@dataclass(frozen=True)
class WeightHistogram:
    """Weights of one layer before and after, counted in the same bins from ``low`` to ``high``.

    ``step`` is the quantization step (the median over channels) and ``grid`` the smallest and largest number that any
    channel can store, both None for a float layer. ``kept`` are the extremes of the weights after the run.
    """

    name: str
    low: float
    high: float
    before: tuple[int, ...]
    after: tuple[int, ...]
    step: float | None = None
    grid: tuple[float, float] | None = None
    kept: tuple[float, float] | None = None
