"""What every architecture shares: its description and the input normalisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

PIXEL_MEAN = 0.2860
PIXEL_STD = 0.3530
CLASSES = 10


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: one-cycle learning rate, random shift and horizontal flip.

    `cycles` holds the epochs of each cycle. Every cycle starts with a fresh optimizer and its own random numbers, so
    that training can go on from the weights that a cycle left.
    """

    cycles: tuple[int, ...]
    optimizer: Literal["sgd", "adamw"]
    max_lr: float
    weight_decay: float
    batch_size: int = 128
    bf16: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Export:
    """One ONNX file of a trained model.

    `masked` adds the input `attention_mask`; `keep_batch_norm` exports BatchNormalization nodes unfolded.
    """

    file: str
    masked: bool = False
    keep_batch_norm: bool = False


@dataclass(frozen=True)
class Architecture:
    """A network with its recipe and the files made from it."""

    build: Callable[[], nn.Module]
    recipe: Recipe
    exports: tuple[Export, ...]


class Normalise(nn.Module):
    """Pixels in 0..1 to zero mean and unit variance over the training set."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - PIXEL_MEAN) / PIXEL_STD
