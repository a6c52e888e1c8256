"""Where packages keep their pretrained models, and small real inputs for them."""

from __future__ import annotations

import importlib.util
import json
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

WORDS = ("quick", "brown", "fox", "jumps", "lazy", "0123", "4567", "Total", "89.10", "Invoice", "node", "Berlin")


def model_file(package: str, path: str) -> Path:
    """A file inside an installed package, found without importing it; the test is skipped without it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed (tests/real/requirements.txt)")
    return Path(spec.origin).parent / path


def text_lines(count: int, seed: int, width: int = 320) -> tuple[np.ndarray, list[str]]:
    """Rendered lines for the PP-OCR recogniser, [count,3,48,width] in BGR, scaled to -1..1, and what they say."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, 3, 48, width), np.float32)
    texts = []
    for image in images:
        text = " ".join(rng.choice(WORDS, 2))
        picture = Image.new("L", (width, 48), int(rng.integers(200, 256)))
        font = ImageFont.load_default(int(rng.integers(20, 28)))
        ImageDraw.Draw(picture).text((6, int(rng.integers(6, 14))), text, fill=int(rng.integers(0, 80)), font=font)
        pixels = np.asarray(picture, np.float32) + rng.normal(0, 8, (48, width))
        image[:] = (pixels.clip(0, 255) / 255 - 0.5) / 0.5
        texts.append(text)
    return images, texts


def decode(scores: np.ndarray, characters: str) -> list[str]:
    """Greedy CTC; class 0 is the blank, the last one the space."""
    alphabet = ["", *characters.splitlines(), " "]
    best = scores.argmax(-1)
    return ["".join(alphabet[c] for i, c in enumerate(row) if c and (i == 0 or c != row[i - 1])) for row in best]


def file_bytes(count: int, seed: int, padding: int) -> np.ndarray:
    """First and last 1,024 bytes of files of this Python, [count,2048] int32, as magika reads them."""
    kinds = ("*.py", "*.json", "*.so", "*.txt", "*.pyc", "*.pyi", "*.toml", "*.html", "*.whl")
    roots = [Path(sysconfig.get_paths()[k]) for k in ("stdlib", "purelib")]
    files = [f for root in roots for kind in kinds for f in sorted(root.rglob(kind))[:40] if f.stat().st_size > 64]
    chosen = np.random.default_rng(seed).permutation(len(files))[:count]
    rows = np.full((len(chosen), 2048), padding, np.int32)
    for row, index in zip(rows, chosen, strict=True):
        content = files[index].read_bytes()
        head, tail = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
        row[: len(head)] = list(head)
        row[2048 - len(tail) :] = list(tail)
    return rows


def magika_padding(model: Path) -> int:
    """The padding token that the model's own configuration names."""
    return int(json.loads((model.parent / "config.min.json").read_text())["padding_token"])


def speech(count: int, frames: int, seed: int) -> dict[str, np.ndarray]:
    """Synthetic voiced sounds and pauses at 16 kHz for silero-vad; whole inputs, states zero."""
    rng = np.random.default_rng(seed)
    audio = np.zeros((count, frames, 576), np.float32)
    for one in audio:
        length = frames * 512 + 64
        time = np.arange(length) / 16000
        pitch = rng.uniform(90, 240) * (1 + 0.05 * np.sin(2 * np.pi * 3 * time))
        voice = sum(np.sin(2 * np.pi * k * np.cumsum(pitch) / 16000) / k for k in range(1, 12))
        envelope = (np.sin(2 * np.pi * rng.uniform(0.8, 2.0) * time + rng.uniform(0, 6)) > -0.2).astype(np.float32)
        wave = (0.15 * voice * envelope + rng.normal(0, 0.004, length)).astype(np.float32)
        for frame in range(frames):
            one[frame] = wave[frame * 512 : frame * 512 + 576]
    state = np.zeros((count, 1, 1, 128), np.float32)
    return {"input": audio, "h": state, "c": state.copy()}
