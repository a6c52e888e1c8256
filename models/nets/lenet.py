"""LeNet-5 of LeCun et al. (1998) with ReLU and max pooling."""

from __future__ import annotations

from torch import nn

from .common import CLASSES, Architecture, Export, Normalise, Recipe


def build() -> nn.Module:
    return nn.Sequential(
        Normalise(),
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(),
        nn.Linear(120, 84), nn.ReLU(),
        nn.Linear(84, CLASSES),
    )  # fmt: skip


ARCHITECTURE = Architecture(
    build=build,
    recipe=Recipe(cycles=(20,), optimizer="adamw", max_lr=3e-3, weight_decay=1e-2),
    exports=(Export("lenet.onnx"),),
)
