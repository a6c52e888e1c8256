"""Choosing the nodes that ``cast`` gives a narrow float type: by schema, target, weights and measured ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphopt.data.feeds import Dataset
from graphopt.errors import UnsupportedError, ValidationError
from graphopt.graph import subgraphs
from graphopt.ir import Node, Tensor, constant_value
from graphopt.model import Model
from graphopt.pipeline.context import Context
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
from graphopt.transforms.quantize.output_noise import measured_sqnr
from graphopt.transforms.quantize.probe import Probe, element_types, probe


@dataclass(frozen=True)
class CastConfig:
    """What is wanted. ``headroom``: activations may reach the largest value over this."""

    narrow: Narrow = "float16"
    keep: tuple[Pattern, ...] = ()
    interface: bool = False
    headroom: float = 2.0


def run_cast(model: Model, ctx: Context, target: Target, config: CastConfig) -> None:
    """Cast, in place; say which nodes stay in float32 and why, and what the outputs lost.

    Raises:
        UnsupportedError: the target has no kernels for the type.
        ValidationError: outputs are not finite any more.
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
    if not chosen:
        ctx.skipped(None, f"no node can be cast to {config.narrow}")
        return
    if data is None:
        ctx.warn(None, f"no data, so only weights were checked for the range of {config.narrow}, not activations")
    else:
        _validate(model, ctx, data, chosen, config)
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


def _validate(
    model: Model, ctx: Context, data: Dataset, chosen: Mapping[int, Ports], config: CastConfig
) -> None:
    clone = model.clone()
    clone.graph.sort()
    pairs = zip(model.graph.nodes, clone.graph.nodes, strict=True)
    same = {id(other): chosen[id(node)] for node, other in pairs if id(node) in chosen}
    Caster(clone, config.narrow).cast(same)
    emulate(clone, same)
    measured = measured_sqnr(model, clone, data)
    if measured != measured or measured == float("-inf"):
        raise ValidationError(
            f"outputs are not finite in {config.narrow}; keep the nodes that overflow with keep=, or raise headroom="
        )
    ctx.note(None, f"the worst output keeps {measured:.1f} dB, values stored in {config.narrow}, computed in float32")
    ctx.count("output SQNR dB", round(measured, 1))
