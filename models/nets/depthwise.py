"""Inverted residuals with ReLU6 after MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381)."""

from __future__ import annotations

from torch import Tensor, nn

from .common import CLASSES, Architecture, Export, Normalise, Recipe

STEM = 16
HEAD = 256
# expansion, output channels, repeats, stride of the first repeat
STAGES = ((1, 16, 1, 1), (3, 24, 2, 2), (3, 40, 3, 2), (3, 64, 2, 1))


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size (but for the stride), and its BatchNorm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection; a shortcut where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [*conv_bn(inputs, hidden, 1), nn.ReLU6()]
        layers += [*conv_bn(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6()]
        layers += conv_bn(hidden, outputs, 1)
        self.body = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.has_shortcut else y


def build() -> nn.Module:
    layers: list[nn.Module] = [Normalise(), *conv_bn(1, STEM, 3), nn.ReLU6()]
    width = STEM
    for expansion, outputs, repeats, stride in STAGES:
        for repeat in range(repeats):
            layers.append(InvertedResidual(width, outputs, expansion, stride if repeat == 0 else 1))
            width = outputs
    layers += [*conv_bn(width, HEAD, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(HEAD, CLASSES))


ARCHITECTURE = Architecture(
    build=build,
    recipe=Recipe(cycles=(10,), optimizer="sgd", max_lr=0.15, weight_decay=1e-4, bf16=False),
    exports=(Export("depthwise.onnx"),),
)
