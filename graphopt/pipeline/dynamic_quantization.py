"""Choosing the layers that ``quantize_dynamic`` puts on integers: by the latency profile, then by measured noise."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from graphopt.analysis.shapes import Facts, interpret, interpret_best
from graphopt.data.feeds import Dataset
from graphopt.errors import UsageError
from graphopt.model import Model
from graphopt.pipeline.context import Context
from graphopt.pipeline.values import Pattern
from graphopt.targets.base import Target
from graphopt.targets.profile import Profile, load_profile
from graphopt.transforms.quantize.dynamic import (
    RECURRENT,
    DynamicLayer,
    DynamicQuantizer,
    find_layers,
    gain_us,
    shares_input,
)
from graphopt.transforms.quantize.output_noise import measured_sqnr


@dataclass(frozen=True)
class DynamicConfig:
    """What is wanted.

    ``reduced``: weights in 7 bits; None: when the profile is of a CPU without VNNI. ``fidelity``: least signal to noise
    at the outputs in dB, measured where there is data; 0: not measured.
    """

    recurrent_only: bool = False
    per_channel: bool = True
    reduced: bool | None = None
    include: tuple[Pattern, ...] = ()
    exclude: tuple[Pattern, ...] = ()
    fidelity: float = 30.0
    profile: str | None = None


def run_dynamic(model: Model, ctx: Context, target: Target, config: DynamicConfig) -> None:
    """Put the layers that gain on integers, in place, and say of every other one why it stays in float.

    Raises:
        UsageError: the model is older than opset 11, which has no dynamic quantization.
    """
    source = config.profile or target.profile
    profile = load_profile(source) if source else None
    needed = bool(target.reduced_without and profile and not profile.vnni)
    choice = _Choice(model, ctx, config, needed if config.reduced is None else config.reduced)
    kept = choice.quiet(choice.worth(target, profile))
    kept = {place for place in kept if ctx.allow(choice.layers[place].node, "quantize_dynamic")}
    if not kept:
        return
    if model.opsets[""] < 11:
        raise UsageError(
            f"quantize_dynamic needs opset 11, the model has {model.opsets['']}; export it with a newer opset, or run "
            "quantize with calibration data, which raises it"
        )
    for place in sorted(kept):
        layer = choice.layers[place]
        ctx.did(layer.node, f"{layer.node.op} runs on integers: int8 weights, its input quantized as it runs")
        ctx.count("recurrent layers on integers" if layer.recurrent else "products on integers")
    _apply(model, choice.layers, kept, config, choice.reduced)


def _apply(
    model: Model, layers: Sequence[DynamicLayer], kept: Collection[int], config: DynamicConfig, reduced: bool
) -> None:
    quantizer = DynamicQuantizer(model, config.per_channel, reduced)
    for place in sorted(kept):
        quantizer.quantize(layers[place])
    quantizer.finish()


class _Choice:
    """The layers of a model, and which of them, by their place in ``layers``, are worth it and quiet enough."""

    def __init__(self, model: Model, ctx: Context, config: DynamicConfig, reduced: bool) -> None:
        self.model, self.ctx, self.config, self.reduced = model, ctx, config, reduced
        self.layers: list[DynamicLayer] = []

    def worth(self, target: Target, profile: Profile | None) -> list[int]:
        """The layers that the target can run and the profile shows faster."""
        if self.config.recurrent_only and not any(n.op in RECURRENT for n in self.model.graph.walk()):
            return []
        facts = _facts(self.model, self.ctx.settings.data)
        found = find_layers(self.model, target, facts)
        self.layers = [x for x in found if x.recurrent or not self.config.recurrent_only]
        readers = shares_input(self.layers)
        chosen = []
        for place, layer in enumerate(self.layers):
            why = layer.why_float or self._by_options(layer)
            forced = any(p.matches(layer.node) for p in self.config.include)
            if not why and not forced and profile is not None:
                why = _by_profile(layer, profile, readers.get(id(layer.node.inputs[0]), 1))
            if why:
                self.ctx.skipped(layer.node, f"{layer.node.op} left in float: {why}")
            else:
                chosen.append(place)
        if chosen and profile is not None:
            named = f"{profile.digest} ({profile.device}, {profile.runtime})"
            self.ctx.note(None, f"decided by the latency profile {named}")
        return chosen

    def _by_options(self, layer: DynamicLayer) -> str:
        return "excluded by the options" if any(p.matches(layer.node) for p in self.config.exclude) else ""

    def quiet(self, chosen: Sequence[int]) -> set[int]:
        """Those of ``chosen`` that together keep ``fidelity``, as measured; the noisiest alone go first."""
        data, least = self.ctx.settings.data, self.config.fidelity
        kept = set(chosen)
        if data is None or least <= 0 or not kept:
            return kept
        measured = self._sqnr(kept, data)
        if measured >= least:
            return kept
        alone = {place: self._sqnr({place}, data) for place in kept}
        while kept and measured < least:
            for place in _noisiest(kept, alone, least):
                kept.discard(place)
                node, left = self.layers[place].node, f"{alone[place]:.1f} dB"
                self.ctx.skipped(
                    node,
                    f"{node.op} left in float: alone it leaves {left} at the outputs, and all together less than "
                    f"{least:g} dB",
                )
            measured = self._sqnr(kept, data) if kept else least
        return kept

    def _sqnr(self, kept: Collection[int], data: Dataset) -> float:
        clone = self.model.clone()
        order = {id(node): place for place, node in enumerate(self.model.graph.walk())}
        nodes = list(clone.graph.walk())
        owners = {id(node): graph for graph in clone.graph.graphs() for node in graph.nodes}
        layers = []
        for layer in self.layers:
            node = nodes[order[id(layer.node)]]
            layers.append(DynamicLayer(owners[id(node)], node, layer.rows))
        _apply(clone, layers, kept, self.config, self.reduced)
        return measured_sqnr(self.model, clone, data)


def _noisiest(kept: Collection[int], alone: Mapping[int, float], least: float) -> list[int]:
    """The layers to drop so that the noise of the others, which about adds up, allows ``least`` dB; one at least."""
    order = sorted(kept, key=lambda place: alone[place])
    noise = [10 ** (-alone[place] / 10) for place in order]
    allowed = 10 ** (-least / 10)
    return order[: next(count for count in range(1, len(order) + 1) if sum(noise[count:]) <= allowed)]


def _by_profile(layer: DynamicLayer, profile: Profile, readers: int) -> str:
    gain = gain_us(layer, profile, readers)
    if gain is None:
        return f"the latency profile does not know {layer.node.op}; make one with graphopt profile, or use include="
    if gain <= 0:
        return "the profile shows integers slower here, quantizing the input included"
    return ""


def _facts(model: Model, data: Dataset | None) -> Facts:
    """Extents for one sample of the data, or for stand-in numbers where there is none."""
    if data is None:
        return interpret_best(model.graph)
    first = next(iter(data.iter_batches(1)), None)
    if first is None:
        return interpret_best(model.graph)
    return interpret(model.graph, input_shapes={name: value.shape for name, value in first.feeds.items()})
