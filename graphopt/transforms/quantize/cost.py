"""What a unit costs on a target, in float and on integers, from the target's latency profile."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from graphopt.targets.profile import Curve, Precision, Profile, interpolate
from graphopt.transforms.quantize.probe import Probe
from graphopt.transforms.quantize.units import Unit

_ROWS = (1, 16, 128, 512)
_STEM_INPUTS = 4
_LARGE_KERNEL = 25
FREE_OPS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
_FUSED_IN_FLOAT = frozenset({"HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "LeakyRelu", "Relu", "Clip"})
_POOLS = frozenset({"MaxPool", "AveragePool"})
_UNSIGNED_PENALTY = 2.0
_GROUPED: Mapping[Precision, Curve] = MappingProxyType(
    {
        "float32": ((4, 4.7), (8, 3.2), (16, 1.0)),
        "int8": ((4, 19.0), (8, 5.5), (16, 1.6), (32, 1.5), (64, 1.25), (128, 1.05)),
    }
)
"""How much longer a grouped convolution takes than its multiply-accumulates tell, by channels of a group: onnxruntime
1.32, 3x3 kernels, 64 to 256 channels, AMD Zen4. A kernel runs once a group; blocked float kernels need 16 channels."""


@dataclass(frozen=True)
class LayerFacts:
    """Size of a compute unit: multiply-accumulates of a run, widths, groups, rows of a matrix product."""

    macs: float
    inputs: int
    outputs: int
    groups: int = 1
    kernel: int = 1
    rows: int = 1
    constant: bool = True

    @property
    def channels(self) -> float:
        """Geometric mean of the widths."""
        return math.sqrt(self.inputs * self.outputs)

    @property
    def depthwise(self) -> bool:
        """Whether each channel is convolved alone."""
        return self.groups > 1 and self.groups == self.inputs


def layer_facts(unit: Unit, probes: Mapping[str, Probe]) -> LayerFacts | None:
    """Size of a compute unit; None for other units and where shapes do not fit."""
    if unit.rule.kind != "compute":
        return None
    made = probes[unit.node.outputs[0].name] if unit.node.outputs[0].name in probes else probes[unit.output.name]
    weight = unit.weight
    if unit.node.op in ("Conv", "ConvTranspose"):
        shape = unit.weight_shape
        if shape is None:
            return None
        groups = int(unit.node.attrs.get("group", 1))
        kernel = math.prod(shape[2:])
        if unit.node.op == "Conv":
            macs = made.elements * shape[1] * kernel
            return LayerFacts(macs, shape[1] * groups, shape[0], groups, kernel)
        given = probes[unit.node.inputs[0].name]
        return LayerFacts(given.elements * shape[1] * kernel, shape[0], shape[1] * groups, groups, kernel)
    source = probes.get(unit.node.inputs[0].name)
    if source is None or not source.shape or not made.shape:
        return None
    depth = source.shape[-1]
    batch = 1 if weight is not None else math.prod(made.shape[:-2])
    rows = made.elements // max(1, made.shape[-1]) // max(1, batch)
    return LayerFacts(made.elements * depth, depth, made.shape[-1], rows=rows, constant=weight is not None)


def unit_cost(unit: Unit, probes: Mapping[str, Probe], profile: Profile, precision: Precision) -> float:
    """Microseconds that the unit takes at a precision, Q/DQ at its borders not counted."""
    op = unit.node.op
    if op in FREE_OPS:
        return 0.0
    facts = layer_facts(unit, probes)
    if facts is None:
        return profile.elements_us(op, precision, _elements(unit, probes))
    cost = _compute_cost(facts, profile, precision, unit.node.op)
    if precision == "int8":
        cost += _lost_fusion(unit, probes, profile)
    if precision == "int8" and not facts.constant:
        return cost * _UNSIGNED_PENALTY
    return cost


def _lost_fusion(unit: Unit, probes: Mapping[str, Probe], profile: Profile) -> float:
    """Time of the activation behind a convolution that float code takes over and an integer kernel does not."""
    if unit.node.op != "Conv":
        return 0.0
    followers = unit.output.outputs
    if len(followers) == 1 and followers[0].op in _FUSED_IN_FLOAT:
        return profile.elements_us(followers[0].op, "float32", probes[unit.output.name].elements)
    ops = sorted(n.op for n in followers)
    if ops in (["HardSigmoid", "Mul"], ["Mul", "Sigmoid"]):
        elements = probes[unit.output.name].elements
        return sum(profile.elements_us(op, "float32", elements) for op in ops)
    return 0.0


def _elements(unit: Unit, probes: Mapping[str, Probe]) -> float:
    """Values that an operator touches; a pool touches its window for each output, counted in 3x3 windows."""
    made = sum(probes[t.name].elements for t in unit.outputs if t.name in probes)
    if unit.node.op in _POOLS:
        return made * float(math.prod(unit.node.attrs.get("kernel_shape", (3, 3)))) / 9
    given = [probes[t.name].elements for t in unit.variables if t.name in probes]
    return max([made, *given])


def _compute_cost(facts: LayerFacts, profile: Profile, precision: Precision, op: str) -> float:
    if op in ("Conv", "ConvTranspose"):
        layer = "depthwise" if facts.depthwise else "conv1x1" if facts.kernel == 1 else "conv3x3"
        if facts.kernel > 1 and facts.inputs <= _STEM_INPUTS:
            layer = "stem3x3" if facts.kernel < _LARGE_KERNEL else "stem7x7"
            return profile.macs_us(layer, precision, facts.outputs, facts.macs)
        if facts.groups == 1 or facts.depthwise:
            return profile.macs_us(layer, precision, facts.channels, facts.macs)
        width = facts.channels / facts.groups
        return interpolate(_GROUPED[precision], width) * profile.macs_us(layer, precision, width, facts.macs)
    low = max((r for r in _ROWS if r <= facts.rows), default=_ROWS[0])
    high = min((r for r in _ROWS if r >= facts.rows), default=_ROWS[-1])
    costs = [profile.macs_us(f"matmul{r}", precision, facts.channels, facts.macs) for r in (low, high)]
    if low == high:
        return costs[0]
    share = math.log(facts.rows / low) / math.log(high / low)
    return costs[0] * (1 - share) + costs[1] * share
