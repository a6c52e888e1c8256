"""ResNet-20 of He et al. (2016, arXiv:1512.03385), with 1x1 projections where the shape changes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .common import CLASSES, Architecture, Export, Normalise, Recipe

WIDTHS = (16, 32, 64)
BLOCKS_PER_STAGE = 3


class Block(nn.Module):
    """Two 3x3 convolutions with BatchNorm, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def build() -> nn.Module:
    width = WIDTHS[0]
    layers: list[nn.Module] = [
        Normalise(), nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
    ]  # fmt: skip
    for stage, outputs in enumerate(WIDTHS):
        for block in range(BLOCKS_PER_STAGE):
            layers.append(Block(width, outputs, 2 if stage > 0 and block == 0 else 1))
            width = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


ARCHITECTURE = Architecture(
    build=build,
    recipe=Recipe(cycles=(26,), optimizer="sgd", max_lr=0.2, weight_decay=5e-4),
    exports=(Export("residual.onnx", keep_batch_norm=True),),
)
