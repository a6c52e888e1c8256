"""Which positions of each tensor a keep-set manifest leaves, for looking at a pruned model beside its original."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.analysis.labels import analyse
from graphopt.model import Model
from graphopt.transforms.prune.manifest import load_manifest, read_manifest


def kept_positions(
    model: Model, manifest: Path, rules: Mapping[Any, Any] | None = None
) -> dict[str, dict[int, npt.NDArray[np.int64]]]:
    """For each tensor of ``model`` (the one that was pruned) that is cut: by axis, the positions that are left.

    Raises:
        UsageError: the file is no manifest, or that of another model.
    """
    work = model.clone()
    work.inline_functions()
    coupling = analyse(work.graph, rules=rules)
    keep = read_manifest(coupling, load_manifest(manifest))
    found: dict[str, dict[int, npt.NDArray[np.int64]]] = {}
    for tensor, axes in coupling.record.axes.items():
        cut = {place: np.flatnonzero(keep.mask(axis)) for place, axis in enumerate(axes) if keep.changed(axis)}
        if cut and not tensor.is_empty():
            found[tensor.name] = cut
    return found
