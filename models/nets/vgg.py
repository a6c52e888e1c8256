"""A plain stack of 3x3 convolutions after Simonyan and Zisserman (2015, arXiv:1409.1556), with BatchNorm."""

from __future__ import annotations

from torch import nn

from .common import CLASSES, Architecture, Export, Normalise, Recipe

STAGES = ((32, 32), (64, 64), (96, 96))


def build() -> nn.Module:
    layers: list[nn.Module] = [Normalise()]
    width = 1
    for stage, widths in enumerate(STAGES):
        if stage > 0:
            layers.append(nn.MaxPool2d(2))
        for outputs in widths:
            layers += [
                nn.Conv2d(width, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
            width = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


ARCHITECTURE = Architecture(
    build=build,
    recipe=Recipe(epochs=8, optimizer="sgd", max_lr=0.1, weight_decay=5e-4),
    exports=(Export("vgg.onnx"),),
)
