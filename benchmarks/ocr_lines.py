"""Rendered text lines for the PP-OCR recogniser: images as the model reads them, and what they say.

Calibration and scoring use different fonts and different degradations, so that neither is seen twice. ``hard`` scoring
lines have less contrast, more noise, tilt and smear; how much was set by what the float model still reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

HEIGHT = 48
MARGIN = 4
_WORDS = Path(__file__).with_name("words.txt").read_text("ascii").split()
_FONT_FOLDER = Path("/usr/share/fonts/truetype")
CALIBRATION_FONTS = ("DejaVuSans.ttf", "DejaVuSerif.ttf", "DejaVuSansCondensed.ttf")
SCORING_FONTS = ("DejaVuSansMono.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif-Italic.ttf")
HARD_FONTS = (*SCORING_FONTS, "LiberationSans-Regular.ttf", "LiberationSerif-Italic.ttf", "LiberationMono-Regular.ttf")


@dataclass(frozen=True)
class Line:
    """An image [1, 3, 48, width] float32 in BGR, (v / 255 - 0.5) / 0.5, and its text."""

    image: npt.NDArray[np.float32]
    text: str


def render(count: int, scoring: bool, seed: int = 0, width: int = 320, hard: bool = False) -> list[Line]:
    """``count`` lines; with ``scoring`` in other fonts and other degradations than without."""
    rng = np.random.default_rng([seed, scoring + hard])
    fonts = _fonts((HARD_FONTS if hard else SCORING_FONTS) if scoring else CALIBRATION_FONTS)
    return [_line(rng, fonts[i % len(fonts)], scoring, width, hard) for i in range(count)]


def _fonts(names: Sequence[str]) -> list[Path]:
    found = [p for name in names for p in sorted(_FONT_FOLDER.rglob(name))]
    if not found:
        raise SystemExit(f"no font among {', '.join(names)} under {_FONT_FOLDER}; install the DejaVu fonts")
    return found


def _line(rng: np.random.Generator, font: Path, scoring: bool, width: int, hard: bool) -> Line:
    words = [_word(rng) for _ in range(rng.integers(1, 3))]
    text = " ".join(words)
    face = ImageFont.truetype(str(font), int(rng.integers(24, 33)))
    paper, ink = int(rng.integers(190, 256)), int(rng.integers(0, 90))
    length = int(face.getlength(text)) + 2 * MARGIN
    picture = Image.new("L", (length, HEIGHT), paper)
    ImageDraw.Draw(picture).text((MARGIN, int(rng.integers(4, 10))), text, fill=ink, font=face)
    picture = _smeared(picture, rng) if hard else _degraded(picture, rng, scoring)
    picture = picture.resize((min(width, length), HEIGHT))
    pixels = np.asarray(picture, np.float32) / 255.0
    canvas = np.zeros((1, 3, HEIGHT, width), np.float32)
    canvas[:, :, :, : pixels.shape[1]] = (pixels - 0.5) / 0.5
    return Line(canvas, text)


def _word(rng: np.random.Generator) -> str:
    if rng.random() < 0.2:
        return str(rng.integers(10, 100_000))
    word = str(rng.choice(_WORDS))
    return word.capitalize() if rng.random() < 0.3 else word


def _degraded(picture: Image.Image, rng: np.random.Generator, scoring: bool) -> Image.Image:
    pixels = np.asarray(picture, np.float32)
    if scoring:
        picture = Image.fromarray(pixels.astype(np.uint8)).rotate(
            float(rng.uniform(-1.0, 1.0)), resample=Image.Resampling.BILINEAR, fillcolor=int(pixels[0, 0])
        )
        pixels = np.asarray(picture, np.float32)
        spots = rng.random(pixels.shape) < 0.003
        pixels = np.where(spots, rng.integers(0, 256, pixels.shape), pixels)
        pixels = (pixels - pixels.mean()) * rng.uniform(0.6, 1.0) + pixels.mean()
    else:
        picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1.0))))
        pixels = np.asarray(picture, np.float32) + rng.normal(0, rng.uniform(0, 14), picture.size[::-1])
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _smeared(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Tilt, loss of resolution, an uneven background, spots and low contrast."""
    paper = int(np.asarray(picture)[0, 0])
    picture = picture.rotate(
        float(rng.uniform(-2.0, 2.0)), resample=Image.Resampling.BILINEAR, fillcolor=paper
    )  # fmt: skip
    small = float(rng.uniform(0.32, 0.9))
    size = picture.size
    picture = picture.resize((max(1, int(size[0] * small)), max(1, int(size[1] * small)))).resize(size)
    pixels = np.asarray(picture, np.float32)
    pixels = pixels - np.linspace(0, float(rng.uniform(0, 60)), pixels.shape[1])[None, :]
    spots = rng.random(pixels.shape) < 0.02
    pixels = np.where(spots, rng.integers(0, 256, pixels.shape), pixels)
    pixels = (pixels - pixels.mean()) * rng.uniform(0.2, 0.8) + pixels.mean()
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def decode(scores: npt.NDArray[np.float32], alphabet: Sequence[str]) -> list[str]:
    """Greedy CTC decoding of scores [lines, steps, characters], outer spaces dropped; character 0 is the blank."""
    lines = []
    for best in scores.argmax(-1):
        kept = [int(c) for i, c in enumerate(best) if c != 0 and (i == 0 or c != best[i - 1])]
        lines.append("".join(alphabet[c] for c in kept).strip())
    return lines


def alphabet(metadata: str) -> list[str]:
    """Characters by class from the model's metadata key ``character``."""
    return ["", *metadata.splitlines(), " "]


def character_errors(read: str, text: str) -> int:
    """Edit distance."""
    row = list(range(len(text) + 1))
    for i, a in enumerate(read, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(text, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]
