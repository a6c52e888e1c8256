"""Open whatever the user gave as data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.data.callables import FeedStream, load_feeds
from graphopt.data.feeds import Dataset
from graphopt.data.folder import NpzFolder
from graphopt.data.interface import Interface
from graphopt.data.npz import ArrayDataset, as_array, load_npz
from graphopt.data.split import subsample
from graphopt.errors import DataError

DataSpec = str | Path | Mapping[str, Any] | Iterable[Mapping[str, Any]]


def open_data(
    spec: DataSpec,
    interface: Interface,
    *,
    preprocess: str | Path | None = None,
    samples: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Open data for a model.

    ``spec`` is an .npz file, a folder of such files or of images, ``module:callable``, a dict of arrays (the
    rules of .npz) or a re-iterable of feeds. ``samples`` keeps that many, drawn by ``seed``. Raises DataError
    that names what is wrong.
    """
    return subsample(_open(spec, interface, preprocess), samples, seed)


def _open(spec: DataSpec, interface: Interface, preprocess: str | Path | None) -> Dataset:
    if isinstance(spec, Mapping):
        arrays = {name: as_array(value, name, "the given data") for name, value in spec.items()}
        return ArrayDataset(arrays, interface, "arrays in memory")
    if not isinstance(spec, str | Path):
        if isinstance(spec, Iterator):
            raise DataError("the given data can be read only once; give a list, or an object with __iter__")
        return FeedStream(lambda: spec, interface, "feeds in memory")
    path = Path(spec)
    if path.is_dir():
        return _open_folder(path, interface, preprocess)
    if path.exists():
        return _open_file(path, interface)
    if isinstance(spec, str) and ":" in spec:
        return load_feeds(spec, interface)
    raise DataError(f"--data {spec}: no such file or folder, and not module:callable")


def _open_file(path: Path, interface: Interface) -> Dataset:
    with path.open("rb") as handle:
        head = handle.read(6)
    if head.startswith(b"PK"):
        return load_npz(path, interface)
    if head == np.lib.format.MAGIC_PREFIX:
        raise DataError(f"--data {path} is a single .npy array; save it with numpy.savez under the input's name")
    kind = "is empty" if not head else "is not an .npz file"
    raise DataError(f"--data {path} {kind}; give an .npz, a folder of .npz or images, or module:callable")


def _open_folder(path: Path, interface: Interface, preprocess: str | Path | None) -> Dataset:
    from graphopt.data.images import ImageFolder, find_images

    archives = sorted(path.glob("*.npz"))
    images = find_images(path)
    if archives and images:
        raise DataError(f"--data {path} holds both .npz files and images; give one kind")
    if archives:
        return NpzFolder(archives, interface, str(path))
    if images:
        return ImageFolder(path, images, interface, preprocess)
    raise DataError(f"--data {path} holds no .npz files and no images")
