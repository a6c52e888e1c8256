"""A pre-norm transformer encoder over 4x4 patches, after ViT (Dosovitskiy et al. 2021, arXiv:2010.11929).

The attention mask is applied as Hugging Face encoders do it: `(1 - mask) * finfo(float32).min` is added to
the scores.
"""

from __future__ import annotations

import math

import torch
from patches import MAX_MASKED_ROWS, PATCH, PATCHES_PER_ROW, TOKENS
from torch import Tensor, nn

from .common import CLASSES, Architecture, Export, Normalise, Recipe

WIDTH = 64
HEADS = 4
LAYERS = 4
MLP = 256


class Attention(nn.Module):
    """Multi-head self-attention, written out so that the graph holds plain MatMul and Softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.output = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, additive_mask: Tensor | None) -> Tensor:
        scores = self._heads(self.query(x)) @ self._heads(self.key(x)).transpose(-1, -2)
        scores = scores / math.sqrt(WIDTH // HEADS)
        if additive_mask is not None:
            scores = scores + additive_mask
        mixed = torch.softmax(scores, dim=-1) @ self._heads(self.value(x))
        joined: Tensor = self.output(mixed.transpose(1, 2).reshape(-1, TOKENS, WIDTH))
        return joined

    @staticmethod
    def _heads(x: Tensor) -> Tensor:
        return x.reshape(-1, TOKENS, HEADS, WIDTH // HEADS).transpose(1, 2)


class Layer(nn.Module):
    """LayerNorm, attention, LayerNorm, two-layer perceptron with exact GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, MLP), nn.GELU(), nn.Linear(MLP, WIDTH))

    def forward(self, x: Tensor, additive_mask: Tensor | None) -> Tensor:
        x = x + self.attention(self.norm1(x), additive_mask)
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class Transformer(nn.Module):
    """x float32 [N,1,28,28] and an optional attention_mask int64 [N,50], 1 = keep, to logits [N,10]."""

    def __init__(self) -> None:
        super().__init__()
        self.normalise = Normalise()
        self.embed = nn.Conv2d(1, WIDTH, PATCH, PATCH)
        self.class_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.position = nn.Parameter(0.02 * torch.randn(1, TOKENS, WIDTH))
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if self.training and attention_mask is None:
            attention_mask = random_trailing_mask(x.shape[0])
        patches = self.embed(self.normalise(x)).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.class_token.expand(x.shape[0], -1, -1), patches), dim=1) + self.position
        additive_mask = None if attention_mask is None else additive(attention_mask)
        for layer in self.layers:
            tokens = layer(tokens, additive_mask)
        logits: Tensor = self.head(self.norm(tokens[:, 0]))
        return logits


def additive(attention_mask: Tensor) -> Tensor:
    """Float32 [N,1,1,50]: 0 where the mask is 1, the lowest float32 where it is 0."""
    keep = attention_mask[:, None, None, :].to(torch.float32)
    return (1.0 - keep) * torch.finfo(torch.float32).min


def random_trailing_mask(count: int) -> Tensor:
    """Int64 [count,50] that hides the last 0, 1 or 2 rows of patches; half of the images stay whole."""
    hidden_rows = torch.randint(1, MAX_MASKED_ROWS + 1, (count, 1)) * torch.randint(0, 2, (count, 1))
    kept = TOKENS - PATCHES_PER_ROW * hidden_rows
    return (torch.arange(TOKENS) < kept).long()


ARCHITECTURE = Architecture(
    build=Transformer,
    recipe=Recipe(cycles=(12, 10), optimizer="adamw", max_lr=2e-3, weight_decay=5e-2),
    exports=(Export("transformer.onnx"), Export("transformer_masked.onnx", masked=True)),
)
