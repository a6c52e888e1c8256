"""Declared preprocessing: how a picture becomes an input. Only size and layout come from the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from graphopt.data.checks import Array
from graphopt.data.interface import TensorInfo
from graphopt.errors import DataError, UsageError

Positive = Annotated[int, Field(gt=0)]
Size = tuple[Positive, Positive]


class Preprocess(BaseModel):
    """Steps, in this order: colour, resize, centre crop, ``(pixel * scale - mean) / std``, layout.

    ``resize``: one number is the length of the short side, two are height and width, none leaves the size.
    ``crop``: height and width. ``mean`` and ``std``: one value, or one a channel, in scaled units.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    color: Literal["rgb", "bgr", "gray"] = "rgb"
    resize: Positive | Size | None = None
    crop: Size | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Literal["nchw", "nhwc"] | None = None

    def apply(self, image: Any, nhwc: bool) -> Array:
        """Turn a PIL image into float32 [C,H,W], or [H,W,C] when ``nhwc``."""
        picture = image.convert("L" if self.color == "gray" else "RGB")
        picture = self._resized(picture)
        pixels = np.asarray(picture, np.float32)
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        if self.color == "bgr":
            pixels = pixels[:, :, ::-1]
        scaled = pixels * np.float32(self.scale)
        normal = (scaled - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        channels_last = normal if nhwc else normal.transpose(2, 0, 1)
        result: Array = np.ascontiguousarray(channels_last, dtype=np.float32)
        return result

    def _resized(self, picture: Any) -> Any:
        from PIL import Image

        method = Image.Resampling[self.interpolation.upper()]
        if isinstance(self.resize, int):
            width, height = picture.size
            factor = self.resize / min(width, height)
            size = (max(round(width * factor), self.resize), max(round(height * factor), self.resize))
            picture = picture.resize(size, method)
        elif self.resize is not None:
            picture = picture.resize((self.resize[1], self.resize[0]), method)
        if self.crop is not None:
            height, width = self.crop
            left, top = (picture.size[0] - width) // 2, (picture.size[1] - height) // 2
            picture = picture.crop((left, top, left + width, top + height))
        return picture


def load_preprocess(spec: str | Path | Preprocess, info: TensorInfo) -> Preprocess:
    """Read ``imagenet`` or a YAML, JSON or TOML file for the image input ``info``.

    ``imagenet`` is the usual evaluation recipe: short side to 256/224 of the input size, centre crop, RGB in
    [0,1], mean (.485,.456,.406) and deviation (.229,.224,.225). Raises UsageError for a bad file or key.
    """
    if isinstance(spec, Preprocess):
        return spec
    if str(spec) == "imagenet":
        height, width = image_size(info) or (224, 224)
        return Preprocess(
            resize=round(min(height, width) * 256 / 224),
            crop=(height, width),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        )
    path = Path(spec)
    try:
        return Preprocess.model_validate(_read_mapping(path))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = ", ".join(Preprocess.model_fields)
        raise UsageError(f"--preprocess {path}: {key}: {first['msg']}. Known keys: {known}") from error


def channel_axis(info: TensorInfo, layout: str | None) -> int:
    """Axis of the channels in the [N, ...] input: 1 or 3. Raises DataError when it is no image input."""
    if info.shape is None or len(info.shape) != 4:
        raise DataError(f"images need an input of 4 dims, the model has {info.describe()}; use .npz or code")
    if layout is not None:
        return 1 if layout == "nchw" else 3
    if info.shape[3] in (1, 3) and info.shape[1] not in (1, 3):
        return 3
    return 1


def image_size(info: TensorInfo) -> tuple[int, int] | None:
    """Height and width of an image input, or None when the model leaves one open."""
    axis = channel_axis(info, None)
    shape = info.shape or ()
    height, width = (shape[2], shape[3]) if axis == 1 else (shape[1], shape[2])
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _read_mapping(path: Path) -> dict[str, Any]:
    import tomllib

    import yaml

    try:
        text = path.read_text("utf-8")
        loaded = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--preprocess {path} cannot be read: {error}; give a file or 'imagenet'") from error
    except (tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"--preprocess {path} is no valid TOML, YAML or JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise UsageError(f"--preprocess {path} must hold keys and values")
    return loaded
