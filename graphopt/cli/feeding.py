"""From options to data and sessions, the same way in every subcommand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphopt.data.feeds import Dataset, Feeds
    from graphopt.data.interface import Interface


@dataclass(frozen=True)
class Feeding:
    """What the user said about data."""

    data: str | None = None
    dims: Mapping[str, int] | None = None
    batch: int | None = None
    samples: int | None = None
    preprocess: str | None = None
    seed: int = 0

    def open(self, interface: Interface, synthetic_count: int = 8) -> Dataset:
        """The user's data, or seeded synthetic inputs when there is none."""
        from graphopt.data.open import open_data
        from graphopt.data.synthetic import SyntheticDataset

        if self.data is not None:
            return open_data(self.data, interface, preprocess=self.preprocess, samples=self.samples, seed=self.seed)
        bound = interface.bind(dict(self.dims or {}), self.batch or (1 if interface.batch_dims() else None))
        return SyntheticDataset(bound, self.samples or synthetic_count, self.seed)

    def timed(self, interface: Interface, batch: int | None) -> tuple[Feeds, int]:
        """Feeds of one run of ``batch`` samples, and how many samples they hold. Few samples are repeated.

        Raises:
            UsageError: the model takes another, fixed number of samples.
        """
        import numpy as np

        from graphopt.errors import UsageError

        firsts = {info.shape[0] for info in interface.required if info.shape}
        if batch is not None and not interface.batch_dims() and firsts != {batch}:
            fixed = ", ".join(sorted(str(d) for d in firsts))
            raise UsageError(f"--batch {batch}: the model fixes the first extents of its inputs ({fixed})")
        part = next(iter(replace(self, batch=batch).open(interface, 1).iter_batches(batch or 1)))
        if batch is None or self.data is None:
            return part.feeds, batch or part.rows
        if part.rows == batch:
            return part.feeds, batch
        repeats = {
            name: np.resize(a, (batch, *a.shape[1:])) if a.ndim and a.shape[0] == part.rows else a
            for name, a in part.feeds.items()
        }
        return repeats, batch


def model_file(path: Path) -> Path:
    """The path, if there is a file.

    Raises:
        UsageError: there is none, or it is a folder.
    """
    from graphopt.errors import UsageError

    if path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder; name the .onnx file in it")
    if not path.is_file():
        raise UsageError(f"there is no file {str(path)!r}")
    return path
