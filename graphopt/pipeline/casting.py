"""Choosing the nodes that ``cast`` gives a narrow float type: by schema, target, weights and measured ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

from graphopt.data.feeds import Dataset
from graphopt.data.interface import read_interface
from graphopt.errors import DataError, UnsupportedError, UsageError, ValidationError
from graphopt.graph import subgraphs
from graphopt.ir import Node, Tensor, constant_value
from graphopt.model import Model
from graphopt.pipeline.context import Context
from graphopt.pipeline.job import JobData
from graphopt.pipeline.job_data import synthetic_data
from graphopt.pipeline.values import Pattern
from graphopt.targets.base import Target
from graphopt.transforms.quantize.casting import (
    SINGULAR,
    SQUARES,
    Caster,
    Narrow,
    Ports,
    emulate,
    largest,
    lossy_constant,
    ports,
    smallest,
)
from graphopt.transforms.quantize.output_noise import in_words, measured_sqnr
from graphopt.transforms.quantize.probe import Probe, element_types, probe
from graphopt.transforms.quantize.quiet import noisy_parts

_STAND_INS = 4


@dataclass(frozen=True)
class CastConfig:
    """What is wanted. ``headroom``: activations may reach the largest value over this. ``fidelity``: least signal to
    noise at the outputs in dB, that nodes go back to float32 for; 0: none do."""

    narrow: Narrow = "float16"
    keep: tuple[Pattern, ...] = ()
    interface: bool = False
    headroom: float = 2.0
    fidelity: float = 30.0


def run_cast(model: Model, ctx: Context, target: Target, config: CastConfig) -> None:
    """Cast, in place; say which nodes stay in float32 and why, and what the outputs lost.

    Raises:
        UnsupportedError: the target has no kernels for the type.
        ValidationError: outputs are not finite any more, and nothing may go back to float32 (``fidelity`` 0).
    """
    if config.narrow not in target.narrow_floats:
        raise UnsupportedError(
            f"target {target.name} has no kernels for {config.narrow}; cast to {' or '.join(target.narrow_floats)}, or "
            "name another target"
        )
    data = ctx.settings.data
    model.graph.sort()
    choice = _Choice(model, ctx, target, config, {} if data is None else probe(model, data, runs=None))
    chosen = choice.nodes()
    chosen = {key: found for key, found in chosen.items() if ctx.allow(choice.by_id[key], "cast")}
    if data is None:
        ctx.warn(None, f"no data, so only weights were checked for the range of {config.narrow}, not activations")
    if chosen:
        chosen = _Trial(model, ctx, choice, data or _stand_in(model, ctx)).quiet(chosen)
    if not chosen:
        ctx.skipped(None, f"no node can be cast to {config.narrow}")
        return
    caster = Caster(model, config.narrow, config.interface)
    caster.cast(chosen)
    ctx.count(f"nodes in {config.narrow}", len(chosen))
    ctx.count("casts put in", caster.casts)
    if target.half_note:
        ctx.note(None, target.half_note)


class _Choice:
    """Which nodes can be cast."""

    def __init__(
        self, model: Model, ctx: Context, target: Target, config: CastConfig, probes: Mapping[str, Probe]
    ) -> None:
        self.model, self.ctx, self.target, self.config, self.probes = model, ctx, target, config, probes
        self.types = element_types(model)
        self.by_id = {id(n): n for n in model.graph.nodes}

    def nodes(self) -> dict[int, Ports]:
        """Id of each node that can be cast, and what of it."""
        chosen: dict[int, Ports] = {}
        for node in self.model.graph.nodes:
            if not self._floats(node):
                continue
            found = ports(node, self.types, self.model.opsets[""], self.config.narrow)
            why = found if isinstance(found, str) else self._problem(node, found)
            if why:
                self.ctx.skipped(node, f"{node.op} stays in float32: {why}")
            elif not isinstance(found, str):
                chosen[id(node)] = found
        return self.joined(chosen)

    def joined(self, chosen: dict[int, Ports]) -> dict[int, Ports]:
        """Without the nodes whose cast would save nothing."""
        while lonely := [key for key in chosen if self._lonely(self.by_id[key], chosen)]:
            for key in lonely:
                del chosen[key]
        return chosen

    def _floats(self, node: Node) -> bool:
        return not node.is_op("Constant") and any(
            self.types.get(t.name) == 1 or str(getattr(constant_value(t), "dtype", "")) == "float32"
            for t in (*node.inputs, *node.outputs)
            if not t.is_empty()
        )

    def _problem(self, node: Node, found: Ports) -> str:
        if node.op in self.target.no_half:
            return f"{self.target.name} loses too much in {node.op} with {self.config.narrow}"
        if any(p.matches(node) for p in self.config.keep):
            return "the options keep it"
        for place in found.inputs:
            value = constant_value(node.inputs[place])
            if value is not None and (why := lossy_constant(value, self.config.narrow)):
                return f"{node.inputs[place].name!r} {why}"
        tensors = [*(node.inputs[i] for i in found.inputs), *(node.outputs[i] for i in found.outputs)]
        return next((why for t in tensors if (why := self._overflow(node, t))), "")

    def _overflow(self, node: Node, tensor: Tensor) -> str:
        known = self.probes.get(tensor.name)
        if known is None or known.elements == 0:
            return ""
        top, limit = max(-known.low, known.high), largest(self.config.narrow)
        if top * self.config.headroom > limit:
            return f"{tensor.name!r} reaches {top:.3g}, and {self.config.narrow} ends at {limit:.3g}"
        if node.op in SQUARES and top * top > limit:
            return f"it squares {tensor.name!r}, which reaches {top:.3g}"
        if 0 < known.low < smallest(self.config.narrow) and _divides(tensor):
            return f"{tensor.name!r} goes down to {known.low:.3g}, and small values matter there"
        return ""

    def _lonely(self, node: Node, chosen: Mapping[int, Ports]) -> bool:
        """Whether casting saves nothing: no weight, and only float32 nodes around it."""
        found = chosen[id(node)]
        if subgraphs(node) or any(constant_value(node.inputs[i]) is not None for i in found.inputs):
            return False
        makers = [m for i in found.inputs for m in node.inputs[i].inputs]
        readers = [r for i in found.outputs for r in node.outputs[i].outputs]
        return not any(id(n) in chosen for n in (*makers, *readers))


def _divides(tensor: Tensor) -> bool:
    """Whether a reader of the tensor divides by it, or the like."""
    return any(
        (place := SINGULAR.get(reader.op)) is not None and place < len(reader.inputs) and reader.inputs[place] is tensor
        for reader in tensor.outputs
    )


def _stand_in(model: Model, ctx: Context) -> Dataset | None:
    """Seeded synthetic inputs; None when the model does not say enough to make some."""
    interface = read_interface(model.stub_proto().SerializeToString())
    try:
        return synthetic_data(JobData(samples=_STAND_INS), interface, model, ctx.settings.seed)
    except (UsageError, DataError):
        return None


class _Trial:
    """Measures casts without kernels for the narrow type: its values are stored, and computed with in float32."""

    def __init__(self, model: Model, ctx: Context, choice: _Choice, data: Dataset | None) -> None:
        self.model, self.ctx, self.choice, self.data, self.config = model, ctx, choice, data, choice.config

    def quiet(self, chosen: dict[int, Ports]) -> dict[int, Ports]:
        """Those of ``chosen`` that together keep ``fidelity``, as measured, and what that leaves at the outputs."""
        if self.data is None:
            return chosen
        measured = self._sqnr(chosen, self.data)
        if measured < self.config.fidelity and self.config.fidelity > 0:
            chosen = self._without_noisy(chosen, self.data, measured)
            measured = self._sqnr(chosen, self.data) if chosen else float("inf")
        if measured == float("-inf"):
            raise ValidationError(
                f"outputs are not finite in {self.config.narrow}; keep the nodes that overflow with keep=, raise "
                "headroom=, or give a fidelity= over 0"
            )
        if chosen:
            self._report(measured, self.data)
        return chosen

    def _without_noisy(self, chosen: dict[int, Ports], data: Dataset, measured: float) -> dict[int, Ports]:
        keys = list(chosen)
        least = self.config.fidelity
        noisy = noisy_parts(
            len(keys),
            lambda parts: 10 ** (-self._sqnr({keys[i]: chosen[keys[i]] for i in parts}, data) / 10),
            10 ** (-least / 10),
        )
        was = "outputs are not finite" if measured == float("-inf") else f"outputs keep only {measured:.1f} dB"
        for place in sorted(noisy):
            node = self.choice.by_id[keys[place]]
            self.ctx.skipped(node, f"{node.op} stays in float32: with it in {self.config.narrow} {was}, not {least:g}")
        self.ctx.count("nodes back in float32", len(noisy))
        return self.choice.joined({key: chosen[key] for place, key in enumerate(keys) if place not in noisy})

    def _report(self, measured: float, data: Dataset) -> None:
        kind = " on synthetic inputs, which prove nothing of real ones" if data.synthetic else ""
        how = f"values stored in {self.config.narrow}, computed in float32"
        self.ctx.note(None, f"the worst output {in_words(measured)}{kind}; {how}")
        if isfinite(measured):
            self.ctx.count("output SQNR dB", round(measured, 1))

    def _sqnr(self, chosen: Mapping[int, Ports], data: Dataset) -> float:
        clone = self.model.clone()
        clone.graph.sort()
        pairs = zip(self.model.graph.nodes, clone.graph.nodes, strict=True)
        same = {id(other): chosen[id(node)] for node, other in pairs if id(node) in chosen}
        Caster(clone, self.config.narrow).cast(same)
        emulate(clone, same)
        return measured_sqnr(self.model, clone, data)
