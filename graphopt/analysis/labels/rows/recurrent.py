"""LSTM, GRU, RNN: hidden unit k owns row g*H+k of every gate g, column k of R, and position k of every state."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from graphopt.analysis.labels.site import Rule, Site
from graphopt.analysis.labels.space import Axis

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def recurrent(site: Site) -> None:
    """X, W[D, G*H, I], R[D, G*H, H], B[D, 2*G*H], lens, h0, c0, P. Both directions lose the same units."""
    gates = _GATES[site.node.op]
    x, w, r = site.axes(0), site.axes(1), site.axes(2)
    hidden = r[2]
    rows = site.merge([site.stuck(gates, "(gates)"), hidden])
    site.equal(rows, w[1])
    site.equal(rows, r[1])
    site.equal(x[2], w[2])
    site.mask(0, 2)
    site.mask(2, 2)
    _states(site, rows, hidden)
    steps = float(site.shape(0)[0] * site.shape(0)[1] * site.shape(1)[0])
    site.cost(steps, (rows, x[2]))
    site.cost(steps, (rows, hidden))


def _states(site: Site, rows: Axis, hidden: Axis) -> None:
    """Biases, states, peepholes and outputs; direction and batch stay."""
    x = site.axes(0)
    if site.has(3):
        site.equal(site.merge([site.stuck(2), rows]), site.axes(3)[1])
    for index in (5, 6):
        if site.has(index):
            site.equal(site.axes(index)[-1], hidden)
    if site.has(7):
        site.equal(site.merge([site.stuck(3), hidden]), site.axes(7)[1])
    for index in range(1, site.inputs):
        if site.has(index):
            for axis in site.axes(index)[: 2 if index in (5, 6) else 1]:
                site.freeze(axis, "(direction or batch)")
    for axis in x[:2]:
        site.freeze(axis, "(sequence or batch)")
    for index, tensor in enumerate(site.node.outputs):
        if not tensor.is_empty():
            made: list[Axis] = [site.stuck(e, "(sequence, batch or direction)") for e in site.out(index)[:-1]]
            site.emit([*made, hidden], index)
    site.fix_attr("hidden_size", lambda kept: kept.count(hidden) if kept.changed(hidden) else None)


def dynamic_lstm(site: Site) -> None:
    """com.microsoft DynamicQuantizeLSTM: W[D, I, 4 H] and R[D, H, 4 H] in integers. The input is quantized over a range
    that always holds zero, so inputs may go; so is the state, inside, where no mask reaches: hidden units stay."""
    x = site.axes(0)
    site.equal(x[2], site.axes(1)[1])
    site.mask(0, 2)
    site.freeze(site.axes(1)[0], "(direction)")
    site.freeze(site.axes(1)[2], "(its state is quantized over all units)")
    for index in range(2, site.inputs):
        site.freeze_input(index, "(its state is quantized over all units)")
    for axis in x[:2]:
        site.freeze(axis, "(sequence or batch)")
    for index, tensor in enumerate(site.node.outputs):
        if not tensor.is_empty():
            site.emit([site.stuck(e, "(its state is quantized over all units)") for e in site.out(index)], index)
    steps = float(prod(site.shape(0)[:2]) * site.shape(1)[0])
    site.cost(steps * site.shape(1)[2], (x[2],))
    site.cost(steps * prod(site.shape(2)[1:]), ())


ROWS: Mapping[str, Rule] = {
    **dict.fromkeys(_GATES, recurrent),
    "com.microsoft:DynamicQuantizeLSTM": dynamic_lstm,
}
