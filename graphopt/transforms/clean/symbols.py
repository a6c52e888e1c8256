"""Whole numbers that may be unknown: polynomials over named extents.

A value is an int or an ``Expr``. Two expressions are equal when their normal forms are, so ``N*49 - 49*N`` is 0.
What has no polynomial form (a rounded division, a minimum) becomes a new *atom*, named after what it computes;
the same computation always gives the same atom.

Atoms that stand for declared extents are taken as at least 1 where a sign matters (a dimension of extent 0 makes
every tensor that it touches empty). Atoms that start with ``MAYBE_EMPTY`` are at least 0, those that start with
``UNKNOWN`` are arbitrary integers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

UNKNOWN = "?"
MAYBE_EMPTY = "~"

Monomial: TypeAlias = tuple[str, ...]
Extent: TypeAlias = "int | Expr"


class Expr:
    """A polynomial with integer coefficients. Immutable; not a plain number (those are ints)."""

    __slots__ = ("_hash", "terms")

    def __init__(self, terms: dict[Monomial, int]) -> None:
        self.terms = tuple(sorted(terms.items()))
        self._hash = hash(self.terms)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expr) and self.terms == other.terms

    def __hash__(self) -> int:
        return self._hash

    def __add__(self, other: Extent) -> Extent:
        total = dict(self.terms)
        for mono, count in _terms(other):
            total[mono] = total.get(mono, 0) + count
        return _made(total)

    __radd__ = __add__

    def __neg__(self) -> Extent:
        return _made({m: -c for m, c in self.terms})

    def __sub__(self, other: Extent) -> Extent:
        return self + (-other)

    def __rsub__(self, other: Extent) -> Extent:
        return (-self) + other

    def __mul__(self, other: Extent) -> Extent:
        total: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in _terms(other):
                mono = tuple(sorted(left + right))
                total[mono] = total.get(mono, 0) + a * b
        return _made(total)

    __rmul__ = __mul__

    def __str__(self) -> str:
        parts = [_term_text(m, c) for m, c in reversed(self.terms)]
        return "".join(parts).removeprefix("+")

    def __repr__(self) -> str:
        return f"Expr({self})"


def symbol(name: str) -> Expr:
    """The expression that is one atom."""
    return Expr({(name,): 1})


def product(extents: Iterable[Extent]) -> Extent:
    """The product; 1 for none."""
    total: Extent = 1
    for extent in extents:
        total = total * extent
    return total


def exact_quotient(a: Extent, b: Extent) -> Extent | None:
    """``a / b`` when it is a polynomial, else None."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b if b != 0 and a % b == 0 else None
    if a == b:
        return 1
    divisor = tuple(_terms(b))
    if len(divisor) != 1:
        return _common_factor_quotient(a, divisor)
    (mono, count) = divisor[0]
    total: dict[Monomial, int] = {}
    for left, value in _terms(a):
        rest = _without(left, mono)
        if rest is None or value % count:
            return None
        total[rest] = value // count
    return _made(total)


def quotient(a: Extent, b: Extent, round_up: bool = False) -> Extent:
    """``a / b`` rounded down, or up; an atom when it has no closed form. ``b`` must not be 0."""
    exact = exact_quotient(a, b)
    if exact is not None:
        return exact
    if isinstance(a, int) and isinstance(b, int):
        return -(-a // b) if round_up else a // b
    return combine("ceil" if round_up else "floor", a, b)


def combine(name: str, *parts: Extent) -> Expr:
    """The atom that stands for function ``name`` of the parts; at least 0 when they all are."""
    prefix = MAYBE_EMPTY if all(is_extent(p) for p in parts) else UNKNOWN
    return symbol(f"{prefix}{name}({';'.join(map(str, parts))})")


def is_extent(value: Extent) -> bool:
    """Whether the value is known to be at least 0."""
    least = _least(value)
    return least is not None and least >= 0


def is_positive(value: Extent) -> bool:
    """Whether the value is known to be at least 1."""
    least = _least(value)
    return least is not None and least >= 1


def at_least(a: Extent, b: Extent) -> bool:
    """Whether ``a >= b`` is known."""
    return is_extent(a - b)


def _least(value: Extent) -> int | None:
    """A lower bound, or None."""
    total = 0
    for mono, count in _terms(value):
        if any(a.startswith(UNKNOWN) for a in mono) or (mono and count < 0):
            return None
        total += 0 if any(a.startswith(MAYBE_EMPTY) for a in mono) else count
    return total


def _terms(value: Extent) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(value, Expr):
        return value.terms
    return (((), int(value)),) if value else ()


def _made(total: dict[Monomial, int]) -> Extent:
    kept = {m: c for m, c in total.items() if c}
    if not kept:
        return 0
    if len(kept) == 1 and () in kept:
        return kept[()]
    return Expr(kept)


def _without(mono: Monomial, factor: Monomial) -> Monomial | None:
    rest = list(mono)
    for atom in factor:
        if atom not in rest:
            return None
        rest.remove(atom)
    return tuple(rest)


def _common_factor_quotient(a: Extent, divisor: tuple[tuple[Monomial, int], ...]) -> Extent | None:
    """``a`` as a single term times the divisor: the only polynomial division by sums that shapes need."""
    if len(_terms(a)) != len(divisor):
        return None
    lead_mono, lead_count = divisor[0]
    for mono, count in _terms(a):
        rest = _without(mono, lead_mono)
        if rest is None or count % lead_count:
            continue
        factor = _made({rest: count // lead_count})
        if Expr(dict(divisor)) * factor == a:
            return factor
    return None


def _term_text(mono: Monomial, count: int) -> str:
    sign = "-" if count < 0 else "+"
    factors = list(mono)
    if abs(count) != 1 or not mono:
        factors.insert(0, str(abs(count)))
    return sign + "*".join(factors)
