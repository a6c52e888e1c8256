"""The ``clip`` pass: small weights to zero, outliers saturated."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from graphopt.analysis.layers import weighted_nodes
from graphopt.errors import UsageError
from graphopt.graph import Graph
from graphopt.ir import Array, Node, Tensor, constant_value
from graphopt.model import Model
from graphopt.pipeline.context import Context
from graphopt.pipeline.options import Options, option
from graphopt.pipeline.passes import Guarantee, Pass
from graphopt.pipeline.recovery import Recovery, recover
from graphopt.pipeline.values import Pattern

_PERCENTILE = re.compile(r"p(\d+(?:\.\d+)?)")
_SIGMAS = re.compile(r"(\d+(?:\.\d+)?)sigma")
_INT8_LEVELS = 127
_SHRINKS = np.linspace(1.0, 0.2, 81)
_JUDGED_SAMPLES = 32

Limit: TypeAlias = Callable[[Array], float]


class ClipOptions(Options):
    """Options of ``clip``. At least one of ``below`` and ``above`` says what to do."""

    below: str | None = option(None, "Weights under this magnitude become 0: a number, or a percentile such as p50.")
    above: str | None = option(
        None, "Magnitudes over this are saturated: a number, a percentile (p99.9), k-sigma (4sigma), or mse."
    )
    relative: bool = option(False, "Numbers are shares of the largest magnitude of the tensor (or channel).")
    per: Literal["tensor", "channel"] = option("tensor", "Thresholds of each weight, or of each output channel.")
    include: tuple[Pattern, ...] = option((), "Only weights that one of these nodes reads.")
    exclude: tuple[Pattern, ...] = option((), "No weight that one of these nodes reads.")
    recover: bool = option(
        True, "With data, fit the layers again: zeros stay zero, and no weight gets over the limit of above=."
    )
    fidelity: float = option(
        0.0,
        "With data, and above=: layers keep their outliers as far as the outputs would otherwise keep less signal to "
        "noise than so many dB, before the fits (0: all are saturated).",
        ge=0,
    )


@dataclass(frozen=True)
class _Weight:
    """A weight to clip. ``along``: the axis of its output channels when each gets thresholds of its own."""

    node: Node
    tensor: Tensor
    along: int | None

    def values(self) -> Array:
        """As they are."""
        values = constant_value(self.tensor)
        assert values is not None
        return values


class Clip(Pass[ClipOptions]):
    """Clips the weights of convolutions, matrix products and recurrent layers.

    ``below=T`` sets weights with magnitude under T to zero (Han et al. 2015: absolute; or relative to the largest
    magnitude, or a percentile of the magnitudes). ``above`` saturates outliers at a value, a percentile of the
    magnitudes, a number of standard deviations, or (``mse``) where symmetric int8 quantization makes the smallest
    squared error. The shapes stay; ``prune:mode=exact`` afterwards removes what became all zero. With data, what the
    clipping lost is fitted back layer by layer (see ``reconstruct``): zeros stay zero, and saturated weights stay
    within the limit that they were saturated at. With ``fidelity``, layers whose
    saturation would cost the outputs more than that keep their outliers.
    """

    guarantee = "lossy"
    requires = frozenset({"float"})

    def effective_guarantee(self) -> Guarantee:
        """Exact when there is nothing to do."""
        return "lossy" if self.options.below or self.options.above else "exact"

    def run(self, model: Model, ctx: Context) -> None:
        """See the class."""
        options = self.options
        if options.below is None and options.above is None:
            raise UsageError("clip: give below= (small weights to zero), above= (outliers), or both")
        if options.fidelity and options.above is None:
            raise UsageError("clip: fidelity= says which layers keep the outliers that above= saturates; give above=")
        low = None if options.below is None else _limit(options.below, options.relative, "below")
        high = None if options.above is None else _limit(options.above, options.relative, "above")
        weights = list(self._weights(model.graph, ctx))
        loud = self._loud(model, weights, high, ctx)
        total = zeros = 0
        touched: set[str] = set()
        limits: dict[str, Array] = {}
        for weight in weights:
            before, most = weight.values(), None if weight in loud else high
            after = clipped(before, low, most, weight.along)
            total += after.size
            zeros += int((after == 0).sum())
            if most is not None:
                limits[weight.tensor.name] = limit_of(before, most, weight.along)
            if np.array_equal(before, after):
                continue
            model.graph.set_weight(weight.tensor, after)
            ctx.count("weights changed", int((before != after).sum()))
            ctx.did(weight.node, _words(before, after))
            touched.update(n.name for n in weight.tensor.outputs)
        if total:
            ctx.count("sparsity", zeros / total)
        if touched and options.recover and ctx.settings.data is not None:
            recovery = Recovery(keep_zeros=True, limits=limits, touched=frozenset(touched))
            recover(model, ctx.settings.data, ctx, recovery)

    def _loud(self, model: Model, weights: Sequence[_Weight], high: Limit | None, ctx: Context) -> list[_Weight]:
        """The weights that keep their outliers, as measured on held-back samples."""
        from graphopt.transforms.quantize.quiet import noisy_parts
        from graphopt.transforms.recover.check import OutputJudge, held_back

        data, least = ctx.settings.data, self.options.fidelity
        if high is None or least == 0:
            return []
        if data is None:
            ctx.warn(None, f"fidelity={least:g} needs data to be measured on (--data); all outliers are saturated")
            return []
        held = held_back(data)
        held = held.select(list(range(min(len(held), _JUDGED_SAMPLES))))
        judge = OutputJudge(model, held, threads=ctx.settings.threads)

        def noise(parts: Sequence[int]) -> float:
            trial = model.clone()
            tensors = trial.graph.tensors()
            for weight in (weights[i] for i in parts):
                saturated = clipped(weight.values(), None, high, weight.along)
                trial.graph.set_weight(tensors[weight.tensor.name], saturated)
            return judge.error(trial)

        loud = [weights[i] for i in sorted(noisy_parts(len(weights), noise, 10 ** (-least / 10)))]
        for weight in loud:
            ctx.skipped(weight.node, f"outliers stay: with all saturated the outputs keep less than {least:g} dB")
        return loud

    def _weights(self, graph: Graph, ctx: Context) -> Iterator[_Weight]:
        """Float weights that the options pick, once each."""
        seen: set[int] = set()
        for node, weight in weighted_nodes(graph):
            value = constant_value(weight)
            if weight.id in seen or value is None or value.dtype.kind != "f" or value.ndim < 2:
                continue
            seen.add(weight.id)
            users = list(weight.outputs)
            picked = not self.options.include or any(p.matches(n) for p in self.options.include for n in users)
            if picked and not any(p.matches(n) for p in self.options.exclude for n in users):
                if ctx.allow(node, "clip"):
                    along = output_axis(node, value.ndim) if self.options.per == "channel" else None
                    yield _Weight(node, weight, along)
            else:
                ctx.skipped(node, "not picked by include and exclude")


def clipped(weights: Array, low: Limit | None, high: Limit | None, axis: int | None) -> Array:
    """The weights with small magnitudes zeroed and large ones saturated; thresholds along ``axis``, or one for all.

    A new array of the same shape and dtype. ``high`` is found on the weights as they were.
    """
    if axis is None:
        return _clip_part(weights, low, high)
    moved = np.moveaxis(weights, axis, 0)
    parts = np.stack([_clip_part(part, low, high) for part in moved])
    return np.ascontiguousarray(np.moveaxis(parts, 0, axis))


def limit_of(weights: Array, high: Limit, axis: int | None) -> Array:
    """The magnitude that the weights are saturated at: one number, or one along ``axis`` that broadcasts to them."""
    if axis is None:
        return np.asarray(high(np.abs(weights)), weights.dtype)
    parts = np.array([high(np.abs(part)) for part in np.moveaxis(weights, axis, 0)], weights.dtype)
    return parts.reshape([-1 if i == axis else 1 for i in range(weights.ndim)])


def output_axis(node: Node, rank: int) -> int:
    """Axis of the output channels in a node's weight."""
    match node.op:
        case "ConvTranspose":
            return 1
        case "Gemm":
            return 0 if node.attrs.get("transB", 0) else 1
        case "MatMul":
            return rank - 1
        case "LSTM" | "GRU" | "RNN":
            return 1
        case _:
            return 0


def _clip_part(weights: Array, low: Limit | None, high: Limit | None) -> Array:
    magnitudes = np.abs(weights)
    result = weights
    if high is not None:
        limit = np.asarray(high(magnitudes), weights.dtype)
        result = np.clip(result, -limit, limit)
    if low is not None:
        result = np.where(magnitudes < np.asarray(low(magnitudes), weights.dtype), np.zeros((), weights.dtype), result)
    return np.array(result, weights.dtype)


def _limit(text: str, relative: bool, option_name: str) -> Limit:
    """How a threshold follows from the magnitudes of a weight.

    Raises:
        UsageError: the text is none of the forms.
    """
    if match := _PERCENTILE.fullmatch(text):
        share = float(match[1])
        if share > 100:
            raise UsageError(f"clip: {option_name}={text}: a percentile is at most p100")
        return lambda magnitudes: float(np.percentile(magnitudes, share))
    if option_name == "above" and (match := _SIGMAS.fullmatch(text)):
        count = float(match[1])
        return lambda magnitudes: count * float(np.sqrt(np.mean(np.square(magnitudes, dtype=np.float64))))
    if option_name == "above" and text == "mse":
        return best_int8_limit
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (0 <= value < float("inf")):
        forms = "a number >= 0 or p50" if option_name == "below" else "a number >= 0, p99.9, 4sigma or mse"
        raise UsageError(f"clip: {option_name}={text!r} is not {forms}")
    if relative:
        return lambda magnitudes: value * float(magnitudes.max(initial=0.0))
    return lambda magnitudes: value


def best_int8_limit(magnitudes: Array) -> float:
    """The largest magnitude that symmetric int8 should represent: the squared error of rounding is smallest there."""
    top = float(magnitudes.max(initial=0.0))
    if top == 0:
        return 0.0
    values = magnitudes.astype(np.float64)
    errors = []
    for shrink in _SHRINKS:
        step = top * shrink / _INT8_LEVELS
        errors.append(float(np.square(values - np.minimum(np.round(values / step), _INT8_LEVELS) * step).sum()))
    return top * float(_SHRINKS[int(np.argmin(errors))])


def _words(before: Array, after: Array) -> str:
    scale = float(np.linalg.norm(before.astype(np.float64))) or 1.0
    error = float(np.linalg.norm(before.astype(np.float64) - after.astype(np.float64))) / scale
    zeroed = int(((after == 0) & (before != 0)).sum())
    moved = int((before != after).sum()) - zeroed
    sparsity = float((after == 0).mean())
    return f"{zeroed} weights zeroed, {moved} saturated; sparsity {sparsity:.1%}, relative L2 error {error:.3g}"
