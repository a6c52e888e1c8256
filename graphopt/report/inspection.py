"""What ``inspect`` found, as tables."""

from __future__ import annotations

from rich.console import RenderableType
from rich.table import Table

from graphopt.analysis.inspection import Inspection
from graphopt.report.terminal import human_bytes
from graphopt.transforms.prunability import Prunability


def inspection_items(name: str, found: Inspection) -> list[RenderableType]:
    """A headline, the interface, operators by cost, and the heaviest nodes."""
    size = human_bytes(found.weight_bytes)
    macs = "not known (give --dim)" if found.macs is None else f"{found.macs:,}"
    opsets = ", ".join(f"{domain} {version}" for domain, version in found.opsets.items())
    types = ", ".join(f"{count:,} {kind}" for kind, count in found.types.items())
    head = [
        f"{name}: {found.nodes:,} nodes, {found.parameters:,} parameters, {size}, MACs {macs}",
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
    heaviest = _table("Heaviest nodes", ("node", "operator", "MACs", "parameters", "MACs a byte"), right=(2, 3, 4))
    for cost in found.heaviest:
        if cost.macs:
            heaviest.add_row(cost.node, cost.op, f"{cost.macs:,}", f"{cost.parameters:,}", f"{cost.intensity:.1f}")
    return ["\n".join(head), operators, heaviest]


def prunability_items(found: Prunability, limit: int | None) -> list[RenderableType]:
    """The share that can be pruned, the classes of units, and the reasons for the rest."""
    classes = _table(f"{len(found.classes)} classes of units", ("units", "nodes that shrink with them"), right=(0,))
    for row in found.classes[:limit]:
        classes.add_row(str(row.units), ", ".join(row.nodes))
    if limit is not None and len(found.classes) > limit:
        classes.caption = f"{len(found.classes) - limit} more; -v or --json shows all"
    frozen = _table("Frozen axes", ("why", "MACs of the nodes"), right=(1,))
    for reason, share in list(found.frozen.items())[:limit]:
        frozen.add_row(reason, f"{share:.1%}")
    return [f"removable: nodes with {found.removable:.1%} of the MACs have a free axis", classes, frozen]


def _table(title: str, columns: tuple[str, ...], right: tuple[int, ...]) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index in right else "left", overflow="fold")
    return table
