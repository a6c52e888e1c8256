"""Fits that know the activation behind a layer: what matters is f(output), not the output itself.

A least squares fit spends its freedom on values that a ReLU cuts off. Here the layer is fitted to what comes after the
activation f (as Zhang et al. 2015, Accelerating very deep convolutional networks, do with a nonlinear solver): starting
from the least squares solution, the weights move by the least squares solution for the error that is left behind f,

    W <- W + (X^T X + r)^-1 X^T (f(T) - f(X W)),

the fixed-point iteration for a single-index model (Kalai and Sastry 2009, Isotron; Kakade et al. 2011, GLMtron) with
X^T X as its metric and Nesterov's momentum. Held-back rows decide when to stop, and whether it helped at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from graphopt.ir import Array, Node, Tensor, constant_value
from graphopt.transforms.least_squares import System

_ITERATIONS = 24
_PATIENCE = 3
_LEAST_GAIN = 5e-4


@dataclass(frozen=True)
class Response:
    """An elementwise activation and an upper bound of its slope."""

    apply: Callable[[Array], Array]
    slope: float = 1.0


@dataclass(frozen=True)
class ResponseRows:
    """Rows of one layer, float32: ``features`` [groups, rows, n + 1] (last column ones), ``targets`` [groups, rows, m].

    ``other`` [groups, rows, m] is added to the layer's output in front of the activation (a residual sum), or None.
    """

    features: Array
    targets: Array
    other: Array | None = None


@dataclass(frozen=True)
class Refined:
    """``weights`` [groups, n + 1, m] and the relative squared error behind the activation on held-back rows."""

    weights: Array
    before: float
    after: float
    iterations: int


def response_of(tensor: Tensor, outputs: set[int]) -> Response | None:
    """The activation that is all that ever reads the tensor; None when something else does or it is not known."""
    if id(tensor) in outputs or not tensor.outputs:
        return None
    nodes = list(tensor.outputs)
    first = nodes[0]
    maker = None if first.domain else _RESPONSES.get(first.op)
    same = all(n.op == first.op and n.attrs == first.attrs and _rest(n) == _rest(first) for n in nodes)
    if maker is None or not same or any(t is tensor for n in nodes for t in n.inputs[1:]):
        return None
    return maker(first)


def _rest(node: Node) -> list[int]:
    return [id(t) for t in node.inputs[1:]]


def refine(
    fit: Sequence[ResponseRows],
    held: Sequence[ResponseRows],
    system: System,
    start: Array,
    response: Response,
    ridge: float,
) -> Refined:
    """Improve ``start`` [groups, n + 1, m] behind the activation; the number of iterations is chosen on ``held``.

    ``system`` holds the normal equations of the rows in ``fit`` (or of more of the same kind), ``ridge`` the damping
    relative to their mean diagonal. The bias is fitted like a weight.
    """
    before = relative_error(held, start, response)
    best, after, chosen = start, before, 0
    for iteration, weights in enumerate(_iterates(fit, system, start, response, ridge), 1):
        error = relative_error(held, weights, response)
        if not np.isfinite(error):
            break
        if error < after * (1 - _LEAST_GAIN):
            best, after, chosen = weights, error, iteration
        elif iteration - chosen >= _PATIENCE:
            break
    return Refined(best, before, after, chosen)


def advance(
    rows: Sequence[ResponseRows], system: System, start: Array, response: Response, ridge: float, iterations: int
) -> Array:
    """The weights after a number of iterations; arguments as for ``refine``."""
    return next(islice(_iterates(rows, system, start, response, ridge), iterations - 1, None), start)


def relative_error(blocks: Sequence[ResponseRows], weights: Array, response: Response) -> float:
    """Squared error behind the activation over the squared deviations of what should be there."""
    error = sum(float(np.square(_left(b, weights, response)).sum(dtype=np.float64)) for b in blocks)
    return error / max(_variance(blocks, response), 1e-30)


def _iterates(
    rows: Sequence[ResponseRows], system: System, start: Array, response: Response, ridge: float
) -> Iterator[Array]:
    solver = _Solver(system, ridge)
    share = max(system.rows, 1.0) / max(sum(r.features.shape[1] for r in rows), 1) / response.slope
    weights = ahead = start
    momentum = 1.0
    for _ in range(_ITERATIONS):
        moved = ahead + solver.solve(_pull(rows, ahead, response) * share)
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = moved + (momentum - 1) / following * (moved - weights)
        weights, momentum = moved, following
        yield weights


class _Solver:
    """Solves (X^T X + r) d = g for each group."""

    def __init__(self, system: System, ridge: float) -> None:
        import scipy.linalg

        self._factors = []
        for gram in system.gram:
            size = len(gram) - 1
            strength = max(ridge, 1e-6) * max(float(np.trace(gram[:-1, :-1])) / max(size, 1), 1e-12)
            damped = gram + np.diag([*[strength] * size, 1e-6 * max(float(gram[-1, -1]), 1.0)])
            self._factors.append(scipy.linalg.cho_factor(damped, lower=True, check_finite=False))

    def solve(self, pull: Array) -> Array:
        import scipy.linalg

        found = [scipy.linalg.cho_solve(f, p, check_finite=False) for f, p in zip(self._factors, pull, strict=True)]
        return np.stack(found)


def _left(rows: ResponseRows, weights: Array, response: Response) -> Array:
    """f(targets) - f(outputs), [groups, rows, m]."""
    outputs = np.matmul(rows.features, weights.astype(np.float32))
    if rows.other is not None:
        outputs += rows.other
    left: Array = response.apply(rows.targets) - response.apply(outputs)
    return left


def _pull(blocks: Sequence[ResponseRows], weights: Array, response: Response) -> Array:
    total: Any = 0.0
    for rows in blocks:
        product = np.matmul(rows.features.transpose(0, 2, 1), _left(rows, weights, response))
        total = total + product.astype(np.float64)
    return np.asarray(total)


def _variance(blocks: Sequence[ResponseRows], response: Response) -> float:
    """Squared deviations of f(targets) from their mean."""
    count = sum(b.targets.shape[1] for b in blocks)
    values = [response.apply(b.targets) for b in blocks]
    mean = np.sum([v.sum(axis=1, dtype=np.float64) for v in values], axis=0) / max(count, 1)
    square = sum(float(np.square(v).sum(dtype=np.float64)) for v in values)
    return float(square - np.square(mean).sum() * count)


def _clip(node: Node) -> Response | None:
    low, high = node.attrs.get("min", -np.inf), node.attrs.get("max", np.inf)
    for place, tensor in enumerate(node.inputs[1:3]):
        if tensor.is_empty():
            continue
        value = constant_value(tensor)
        if value is None or value.size != 1:
            return None
        low, high = (value.item(), high) if place == 0 else (low, value.item())
    return Response(lambda x: np.clip(x, np.float32(low), np.float32(high)))


def _leaky(node: Node) -> Response | None:
    alpha = np.float32(node.attrs.get("alpha", 0.01))
    return Response(lambda x: np.where(x > 0, x, alpha * x)) if 0 <= alpha <= 1 else None


def _elu(node: Node) -> Response | None:
    alpha = np.float32(node.attrs.get("alpha", 1.0))
    return Response(lambda x: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))) if 0 <= alpha <= 1 else None


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def _gelu(node: Node) -> Response | None:
    if node.attrs.get("approximate", "none") not in ("none", b"none"):
        return Response(lambda x: 0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x**3))), 1.13)

    def exact(x: Array) -> Array:
        from scipy.special import erf

        return np.asarray(0.5 * x * (1 + erf(x * np.float32(math.sqrt(0.5)))))

    return Response(exact, 1.13)


_RESPONSES: dict[str, Callable[[Node], Response | None]] = {
    "Relu": lambda _: Response(lambda x: np.maximum(x, np.float32(0))),
    "Clip": _clip,
    "LeakyRelu": _leaky,
    "Elu": _elu,
    "Sigmoid": lambda _: Response(_sigmoid, 0.25),
    "Tanh": lambda _: Response(np.tanh),
    "Softplus": lambda _: Response(lambda x: np.logaddexp(x, np.float32(0))),
    "Gelu": _gelu,
    "HardSwish": lambda _: Response(lambda x: x * np.clip(x / 6 + np.float32(0.5), 0, 1), 1.5),
}
