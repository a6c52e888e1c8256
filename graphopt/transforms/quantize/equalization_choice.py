"""Which channel ranges ``quantize`` evens out: those that lower the quantized model's noise on held-back samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from graphopt.transforms.quantize.equalization import Evening
from graphopt.transforms.quantize.trial import Verdict

T = TypeVar("T")


@dataclass(frozen=True)
class Evened(Generic[T]):
    """What was built with some evenings carried out, and what the judge says of it."""

    evenings: tuple[Evening, ...]
    built: T
    verdict: Verdict


def choose_evenings(
    start: Evened[T],
    offered: Sequence[Evening],
    build: Callable[[tuple[Evening, ...]], Evened[T] | None],
    better: Callable[[Evened[T], Evened[T]], bool],
    depth: int,
) -> Evened[T]:
    """Add the evenings that help to those of ``start``: all of them, or else each half on its own, and so on."""
    if not offered:
        return start
    tried = build((*start.evenings, *offered))
    if tried is not None and better(tried, start):
        return tried
    if len(offered) == 1 or depth == 0:
        return start
    del tried
    middle = len(offered) // 2
    for half in (offered[:middle], offered[middle:]):
        start = choose_evenings(start, half, build, better, depth - 1)
    return start
