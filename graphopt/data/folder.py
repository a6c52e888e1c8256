"""A folder of .npz files. Each file follows the rules of one file; together they are one data set."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

from graphopt.data.checks import check_names, label_key
from graphopt.data.feeds import Sample, SampleDataset
from graphopt.data.interface import Interface
from graphopt.data.npz import ArrayDataset, ArrayPlan, load_npz, plan_arrays, read_headers
from graphopt.errors import DataError


class NpzFolder(SampleDataset):
    """Samples from many .npz files in name order. Headers are read at once, values one file at a time."""

    def __init__(self, files: Sequence[Path], interface: Interface, source: str) -> None:
        if not files:
            raise DataError(f"{source} holds no .npz files")
        plans: list[ArrayPlan] = []
        labels: list[bool] = []
        for file in files:
            shapes = read_headers(file)
            key = label_key(shapes, interface)
            inputs = {name: shape for name, shape in shapes.items() if name != key}
            check_names(inputs, interface, str(file))
            plans.append(plan_arrays(inputs, interface, str(file)))
            labels.append(key is not None)
        for file, plan, has_labels in zip(files, plans, labels, strict=True):
            if plan.layout.whole != plans[0].layout.whole:
                raise DataError(f"{file} gives whole inputs where {files[0]} gives rows, or the other way round")
            if has_labels != labels[0]:
                without, other = (file, files[0]) if labels[0] else (files[0], file)
                raise DataError(f"{without} has no labels but {other} has; label all files or none")
        super().__init__(interface, plans[0].layout, source)
        self._files = tuple(files)
        self._labelled = labels[0]
        self._starts = [0]
        for plan in plans:
            self._starts.append(self._starts[-1] + plan.samples)
        self._open: tuple[int, ArrayDataset] | None = None

    @property
    def labelled(self) -> bool:
        """True when the files hold labels."""
        return self._labelled

    def __len__(self) -> int:
        return self._starts[-1]

    def sample(self, index: int) -> Sample:
        """Give sample ``index``. The file it is in stays in memory until another is needed."""
        position = bisect_right(self._starts, index) - 1
        if self._open is None or self._open[0] != position:
            self._open = (position, load_npz(self._files[position], self.interface))
        return self._open[1].sample(index - self._starts[position])
