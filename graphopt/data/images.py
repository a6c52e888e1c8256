"""A folder of images. The label is the sub-folder or stands in ``labels.csv``. Needs Pillow, an extra."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from graphopt.data.checks import check_dims, check_finite, convert
from graphopt.data.feeds import Layout, Sample, SampleDataset, fixed_batch
from graphopt.data.interface import Interface, TensorInfo
from graphopt.data.preprocess import Preprocess, channel_axis, load_preprocess
from graphopt.errors import DataError, UnsupportedError, UsageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})


class ImageFolder(SampleDataset):
    """Images below a folder, in path order, decoded one at a time.

    ``classes`` names the label numbers where they come from sorted names. Numbers used as names stay what
    they are. Raises UsageError without preprocessing, DataError when the model takes no single image input.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[Path],
        interface: Interface,
        preprocess: str | Path | Preprocess | None,
    ) -> None:
        if preprocess is None:
            raise UsageError(f"{root} holds images: say how they become inputs with --preprocess FILE or imagenet")
        self._require_pillow()
        info = _image_input(interface, root)
        self._steps = load_preprocess(preprocess, info)
        self._nhwc = channel_axis(info, self._steps.layout) == 3
        super().__init__(interface, Layout(False, fixed_batch(interface, [info.name], str(root))), str(root))
        self._info = info
        self._files = tuple(sorted(files))
        self._labels, self.classes = _labels(root, self._files)

    @property
    def labelled(self) -> bool:
        """True when every image has a label."""
        return self._labels is not None

    def __len__(self) -> int:
        return len(self._files)

    def sample(self, index: int) -> Sample:
        """Decode and preprocess image ``index``; DataError names the file."""
        from PIL import Image

        file = self._files[index]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(file) as image:
                    pixels = self._steps.apply(image, self._nhwc)
        except (
            OSError,
            ValueError,
            SyntaxError,
            Image.DecompressionBombError,
            Image.DecompressionBombWarning,
        ) as error:
            raise DataError(f"{file} cannot be read as an image: {error}") from error
        check_dims((1, *pixels.shape), self._info, str(file), skip_first=True)
        if self._info.dtype is not None and self._info.dtype.kind in "iu":
            pixels = np.rint(pixels).astype(np.int64)
        row = convert(pixels, self._info, str(file))
        check_finite(row, self._info.name, str(file))
        label = None if self._labels is None else np.asarray(self._labels[index])
        return Sample({self._info.name: row}, label)

    @staticmethod
    def _require_pillow() -> None:
        try:
            import PIL  # noqa: F401
        except ImportError as error:
            raise UnsupportedError("reading images needs Pillow: pip install 'graphopt[images]'") from error


def find_images(root: Path) -> list[Path]:
    """All image files below ``root``, hidden ones left out."""
    return sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    )


def _image_input(interface: Interface, root: Path) -> TensorInfo:
    if len(interface.required) != 1 or not interface.required[0].is_tensor:
        listed = ", ".join(info.describe() for info in interface.required)
        raise DataError(f"{root}: images feed a model with one input, this one takes {listed}; use .npz or code")
    return interface.required[0]


def _labels(root: Path, files: tuple[Path, ...]) -> tuple[tuple[int, ...] | None, tuple[str, ...]]:
    table = root / "labels.csv"
    if table.is_file():
        names = _read_table(table, root, files)
    else:
        names = [path.relative_to(root).parts[0] if path.parent != root else "" for path in files]
        if any(not name for name in names):
            if any(names):
                loose = files[names.index("")]
                raise DataError(f"{root}: {loose.name} lies outside the class folders; move it or add labels.csv")
            return None, ()
    if all(_is_number(name) for name in names):
        return tuple(int(name) for name in names), ()
    classes = sorted(set(names))
    positions = {name: position for position, name in enumerate(classes)}
    return tuple(positions[name] for name in names), tuple(classes)


def _read_table(table: Path, root: Path, files: tuple[Path, ...]) -> list[str]:
    try:
        with table.open(newline="", encoding="utf-8") as handle:
            rows = [row for row in csv.reader(handle) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} cannot be read: {error}") from error
    labels: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        if len(row) < 2:
            raise DataError(f"{table}, line {number}: needs file,label")
        labels[row[0].strip()] = row[1].strip()
    found: list[str] = []
    for path in files:
        key = path.relative_to(root).as_posix()
        label = labels.get(key, labels.get(path.name))
        if label is None:
            raise DataError(f"{table} has no label for {key}")
        found.append(label)
    return found


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal()
