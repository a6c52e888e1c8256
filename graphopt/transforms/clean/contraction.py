"""Einsum equations that one simpler operator computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    """MatMul of operands ``left`` and ``right`` (0 or 1); ``turned``: the right one must be transposed first.
    ``contracted`` is the letter that is summed over."""

    left: int
    right: int
    turned: bool
    contracted: str


def parse(equation: str, ranks: Sequence[int]) -> tuple[list[str], str] | None:
    """The letters of each operand and of the result; None with an ellipsis, a diagonal or other ranks."""
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if not arrow:
        right = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    if "." in text or len(terms) != len(ranks):
        return None
    if any(len(set(t)) < len(t) or len(t) != r for t, r in zip(terms, ranks, strict=True)):
        return None
    return (terms, right) if len(set(right)) == len(right) else None


def permutation(term: str, result: str) -> list[int] | None:
    """How a single operand is permuted, if that is all."""
    return [term.index(c) for c in result] if sorted(term) == sorted(result) else None


def product(terms: Sequence[str], result: str) -> Product | None:
    """The MatMul that two operands are: [..., m, k] [k, n], or [batch, m, k] [batch, k, n] with one batch."""
    for left, right in ((0, 1), (1, 0)):
        first, second = terms[left], terms[right]
        for turned in (False, True):
            other = second[:-2] + second[-1] + second[-2] if turned and len(second) > 1 else second
            if len(first) < 2 or len(other) < 2 or first[-1] != other[-2] or first[-1] in result:
                continue
            batch, letter = other[:-2], first[-1]
            fits = not batch or (first[:-2] == batch and first[-2] not in other)
            if fits and other[-1] not in first and result == first[:-1] + other[-1]:
                return Product(left, right, turned, letter)
    return None
