"""Time per node, from ONNX Runtime's own profiler."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from graphopt.data.feeds import Feeds
from graphopt.errors import UnsupportedError
from graphopt.results import NodeTime
from graphopt.runtime.session import Session, SessionConfig

_SUFFIX = "_kernel_time"


@dataclass
class _Node:
    op: str
    provider: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    calls: int
    per_run: dict[int, float]


def profile_nodes(
    model: bytes | Path, feeds: Feeds, config: SessionConfig | None = None, *, runs: int = 20, warmup: int = 3
) -> tuple[NodeTime, ...]:
    """Run ``runs`` times after ``warmup`` and give the nodes of the optimized graph, slowest first.

    A node that runs several times in one run (in a Loop) counts with its sum.
    """
    with tempfile.TemporaryDirectory() as folder:
        session = Session(model, replace(config or SessionConfig(), profile_prefix=Path(folder) / "profile"))
        for _ in range(warmup + runs):
            session.run(feeds)
        return parse_profile(session.end_profiling(), warmup)


def parse_profile(path: Path, warmup: int = 0) -> tuple[NodeTime, ...]:
    """Read a profile file, the first ``warmup`` runs left out. UnsupportedError when it holds no finished run."""
    events = json.loads(path.read_text("utf-8"))
    windows = sorted(
        (event["ts"], event["ts"] + event["dur"])
        for event in events
        if event.get("cat") == "Session" and event.get("name") == "model_run"
    )[warmup:]
    if not windows:
        raise UnsupportedError(f"{path} holds no finished run; this ONNX Runtime writes another profile format")
    nodes = _collect(events, windows)
    medians = {name: _median(node, len(windows)) for name, node in nodes.items()}
    total = sum(medians.values()) or 1.0
    times = [
        NodeTime(
            name, node.op, node.provider, medians[name], medians[name] / total, node.calls, node.inputs, node.outputs
        )
        for name, node in nodes.items()
    ]
    return tuple(sorted(times, key=lambda time: (-time.microseconds, time.name)))


def _collect(events: Iterable[Mapping[str, Any]], windows: list[tuple[int, int]]) -> dict[str, _Node]:
    nodes: dict[str, _Node] = {}
    ordered = sorted(
        (event for event in events if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX)),
        key=lambda event: int(event["ts"]),
    )
    run = 0
    for event in ordered:
        while run < len(windows) and event["ts"] > windows[run][1]:
            run += 1
        if run == len(windows) or event["ts"] < windows[run][0]:
            continue
        args = event["args"]
        node = nodes.setdefault(
            event["name"].removesuffix(_SUFFIX),
            _Node(
                args.get("op_name", ""),
                args.get("provider", ""),
                _shapes(args.get("input_type_shape")),
                _shapes(args.get("output_type_shape")),
                0,
                defaultdict(float),
            ),
        )
        node.calls += 1
        node.per_run[run] += event["dur"]
    return nodes


def _median(node: _Node, runs: int) -> float:
    """Median over all runs; one in which the node did not run (an If branch) counts as zero."""
    return float(median([node.per_run.get(run, 0.0) for run in range(runs)]))


def _shapes(value: Any) -> tuple[str, ...]:
    return tuple(
        f"{dtype}[{','.join(str(dim) for dim in shape)}]" for entry in value or () for dtype, shape in entry.items()
    )
