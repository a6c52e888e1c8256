"""The training loop: CPU, one-cycle learning rate, random shift and horizontal flip, fixed seed."""

from __future__ import annotations

import logging
import time

import torch
from dataset import Split
from nets.common import Recipe
from torch import Tensor, nn
from torch.nn import functional

MAX_SHIFT = 2

_log = logging.getLogger(__name__)


def to_tensors(split: Split) -> tuple[Tensor, Tensor]:
    """Images uint8 [n,1,28,28] and labels int64 [n]."""
    return torch.from_numpy(split.images.copy())[:, None], torch.from_numpy(split.labels.copy()).long()


def train(model: nn.Module, split: Split, recipe: Recipe, first_cycle: int = 0) -> None:
    """Train `model` in place on `split`, from cycle `first_cycle` of the recipe on, and leave it in eval mode.

    The result is the last epoch: no epoch is chosen on the test set.
    """
    images, labels = to_tensors(split)
    model.to(memory_format=torch.channels_last)
    for cycle in range(first_cycle, len(recipe.cycles)):
        torch.manual_seed(recipe.seed + cycle)
        _train_cycle(model, images, labels, recipe, recipe.cycles[cycle])
    model.to(memory_format=torch.contiguous_format)
    model.eval()


def _train_cycle(model: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe, epochs: int) -> None:
    steps = len(images) // recipe.batch_size
    optimizer = _optimizer(model, recipe)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.max_lr, epochs=epochs, steps_per_epoch=steps, pct_start=0.25
    )
    model.train()
    for epoch in range(epochs):
        started, total = time.monotonic(), 0.0
        order = torch.randperm(len(images))
        for step in range(steps):
            chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            batch = augment(images[chosen]).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
                loss = functional.cross_entropy(model(batch), labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.monotonic() - started
        _log.info("epoch %d/%d loss %.4f (%.0f s)", epoch + 1, epochs, total / steps, seconds)


def augment(images: Tensor) -> Tensor:
    """Float32 0..1 from uint8 [n,1,28,28]; each image is shifted by up to MAX_SHIFT and flipped at random."""
    count, _, height, width = images.shape
    padded = functional.pad(images, (MAX_SHIFT,) * 4)[:, 0]
    offsets = torch.randint(0, 2 * MAX_SHIFT + 1, (2, count, 1))
    rows = offsets[0] + torch.arange(height)
    columns = offsets[1] + torch.arange(width)
    columns = torch.where(torch.rand(count, 1) < 0.5, columns, columns.flip(1))
    shifted = padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return shifted[:, None].float() / 255


@torch.inference_mode()
def predict(model: nn.Module, split: Split, batch_size: int = 500) -> Tensor:
    """Float32 logits [n,10] of a model in eval mode."""
    images, _ = to_tensors(split)
    return torch.cat([model(batch.float() / 255) for batch in images.split(batch_size)])


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Weight decay applies to matrices and kernels only, not to biases, norms or embeddings of rank 1."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.max_lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=recipe.max_lr)
