"""What a run is asked to do: model, pipeline, data, where, and what to measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class JobData:
    """Data of a run, as the user names it. ``metric`` is ``module:function``."""

    calibration: str | None = None
    evaluation: str | None = None
    metric: str | None = None
    preprocess: str | None = None
    dims: Mapping[str, int] = field(default_factory=dict)
    batch: int | None = None
    samples: int | None = None


@dataclass(frozen=True)
class Where:
    """The target that the model is for, and the provider that it is timed on (None: the target's own)."""

    target: str = "ort-cpu"
    provider: str | None = None
    threads: int = 1
    strict: bool = False


@dataclass(frozen=True)
class Measuring:
    """``max_drop`` is the largest loss of the metric allowed, end to end, in its own unit."""

    time: bool = True
    max_drop: float | None = None


@dataclass(frozen=True)
class Job:
    """One run. Either ``pipeline`` (a text) or ``recipe`` (a file) says what to do; ``overrides`` change it."""

    model: Path
    output: Path | None = None
    pipeline: str = ""
    recipe: Path | None = None
    overrides: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    data: JobData = field(default_factory=JobData)
    where: Where = field(default_factory=Where)
    measuring: Measuring = field(default_factory=Measuring)
    seed: int = 0
    limit: int | None = None
    dump: Path | None = None
    cache: Path | None = None
    opset: int | None = None
    external: str = "auto"
    force: bool = False
