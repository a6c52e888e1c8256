"""Decides which units become integer kernels: the cheapest assignment that the rules allow.

Each unit is float or integer. Its own time depends on that; a Q costs where a float value is read by an integer
kernel, a DQ where an integer one is read by float code. The sum is minimised exactly, as a minimum cut (Greig,
Porteous, Seheult 1989): all pair costs are non-negative, so the problem is submodular.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphopt.graph import Graph
from graphopt.ir import Tensor, is_constant
from graphopt.targets.base import FloatRule, Target
from graphopt.targets.profile import Profile
from graphopt.transforms.quantize.cost import FREE_OPS, layer_facts, unit_cost
from graphopt.transforms.quantize.probe import Probe
from graphopt.transforms.quantize.units import Unit, consumers_by_tensor

_FOREVER = 10**8
_RESERVE = 1.03
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool"})
_TEST_WHY = "the profile shows int8 slower than float here, Q/DQ around it included"


@dataclass(frozen=True)
class Plan:
    """Units on integers, units in float with the reason, and the time of both by the profile in microseconds.

    ``gains``: microseconds that each integer unit saves, Q/DQ around it not counted, by id of its node. ``borders_us``:
    of ``planned_us``, what the Q/DQ between float and integer regions take. ``least_us``: the time if those were free
    and each unit ran at its faster precision. ``rest_us``: time of the nodes outside all units.
    """

    integer: tuple[Unit, ...]
    floating: tuple[tuple[Unit, str], ...]
    float_us: float
    planned_us: float
    gains: Mapping[int, float] = field(default_factory=dict)
    borders_us: float = 0.0
    least_us: float = 0.0
    rest_us: float = 0.0

    @property
    def speedup(self) -> float:
        """Expected float time over planned time of the whole model."""
        return _ratio(self.float_us + self.rest_us, self.planned_us + self.rest_us)

    @property
    def ceiling(self) -> float:
        """The speed-up that no plan passes by the profile: of free Q/DQ between regions, whatever the noise."""
        return _ratio(self.float_us + self.rest_us, self.least_us + self.rest_us)


@dataclass(frozen=True)
class Choice:
    """What the user said about nodes: ``keep_float`` and ``force`` tell by name and operator."""

    keep_float: Callable[[Unit], bool]
    force: Callable[[Unit], bool]


def make_plan(
    graph: Graph,
    target: Target,
    units: Sequence[Unit],
    probes: Mapping[str, Probe],
    profile: Profile | None,
    choice: Choice,
    penalties: Mapping[int, float] | None = None,
) -> Plan:
    """Choose. Without a profile, compute units and what connects them become integer wherever the rules allow.

    ``penalties``: microseconds that count against a unit on integers, by id of its node.
    """
    for unit in units:
        if not unit.why_float and choice.keep_float(unit):
            unit.why_float = "excluded by the options"
        if not unit.why_float and not choice.force(unit):
            unit.why_float = _float_rule(unit, target, probes)
    borders = 0.0
    if target.placement == "inputs":
        chosen = _by_inputs(units, penalties or {})
        costs = {id(u): (0.0, 0.0) for u in units}
        why = "TensorRT fuses it with its neighbours"
    else:
        costs = {id(u): _costs(u, probes, profile) for u in units}
        chosen, borders = _cut(graph, units, probes, profile, costs, choice, penalties or {})
        why = _TEST_WHY if profile is not None else "no integer kernel is next to it"
    integer = tuple(u for u in units if id(u) in chosen)
    floating = tuple((u, u.why_float or why) for u in units if id(u) not in chosen)
    before = sum(c[0] for c in costs.values())
    after = sum(costs[id(u)][id(u) in chosen] for u in units) + borders
    least = sum(min(c) for c in costs.values())
    rest = _rest_us(graph, units, probes, profile)
    gains = {u.node.id: costs[id(u)][0] - costs[id(u)][1] for u in integer}
    return Plan(integer, floating, before, after, gains, borders, least, rest)


def _ratio(before: float, after: float) -> float:
    return before / after if after > 0 else 1.0


def _rest_us(graph: Graph, units: Sequence[Unit], probes: Mapping[str, Probe], profile: Profile | None) -> float:
    """Time of the nodes that make float values and are in no unit."""
    if profile is None:
        return 0.0
    inside = {id(n) for u in units for n in (u.node, *u.chain)}
    return sum(
        profile.elements_us(node.op, "float32", sum(probes[t.name].elements for t in node.outputs if t.name in probes))
        for node in graph.nodes
        if id(node) not in inside and any(t.name in probes for t in node.outputs) and node.op not in FREE_OPS
    )


def _float_rule(unit: Unit, target: Target, probes: Mapping[str, Probe]) -> str:
    facts = layer_facts(unit, probes)
    if facts is None:
        return ""
    tests: dict[str, Callable[[FloatRule], bool]] = {
        "depthwise": lambda r: facts.depthwise and facts.channels < r.below,
        "grouped": lambda r: facts.groups > 1 and (facts.outputs % r.below != 0 or facts.kernel < 9),
        "narrow": lambda r: facts.groups == 1 and max(facts.inputs, facts.outputs) < r.below,
        "gemv": lambda r: facts.rows == 1 or min(facts.inputs, facts.outputs) < r.below,
    }
    return next((r.why for r in target.keep_float if r.op == unit.node.op and tests[r.test](r)), "")


def _by_inputs(units: Sequence[Unit], penalties: Mapping[int, float]) -> set[int]:
    """TensorRT: every compute unit; an Add of two branches for the sake of its skip input; MaxPool between them.

    No profile says what they save, so each counts one microsecond against its penalty.
    """
    compute = [
        u for u in units if u.rule.kind == "compute" and not u.why_float and penalties.get(u.node.id, 0.0) <= 1.0
    ]
    quantized = {id(t) for u in compute for t in u.variables}
    chosen = {id(u) for u in compute}
    for unit in units:
        if unit.rule.kind == "pointwise" and not unit.why_float and skip_operands(unit, quantized):
            chosen.add(id(unit))
    return chosen


def skip_operands(unit: Unit, quantized: set[int]) -> list[Tensor]:
    """The operands of a two-branch Add that other kernels read as integers already: its skip connection."""
    if len(unit.variables) < 2:
        return []
    return [t for t in unit.variables if id(t) in quantized]


def _costs(unit: Unit, probes: Mapping[str, Probe], profile: Profile | None) -> tuple[float, float]:
    if unit.why_float:
        return (unit_cost(unit, probes, profile, "float32") if profile and _known(unit, probes) else 0.0), _FOREVER
    if profile is None:
        return (100.0, 0.0) if unit.rule.kind == "compute" else (1.0, 1.0)
    return unit_cost(unit, probes, profile, "float32"), unit_cost(unit, probes, profile, "int8") * _RESERVE


def _known(unit: Unit, probes: Mapping[str, Probe]) -> bool:
    return all(t.name in probes for t in (*unit.variables, *unit.outputs))


class _Network:
    """A flow network under construction. Capacities are integers, in 10 ns."""

    def __init__(self) -> None:
        self.size = 2
        self.edges: dict[tuple[int, int], int] = {}

    def vertex(self) -> int:
        self.size += 1
        return self.size - 1

    def add(self, source: int, sink: int, microseconds: float) -> None:
        key = (source, sink)
        self.edges[key] = min(_FOREVER, self.edges.get(key, 0) + round(min(microseconds, _FOREVER) * 100))

    def value(self, side: set[int], without: set[tuple[int, int]]) -> float:
        """Microseconds of the edges that leave ``side``, those of ``without`` left out."""
        cut = (c for e, c in self.edges.items() if e[0] in side and e[1] not in side and e not in without)
        return sum(cut) / 100

    def source_side(self) -> set[int]:
        """Vertices on the source's side of a minimum cut."""
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import breadth_first_order, maximum_flow

        rows = np.array([k[0] for k in self.edges], np.int32)
        columns = np.array([k[1] for k in self.edges], np.int32)
        capacity = csr_array(
            (np.array(list(self.edges.values()), np.int32), (rows, columns)), shape=(self.size, self.size)
        )
        residual = csr_array(capacity - maximum_flow(capacity, _INTEGER, _FLOAT).flow)
        residual.data = np.maximum(residual.data, 0)
        residual.eliminate_zeros()
        return set(breadth_first_order(residual, _INTEGER, return_predecessors=False).tolist())


_INTEGER, _FLOAT = 0, 1


def _cut(
    graph: Graph,
    units: Sequence[Unit],
    probes: Mapping[str, Probe],
    profile: Profile | None,
    costs: Mapping[int, tuple[float, float]],
    choice: Choice,
    penalties: Mapping[int, float],
) -> tuple[set[int], float]:
    """Ids of the integer units, and what the Q/DQ at their borders cost."""
    network = _Network()
    vertices = {id(u): network.vertex() for u in units}
    for unit in units:
        floating, integer = costs[id(unit)]
        if choice.force(unit) and not unit.why_float:
            floating = _FOREVER
        network.add(_INTEGER, vertices[id(unit)], floating)
        network.add(vertices[id(unit)], _FLOAT, integer + penalties.get(unit.node.id, 0.0))
    producers = {id(t): u for u in units for t in u.outputs}
    readers = consumers_by_tensor(units)
    ends = {id(t) for g in graph.graphs() for t in g.outputs}
    for tensor in _borders(units):
        made = producers.get(id(tensor))
        inside = {id(n) for u, _ in readers.get(id(tensor), []) for n in (u.node, *u.chain)}
        others = id(tensor) in ends or any(id(n) not in inside for n in tensor.outputs)
        consumers = [vertices[id(u)] for u, _ in readers.get(id(tensor), [])]
        _tensor_edges(network, tensor, made, vertices, consumers, others, probes, profile)
    side = network.source_side()
    chosen = {key for key, vertex in vertices.items() if vertex in side}
    ends_of = {(_INTEGER, v) for v in vertices.values()} | {(v, _FLOAT) for v in vertices.values()}
    return chosen, network.value(side, ends_of)


def _borders(units: Sequence[Unit]) -> list[Tensor]:
    found = {id(t): t for u in units for t in (*u.variables, *u.outputs) if not is_constant(t)}
    return list(found.values())


def _tensor_edges(
    network: _Network,
    tensor: Tensor,
    made: Unit | None,
    vertices: Mapping[int, int],
    consumers: Sequence[int],
    others: bool,
    probes: Mapping[str, Probe],
    profile: Profile | None,
) -> None:
    """The cost of a Q before integer readers of a float value, and of a DQ before float readers of an integer one."""
    elements = probes[tensor.name].elements if tensor.name in probes else 0
    layout = any(n.op in _CONVOLUTIONS for n in (*tensor.outputs, *([made.node] if made else tensor.inputs)))
    border = profile.border_us(elements, layout) if profile else 1.0
    producer = _FLOAT if made is None else vertices[id(made)]
    if consumers:
        reads_integer = network.vertex()
        for consumer in consumers:
            network.add(consumer, reads_integer, _FOREVER)
        network.add(reads_integer, producer, border)
    if made is not None and made.rule.output == "required":
        reads_float = network.vertex()
        for consumer in [*consumers, *([_FLOAT] if others else [])]:
            network.add(reads_float, consumer, _FOREVER)
        network.add(producer, reads_float, border)
