"""The operator table: one row per operator, by domain. A missing row freezes the node and names it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from graphopt.analysis.labels.rows import (
    attention,
    conv,
    elementwise,
    fused,
    index,
    integer,
    matmul,
    movement,
    nd_index,
    norm,
    pool,
    quant,
    recurrent,
    reduce,
)
from graphopt.analysis.labels.site import Rule

OpKey = tuple[str, str]
_MODULES = (
    attention, conv, elementwise, fused, index, integer, matmul, movement, nd_index, norm, pool, quant,
    recurrent, reduce,
)  # fmt: skip


def builtin() -> Mapping[OpKey, Rule]:
    """(domain, operator) to rule, for all operators that graphopt knows."""
    table: dict[OpKey, Rule] = {}
    for module in _MODULES:
        for op, rule in module.ROWS.items():
            domain, _, name = op.rpartition(":")
            table[domain, name] = rule
    return MappingProxyType(table)
