"""Fashion-MNIST from its four gzip IDX files (format: http://yann.lecun.com/exdb/mnist/)."""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DEBIAN_DIR = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

_IMAGE_MAGIC = 2051
_LABEL_MAGIC = 2049


class DataMissingError(Exception):
    """A data file is absent or is not the file it should be."""


@dataclass(frozen=True)
class Split:
    """Images uint8 [n,28,28] with labels uint8 [n]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def load_split(directory: Path, *, train: bool) -> Split:
    """Read the 60,000 training or the 10,000 test images.

    Raises DataMissingError when a file is missing or damaged.
    """
    stem = "train" if train else "t10k"
    images = _read_idx(directory / f"{stem}-images-idx3-ubyte.gz", _IMAGE_MAGIC)
    labels = _read_idx(directory / f"{stem}-labels-idx1-ubyte.gz", _LABEL_MAGIC)
    if len(images) != len(labels):
        raise DataMissingError(f"{directory}: {len(images)} {stem} images but {len(labels)} labels")
    return Split(images, labels)


def as_input(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Model input from uint8 [n,28,28]: float32 [n,1,28,28] in 0..1."""
    return (images[:, None].astype(np.float32) / np.float32(255)).astype(np.float32)


def _read_idx(path: Path, magic: int) -> NDArray[np.uint8]:
    try:
        raw = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise DataMissingError(
            f"{path} not found. Install the Debian package dataset-fashion-mnist, or give the directory "
            "of the four Fashion-MNIST *-ubyte.gz files with --data."
        ) from error
    except (OSError, EOFError) as error:
        raise DataMissingError(f"{path} is not a readable gzip file: {error}") from error
    if len(raw) < 8 or struct.unpack(">I", raw[:4])[0] != magic:
        raise DataMissingError(f"{path} is not an IDX file with magic number {magic}")
    rank = magic & 0xFF
    shape = struct.unpack(f">{rank}I", raw[4 : 4 + 4 * rank])
    values = np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * rank)
    if values.size != int(np.prod(shape)):
        raise DataMissingError(f"{path} is cut short: {values.size} bytes for shape {shape}")
    return values.reshape(shape)
