"""How far a changed model is from the one it was made of, at the outputs, on data."""

from __future__ import annotations

from itertools import islice

import numpy as np

from graphopt.analysis.statistics.exposure import session_of
from graphopt.data.feeds import Dataset
from graphopt.ir import Array
from graphopt.model import Model

DEFAULT_RUNS = 4
_BATCH = 4


def measured_sqnr(model: Model, other: Model, data: Dataset, runs: int = DEFAULT_RUNS) -> float:
    """Signal to noise of the worst float output of ``other`` against ``model``, in dB, on the first batches.

    Minus infinity when an output of ``other`` is not finite where that of ``model`` is, or not the same infinity where
    that is infinite; infinity without noise. Where ``model`` gives NaN nothing is judged.
    """
    energy: dict[str, float] = {}
    noise: dict[str, float] = {}
    with session_of(model, 1) as one, session_of(other, 1) as two:
        for batch in islice(data.iter_batches(_BATCH), runs):
            wanted, got = one.run(batch.feeds), two.run(batch.feeds)
            for name, value in wanted.items():
                if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
                    continue
                exact, found = value.astype(np.float64), np.asarray(got[name], np.float64)
                if found.shape != exact.shape or not _same_infinities(exact, found):
                    return float("-inf")
                real = np.isfinite(exact)
                energy[name] = energy.get(name, 0.0) + float(np.square(exact[real]).sum())
                noise[name] = noise.get(name, 0.0) + float(np.square(found[real] - exact[real]).sum())
    ratios = [max(energy[n], 1e-30) / noise[n] for n in energy if noise[n] > 0]
    return 10 * float(np.log10(min(ratios))) if ratios else float("inf")


def in_words(sqnr: float) -> str:
    """What an output keeps of its signal."""
    return "loses nothing" if sqnr == float("inf") else f"keeps {sqnr:.1f} dB"


def _same_infinities(exact: Array, found: Array) -> bool:
    """Whether ``found`` is finite where ``exact`` is, and the same infinity where that is one."""
    known = ~np.isnan(exact)
    endless = np.isinf(exact)
    return bool(np.array_equal(found[endless], exact[endless]) and np.isfinite(found[known & ~endless]).all())
