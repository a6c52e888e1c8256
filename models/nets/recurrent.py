"""Two LSTM layers that read the image row by row; the second one is bidirectional."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .common import CLASSES, Architecture, Export, Normalise, Recipe

ROW = 28
FIRST = 96
SECOND = 64


class Recurrent(nn.Module):
    """The image is a sequence of 28 rows; the last hidden states of both directions are classified."""

    def __init__(self) -> None:
        super().__init__()
        self.normalise = Normalise()
        self.first = nn.LSTM(ROW, FIRST, batch_first=True)
        self.second = nn.LSTM(FIRST, SECOND, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * SECOND, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.normalise(x).squeeze(1)
        rows, _ = self.first(rows)
        _, (hidden, _) = self.second(rows)
        head: Tensor = self.head(torch.cat((hidden[0], hidden[1]), dim=1))
        return head


ARCHITECTURE = Architecture(
    build=Recurrent,
    recipe=Recipe(cycles=(12,), optimizer="adamw", max_lr=4e-3, weight_decay=1e-2, bf16=False),
    exports=(Export("recurrent.onnx"),),
)
