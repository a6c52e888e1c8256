"""Make the shipped Fashion-MNIST slices (`models/data/*.npz`), or with `--full DIR` the whole test set.

The choice of images is fixed, and so are the bytes of the files for one version of zlib.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import numpy as np
from dataset import DEBIAN_DIR, DataMissingError, Split, as_input, load_split
from numpy.typing import NDArray
from patches import MAX_MASKED_ROWS, PATCHES_PER_ROW, TOKENS

SLICES_DIR = Path(__file__).resolve().parent / "data"
SEED = 0

_log = logging.getLogger("make_data")


def main() -> int:
    arguments = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        train = load_split(arguments.data, train=True)
        test = load_split(arguments.data, train=False)
    except DataMissingError as error:
        _log.error("%s", error)
        return 1
    if arguments.full is None:
        _write_slices(arguments.out, train, test)
    else:
        _write_full(arguments.full, train, test, arguments.calib)
    return 0


def calibration_images(train: Split, count: int) -> NDArray[np.float32]:
    """`count` training images drawn without replacement; a smaller count gives a prefix of a larger one."""
    order = np.random.default_rng(SEED).permutation(len(train.images))
    return as_input(train.images[order[:count]])


def balanced(test: Split, per_class: int) -> Split:
    """The first `per_class` images of each class, in the order of the test set."""
    first = [np.flatnonzero(test.labels == label)[:per_class] for label in range(10)]
    chosen = np.sort(np.concatenate(first))
    return Split(test.images[chosen], test.labels[chosen])


def trailing_masks(count: int) -> NDArray[np.int64]:
    """Attention masks int64 [count,50] for transformer_masked.onnx, 1 = keep.

    The last 0, 1 or 2 of the seven rows of patches are hidden, with equal chance.
    """
    hidden = np.random.default_rng(SEED + 1).integers(0, MAX_MASKED_ROWS + 1, size=(count, 1))
    return (np.arange(TOKENS) < TOKENS - PATCHES_PER_ROW * hidden).astype(np.int64)


def _write_slices(out: Path, train: Split, test: Split) -> None:
    _write_calibration(out, train, 512, masked_count=128)
    _write_test(out, "eval", balanced(test, 100))
    _write_masked_test(out, "eval", balanced(test, 50))


def _write_full(out: Path, train: Split, test: Split, calib: int) -> None:
    _write_calibration(out, train, calib, masked_count=calib)
    _write_test(out, "test", test)
    _write_masked_test(out, "test", test)


def _write_calibration(out: Path, train: Split, count: int, masked_count: int) -> None:
    _save(out / "fashion_mnist_calib.npz", x=calibration_images(train, count))
    masked = calibration_images(train, masked_count)
    _save(out / "fashion_mnist_masked_calib.npz", x=masked, attention_mask=trailing_masks(len(masked)))


def _write_test(out: Path, name: str, split: Split) -> None:
    _save(out / f"fashion_mnist_{name}.npz", x=as_input(split.images), labels=split.labels.astype(np.int64))


def _write_masked_test(out: Path, name: str, split: Split) -> None:
    _save(
        out / f"fashion_mnist_masked_{name}.npz",
        x=as_input(split.images),
        attention_mask=trailing_masks(len(split.images)),
        labels=split.labels.astype(np.int64),
    )


def _save(path: Path, **arrays: NDArray[np.generic]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    _log.info("%s: %d bytes, %s", path.name, path.stat().st_size, {k: v.shape for k, v in arrays.items()})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DEBIAN_DIR, help="directory of the *-ubyte.gz files")
    parser.add_argument("--out", type=Path, default=SLICES_DIR, help="where the slices go")
    parser.add_argument("--full", type=Path, metavar="DIR", help="write the whole test set to DIR instead")
    parser.add_argument("--calib", type=int, default=2048, metavar="N", help="calibration images with --full")
    return parser


if __name__ == "__main__":
    sys.exit(main())
