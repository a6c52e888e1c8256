"""What ``inspect`` found, as tables."""

from __future__ import annotations

from rich.console import RenderableType
from rich.table import Table

from graphopt.analysis.inspection import Inspection
from graphopt.report.words import human_bytes
from graphopt.results import counted
from graphopt.transforms.prune.inspection import Prunable


def inspection_items(name: str, found: Inspection) -> list[RenderableType]:
    """A headline, the interface, and operators by cost."""
    size = human_bytes(found.weight_bytes)
    missing = " ".join(f"--dim {name}=N" for name in found.unbound_dims)
    macs = f"not known (give {missing})" if missing else "not known" if found.macs is None else f"{found.macs:,}"
    opsets = ", ".join(f"{domain} {version}" for domain, version in found.opsets.items())
    types = ", ".join(f"{count:,} {kind}" for kind, count in found.types.items())
    head = [
        f"{name}: {counted(found.nodes, 'node')}, {counted(found.parameters, 'parameter')}, {size}, MACs {macs}",
        f"opset {opsets}; IR {found.ir_version}; made by {found.producer or 'unknown'}; weights: {types or 'none'}",
        *(f"input   {line}" for line in found.inputs),
        *(f"output  {line}" for line in found.outputs),
    ]
    if found.quantized_nodes:
        head.append(f"already quantized: {found.quantized_nodes} Q/DQ nodes")
    operators = _table("Operators", ("operator", "nodes", "MACs", "share", "parameters"), right=(1, 2, 3, 4))
    for row in found.operators:
        share = f"{row.share:.1%}" if row.macs else ""
        operators.add_row(row.operator, f"{row.nodes:,}", f"{row.macs:,}", share, f"{row.parameters:,}")
    return ["\n".join(head), operators]


def heaviest_table(found: Inspection) -> Table:
    """The nodes with most MACs."""
    heaviest = _table("Heaviest nodes", ("node", "operator", "MACs", "parameters", "MACs a byte"), right=(2, 3, 4))
    for cost in found.heaviest:
        if cost.macs:
            heaviest.add_row(cost.node, cost.op, f"{cost.macs:,}", f"{cost.parameters:,}", f"{cost.intensity:.1f}")
    return heaviest


def prunable_items(found: Prunable, limit: int | None) -> list[RenderableType]:
    """The share that can be pruned, the classes of units, and the reasons for the rest."""
    head = (
        f"prunable: nodes with {found.macs_share:.1%} of the weighted MACs and weights with "
        f"{found.parameters_share:.1%} of the parameters have a free axis; {found.units:,} units"
    )
    classes = _table(f"{len(found.families)} classes of units", ("first weight that shrinks", "units"), right=(1,))
    for name, count in found.families[:limit]:
        classes.add_row(name, str(count))
    if limit is not None and len(found.families) > limit:
        classes.caption = f"{len(found.families) - limit} more; -v or --json shows all"
    frozen = _table("Frozen weight axes", ("why", "axes", "MACs of the nodes", "nodes"), right=(1, 2))
    for row in found.frozen[:limit]:
        nodes = ", ".join(row.nodes[:4]) + (f" and {len(row.nodes) - 4} more" if len(row.nodes) > 4 else "")
        frozen.add_row(row.reason, str(row.axes), f"{row.macs_share:.1%}", nodes)
    without = [f"no rule, so frozen: {', '.join(found.without_rule)}"] if found.without_rule else []
    return [head, classes, frozen, *without]


def _table(title: str, columns: tuple[str, ...], right: tuple[int, ...]) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index in right else "left", overflow="fold")
    return table
