"""Finished statistics on disk, keyed by the content of the model, the data and the request. Arrays only, no pickle."""

from __future__ import annotations

import hashlib
import os
import secrets
import zipfile
from pathlib import Path

import numpy as np

from graphopt.analysis.statistics.accumulators import Spec, State
from graphopt.data.feeds import Dataset, fingerprint
from graphopt.model import Model

_VERSION = "1"
_SAMPLES = "__samples__"


class Cache:
    """Statistics of one model on one data set, a file for each request."""

    def __init__(self, folder: Path, model: Model, dataset: Dataset, first_sample: int) -> None:
        self._folder = folder
        self._key = f"{_VERSION}|{model_fingerprint(model)}|{fingerprint(dataset)}|{first_sample}"

    def read(self, tensors: tuple[str, ...], spec: Spec) -> tuple[State, int] | None:
        """What was written for this request, and the number of samples; None if absent or damaged."""
        path = self._path(tensors, spec)
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as stored:
                state = {n: stored[n] for n in stored.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return None
        samples = state.pop(_SAMPLES, None)
        return None if samples is None else (state, int(samples))

    def write(self, tensors: tuple[str, ...], spec: Spec, state: State, samples: int) -> None:
        """Store; the file appears whole or not at all."""
        path = self._path(tensors, spec)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with open(temporary, "xb") as handle:
                np.savez(handle, allow_pickle=False, **{**state, _SAMPLES: np.asarray(samples)})
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _path(self, tensors: tuple[str, ...], spec: Spec) -> Path:
        text = f"{self._key}|{tensors!r}|{spec!r}"
        return self._folder / f"statistics-{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"


def model_fingerprint(model: Model) -> str:
    """SHA-256 over the structure and all weights, as hex."""
    digest = hashlib.sha256(model.stub_proto().SerializeToString(deterministic=True))
    for graph in model.graph.graphs():
        for constant in graph.initializers:
            digest.update(f"{constant.name}|{constant.dtype}|{constant.shape}".encode())
            values = constant.values
            digest.update(
                np.ascontiguousarray(values).tobytes()
                if values.dtype != np.dtype(object)
                else repr(values.tolist()).encode()
            )
    return digest.hexdigest()
