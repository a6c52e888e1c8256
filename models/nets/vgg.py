"""A plain CNN after VGG (Simonyan and Zisserman 2015, arXiv:1409.1556) with BatchNorm and two dense layers."""

from __future__ import annotations

from torch import nn

from .common import CLASSES, Architecture, Export, Normalise, Recipe

WIDTHS = (16, 32, 64)
DENSE = 128


def build() -> nn.Module:
    layers: list[nn.Module] = [Normalise()]
    inputs = 1
    for width in WIDTHS:
        for _ in range(2):
            layers += [nn.Conv2d(inputs, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            inputs = width
        layers.append(nn.MaxPool2d(2))
    layers += [nn.Flatten(), nn.Dropout(0.3), nn.Linear(9 * inputs, DENSE), nn.ReLU(), nn.Linear(DENSE, CLASSES)]
    return nn.Sequential(*layers)


ARCHITECTURE = Architecture(
    build=build,
    recipe=Recipe(cycles=(14,), optimizer="sgd", max_lr=0.1, weight_decay=5e-4),
    exports=(Export("vgg.onnx"),),
)
