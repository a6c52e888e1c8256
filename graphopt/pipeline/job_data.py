"""The data of a run: what calibrates, what scores, and what is said about it."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.analysis.index_bounds import index_bounds
from graphopt.data.feeds import Dataset
from graphopt.data.interface import Interface
from graphopt.data.open import open_data
from graphopt.data.split import split
from graphopt.data.synthetic import Bounds, SyntheticDataset
from graphopt.model import Model
from graphopt.pipeline.job import JobData
from graphopt.results import counted

SYNTHETIC_SAMPLES = 32


@dataclass(frozen=True)
class RunData:
    """``calibration`` is None when the user gave nothing to calibrate with; ``scoring`` is always there."""

    calibration: Dataset | None
    scoring: Dataset
    words: str
    warnings: tuple[str, ...] = ()


def open_run_data(request: JobData, interface: Interface, model: Model, seed: int) -> RunData:
    """Open what the user named; seeded synthetic inputs stand in for what is missing.

    Raises:
        DataError: the data does not fit the model.
        UsageError: synthetic inputs need a value for a symbolic extent.
    """

    def opened(spec: str, samples: int | None) -> Dataset:
        return open_data(spec, interface, preprocess=request.preprocess, samples=samples, seed=seed)

    calibration = None if request.calibration is None else opened(request.calibration, request.samples)
    if request.evaluation is not None:
        limit = request.samples if calibration is None else None
        scoring = opened(request.evaluation, limit)
        words = f"{counted(len(scoring), 'sample')} to score"
        if calibration is not None:
            words = f"{counted(len(calibration), 'sample')} to calibrate, {words}"
        return RunData(calibration, scoring, words)
    if calibration is not None:
        parts = split(calibration, seed)
        words = f"{counted(len(parts.calibration), 'sample')} to calibrate, {len(parts.scoring)} to score"
        shared = ("one sample both calibrates and scores: its figures prove little",) if parts.shared else ()
        return RunData(parts.calibration, parts.scoring, words, shared)
    synthetic = synthetic_data(request, interface, model, seed)
    words = f"{counted(len(synthetic), 'synthetic input')}, seed {seed}"
    return RunData(None, synthetic, words, ("no data: synthetic inputs prove nothing about ranges and accuracy",))


def synthetic_data(request: JobData, interface: Interface, model: Model, seed: int) -> Dataset:
    """Seeded inputs within the extents that integer inputs index."""
    bounds = {name: Bounds(0, high) for name, high in index_bounds(model).items()}
    batch = request.batch if request.batch is not None or not interface.batch_dims() else 1
    bound = interface.bind(dict(request.dims), batch)
    return SyntheticDataset(bound, request.samples or SYNTHETIC_SAMPLES, seed, bounds)
