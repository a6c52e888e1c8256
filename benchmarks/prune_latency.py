"""Times zoo graphs of more than 10 MMACs before and after pruning, with align=1 and align=auto, on ONNX Runtime's CPU.

    python benchmarks/prune_latency.py [--ratio 0.5] [--only GLOB]... [--part I/N] [--rows FILE] [--merge FILE...]

Three models take turns; the ratio of every pruned one to the original comes with its interval over sessions, and
"slower" needs a second run that agrees (docs: bench). Weights are random, so only widths and speed mean anything.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from prune_zoo import ZOO, fill_module

from graphopt import load
from graphopt.analysis.cost import node_costs
from graphopt.errors import GraphoptError
from graphopt.ir import Array
from graphopt.model import Model
from graphopt.pipeline import PassManager, Pipeline, Registry
from graphopt.results import Timing, TimingReport
from graphopt.runtime.cpu import cpu_info
from graphopt.runtime.session import Session
from graphopt.runtime.timing import Contender, TimingPlan, time_models

SMALLEST = 10e6
ALIGNS = ("1", "auto")


@dataclass
class Row:
    """One graph: MACs and milliseconds before, and for each alignment the share of MACs kept, milliseconds, speedup
    with its interval, and the verdict."""

    name: str
    macs: float
    ms: float
    kept: dict[str, float]
    pruned_ms: dict[str, float]
    speedup: dict[str, tuple[float, float, float]]
    verdict: dict[str, str]
    failure: str = ""


def macs_of(model: Model, dims: dict[str, int]) -> float:
    return float(sum(c.macs for c in node_costs(model, dims)))


def dims_of(model: Model, feeds: dict[str, Array]) -> dict[str, int]:
    found: dict[str, int] = {}
    for tensor in model.graph.inputs:
        for extent, have in zip(tensor.shape or (), feeds[tensor.name].shape, strict=True):
            if isinstance(extent, str):
                found[extent] = have
    return found


def measure(name: str, source: bytes, feeds: dict[str, Array], ratio: float, plan: TimingPlan) -> Row:
    model = load(source)
    whole = macs_of(model, dims_of(model, feeds))
    row = Row(name, whole, 0.0, {}, {}, {}, {})
    files = {"original": source}
    for align in ALIGNS:
        pruned, registry = load(source), Registry()
        text = f"prune:ratio={ratio:g}:align={align}:verify=false"
        PassManager(registry).run(pruned, Pipeline.parse(text, registry))
        row.kept[align] = macs_of(pruned, dims_of(pruned, feeds)) / whole
        files[align] = pruned.serialize()
    contenders = [
        Contender(key, Session(data), feeds, reopen=lambda data=data: Session(data)) for key, data in files.items()
    ]
    report: TimingReport = time_models(contenders, plan)
    row.ms = report.timings[0].wall_ms
    for timing in report.timings[1:]:
        row.pruned_ms[timing.name] = timing.wall_ms
        row.speedup[timing.name] = speedup(timing)
        row.verdict[timing.name] = timing.verdict
    return row


def speedup(timing: Timing) -> tuple[float, float, float]:
    found = timing.speedup
    return (found.value, found.low, found.high) if found is not None else (float("nan"),) * 3


def table(rows: list[Row], ratio: float) -> str:
    cpu = cpu_info()
    done = [r for r in rows if not r.failure]
    lines = [
        f"# Latency of zoo graphs over 10 MMACs, pruned at ratio={ratio:g}",
        "",
        f"{cpu.model}; ONNX Runtime CPU, one thread, all optimizations; random weights. Speedup: original over",
        "pruned, with the 95 % interval over sessions. Slower: the interval lies under 0.97 and a second run agrees.",
        "",
        f"- graphs: {len(rows)}, failures: {len(rows) - len(done)}",
        *(f"- align={a}: {verdicts([r.verdict[a] for r in done])}" for a in ALIGNS),
        "",
        "| graph | MMACs | ms | MACs kept, align=1 | speedup | MACs kept, auto | speedup | auto is |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        if r.failure:
            lines.append(f"| {r.name} | {r.macs / 1e6:.0f} | | | | | | {r.failure} |")
            continue
        ratios = {a: "{:.2f} ({:.2f}-{:.2f})".format(*r.speedup[a]) for a in ALIGNS}
        cells = [f"{r.kept[a]:.0%} | {ratios[a]}" for a in ALIGNS]
        lines.append(f"| {r.name} | {r.macs / 1e6:.0f} | {r.ms:.2f} | {' | '.join(cells)} | {r.verdict['auto']} |")
    return "\n".join(lines) + "\n"


def verdicts(found: list[str]) -> str:
    others = len(found) - found.count("slower") - found.count("faster")
    return f"slower {found.count('slower')}, faster {found.count('faster')}, neither {others}"


def chosen(options: argparse.Namespace) -> list[Path]:
    index, count = map(int, options.part.split("/"))
    paths = [p for p in sorted(ZOO.glob("*.onnx.gz")) if not options.only or matches(p, options.only)]
    return paths[index::count]


def matches(path: Path, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(path.name.removesuffix(".onnx.gz"), p) for p in patterns)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--part", default="0/1", help="I/N: only every Nth graph, starting at the Ith")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rows", type=Path, help="write the rows as JSON, for --merge")
    parser.add_argument("--merge", type=Path, nargs="+", help="no run: join rows into one table, later files win")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    merged = {r["name"]: Row(**r) for part in options.merge or [] for r in json.loads(part.read_text())}
    rows = sorted(merged.values(), key=lambda r: r.name)
    fill = fill_module()
    for path in [] if options.merge else chosen(options):
        name = path.name.removesuffix(".onnx.gz")
        proto = fill.fill(str(path))
        names = {i.name for i in proto.graph.input}
        feeds = {k: v for k, v in fill.random_inputs(proto, 1).items() if k in names}
        source = proto.SerializeToString()
        model = load(source)
        whole = macs_of(model, dims_of(model, feeds))
        if whole < SMALLEST:
            continue
        try:
            row = measure(name, source, feeds, options.ratio, TimingPlan(rounds=options.rounds))
        except (GraphoptError, RuntimeError) as error:
            row = Row(name, whole, 0.0, {}, {}, {}, {}, f"{type(error).__name__}: {str(error)[:120]}")
        rows.append(row)
        print(f"{name}: {row.failure or row.speedup} {row.verdict}", flush=True)
        if options.rows:
            options.rows.write_text(json.dumps([asdict(r) for r in rows], indent=1))
    text = table(rows, options.ratio)
    if options.out:
        options.out.write_text(text)
    else:
        print(text)
    return 0 if all(not r.failure and r.verdict["auto"] != "slower" for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
