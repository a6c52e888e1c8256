"""The keep-set manifest: what is removed, by weight name, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.analysis.labels import Coupling
from graphopt.analysis.labels.solve import Bools
from graphopt.errors import UsageError
from graphopt.transforms.prune.free_choice import block_masks, explain
from graphopt.transforms.prune.keepset import KeepSet

FORMAT = "graphopt-keep-1"


def write_manifest(keep: KeepSet, constants: bool = False) -> dict[str, Any]:
    """The keep-set by weight: original extents and removed positions of every axis that changes. Plain JSON data.

    ``by_block``: in the weight of a grouped convolution each block of rows has lost positions of its own on this axis.

    ``constants``: units that are constant went into biases, and do so again when the manifest is replayed.
    """
    weights: dict[str, dict[str, Any]] = {}
    for tensor, axes, edges in keep.coupling.weight_axes():
        removed = {
            str(k): np.flatnonzero(~keep.mask(axis)).tolist() for k, axis in enumerate(axes) if keep.changed(axis)
        }
        if removed:
            key = (
                tensor.name
                if not _per_edge(keep.coupling, edges)
                else f"{tensor.name}@{edges[0][0].name}:{edges[0][1]}"
            )
            weights[key] = {"shape": [len(a) for a in axes], "removed": removed}
            masks = block_masks(keep, edges[0])
            if masks is not None:
                lists = [np.flatnonzero(~m).tolist() for m in masks]
                weights[key]["by_block"] = {"axis": keep.coupling.record.blocked[edges[0]].place, "removed": lists}
    return {"format": FORMAT, "constants": constants, "weights": dict(sorted(weights.items()))}


def load_manifest(path: Path) -> Mapping[str, Any]:
    """Read a manifest file.

    Raises:
        UsageError: it cannot be read or is no manifest.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"the manifest {str(path)!r} cannot be read: {error}") from error
    return checked(data)


def folds_constants(data: Mapping[str, Any]) -> bool:
    """Whether constants went into biases."""
    return bool(data.get("constants", False))


def checked(data: Any) -> Mapping[str, Any]:
    """Manifest data.

    Raises:
        UsageError: it is none.
    """
    found = data.get("format") if isinstance(data, dict) else None
    if found != FORMAT:
        raise UsageError(f"not a keep-set manifest (format {found!r}, expected {FORMAT!r})")
    for name, entry in data.get("weights", {}).items():
        if not isinstance(entry, dict) or not {"shape", "removed"} <= entry.keys():
            raise UsageError(f"the manifest's entry for weight {name!r} lacks its shape or removed positions")
    return dict(data)


def _per_edge(coupling: Coupling, edges: tuple[Any, ...]) -> bool:
    return edges[0] in coupling.record.edge_axes


def read_manifest(coupling: Coupling, manifest: Mapping[str, Any] | str) -> KeepSet:
    """The keep-set of a manifest, for the graph of ``coupling`` (the original, or another training of it).

    Raises:
        UsageError: it is no manifest, a weight is missing or has other extents, or it would remove frozen positions.
    """
    try:
        data = checked(json.loads(manifest) if isinstance(manifest, str) else manifest)
    except ValueError as error:
        raise UsageError(f"not a keep-set manifest: {error}") from error
    solution = coupling.solution
    wanted = np.zeros(len(solution.frozen), bool)
    left = dict(data["weights"])
    for tensor, axes, edges in coupling.weight_axes():
        key = tensor.name if not _per_edge(coupling, edges) else f"{tensor.name}@{edges[0][0].name}:{edges[0][1]}"
        entry = left.pop(key, None)
        if entry is None:
            continue
        if entry["shape"] != [len(a) for a in axes]:
            raise UsageError(f"weight {key!r} has extents {[len(a) for a in axes]}, the manifest {entry['shape']}")
        for place, positions in entry["removed"].items():
            if int(place) >= len(axes) or not all(0 <= int(p) < len(axes[int(place)]) for p in positions):
                raise UsageError(f"the manifest removes positions of axis {place} of {key!r} that it does not have")
            classes = solution.classes(axes[int(place)])
            if classes is None or solution.frozen[classes[positions]].any():
                raise UsageError(f"axis {place} of {key!r} cannot be pruned here, the manifest removes from it")
            wanted[classes[positions]] = True
    if left:
        names = [t.name for t, _, _ in coupling.weight_axes()]
        hints = "; ".join(f"{n!r}{_nearest(n, names)}" for n in sorted(left)[:3])
        raise UsageError(
            f"the manifest names {len(left)} weights that this model lacks: {hints}. It replays on the model it was "
            "made from, or on another training with the same names; run the same passes first"
        )
    known = _behind(coupling, wanted)
    keep = explain(coupling, known, known & solution.leaf, wanted)
    if not np.array_equal(keep.removed & _seen(coupling), wanted) or not _says_the_same(keep, data["weights"]):
        raise UsageError("the manifest removes positions that do not form whole units of this model")
    return keep


def _says_the_same(keep: KeepSet, entries: Mapping[str, Any]) -> bool:
    """Whether every entry lists exactly what the keep-set removes there."""
    own = write_manifest(keep)["weights"]
    return all(own.get(key, {}).get("removed") == entry["removed"] for key, entry in entries.items())


def _nearest(name: str, names: list[str]) -> str:
    found = get_close_matches(name.partition("@")[0], names, n=1, cutoff=0.5)
    return f" (nearest here: {found[0]!r})" if found else ""


def _seen(coupling: Coupling) -> Bools:
    seen = np.zeros(len(coupling.solution.frozen), bool)
    for _, axes, _ in coupling.weight_axes():
        for axis in axes:
            classes = coupling.solution.classes(axis)
            if classes is not None:
                seen[classes] = True
    return seen


def _behind(coupling: Coupling, wanted: Bools) -> Bools:
    """The classes wanted, and the factors of which every position is, nested ones included."""
    known = wanted.copy()
    count = -1
    while count != int(known.sum()):
        count = int(known.sum())
        for grid in coupling.solution.grids:
            gone = known[grid.merged]
            if gone.all():
                continue
            for k, factor in enumerate(grid.factors):
                others = tuple(i for i in range(gone.ndim) if i != k)
                known[factor[gone.all(axis=others) & ~coupling.solution.frozen[factor]]] = True
    return known
