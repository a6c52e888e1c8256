"""Numbers nodes for runtimes that tell about them by name: any name, missing or double, finds its node again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from graphopt.ir import Node

MARK = re.compile(r"graphopt_node_\d+_")


def display_names(nodes: Sequence[Node]) -> list[str]:
    """A name for each node, in order: its own, or its first output's; a number where two have the same."""
    names: list[str] = []
    seen: dict[str, int] = {}
    for node in nodes:
        name = node.name or next((t.name for t in node.outputs if t.name), node.op)
        count = seen.get(name, 0)
        seen[name] = count + 1
        names.append(f"{name}#{count}" if count else name)
    return names


def mark_nodes(nodes: Sequence[Node]) -> Mapping[str, str]:
    """Rename the nodes (of a clone) to their marks; gives mark -> display name."""
    names = {f"graphopt_node_{index}_": name for index, name in enumerate(display_names(nodes))}
    for mark, node in zip(names, nodes, strict=True):
        node.name = mark
    return names
