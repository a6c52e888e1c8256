"""Puts the weights of a pruned model back into the original: pruning undone, training after it kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.errors import UsageError
from graphopt.ir import Array, Tensor, constant_value
from graphopt.model import Model
from graphopt.transforms.prune.manifest import checked, folds_constants


def undo(pruned: Model, original: Model, manifest: Mapping[str, Any]) -> Model:
    """The original with the kept weights of ``pruned``, which may have been trained further; removed positions get back
    what the original had. Both models are only read.

    Raises:
        UsageError: a weight of the manifest is missing, its extents do not fit, or constants went into biases.
    """
    data = checked(manifest)
    if folds_constants(data):
        raise UsageError("the manifest is of an exact pruning that put constants into biases; use the original instead")
    result = original.clone()
    full, small = result.graph.tensors(), pruned.graph.tensors()
    for key, entry in data["weights"].items():
        old, before, after = _pair(key, full, small)
        kept = [
            np.delete(np.arange(extent), entry["removed"].get(str(axis), []))
            for axis, extent in enumerate(entry["shape"])
        ]
        _check(key, before, after, entry["shape"], [len(k) for k in kept])
        result.graph.set_weight(old, _put(np.array(before), after, kept, entry.get("by_block")))
    for name in (full.keys() & small.keys()) - data["weights"].keys():
        own, new = constant_value(full[name]), constant_value(small[name])
        if own is not None and new is not None and own.shape == new.shape and new.dtype.kind in "fV":
            result.graph.set_weight(full[name], new)
    return result


def _put(value: Array, small: Array, kept: list[Array], by_block: Mapping[str, Any] | None) -> Array:
    """``value`` with ``small`` at the kept positions."""
    if by_block is None:
        value[np.ix_(*kept)] = small
        return value
    place, lists = int(by_block["axis"]), by_block["removed"]
    rows = len(value) // len(lists)
    start = 0
    for block, removed in enumerate(lists):
        own = kept[0][kept[0] // rows == block]
        places = list(kept)
        places[0], places[place] = own, np.delete(np.arange(value.shape[place]), removed)
        value[np.ix_(*places)] = small[start : start + len(own)]
        start += len(own)
    return value


def _pair(key: str, full: Mapping[str, Tensor], small: Mapping[str, Tensor]) -> tuple[Tensor, Array, Array]:
    before = constant_value(full[key]) if key in full else None
    after = constant_value(small[key]) if key in small else None
    if before is None or after is None:
        raise UsageError(f"weight {key!r} of the manifest is not in both models under that name; it cannot be put back")
    return full[key], before, after


def _check(key: str, before: Array, after: Array, shape: Sequence[int], kept: Sequence[int]) -> None:
    if list(before.shape) != list(shape) or list(after.shape) != list(kept):
        raise UsageError(
            f"weight {key!r} has extents {list(before.shape)} in the original and {list(after.shape)} in the pruned "
            f"model; the manifest says {list(shape)} and {list(kept)}"
        )
