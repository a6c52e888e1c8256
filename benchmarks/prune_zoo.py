"""Prunes every graph of the architecture zoo at one ratio and proves each result; prints a table.

    python benchmarks/prune_zoo.py [--ratio 0.5] [--align 1] [--only GLOB]... [--skip-checks] [--out FILE.md]

The zoo is ``../shared/zoo`` beside the repository, or ``GRAPHOPT_ZOO``. Weights are random: nothing here is accuracy.
Seconds are CPU time of analysis, selection and slicing, without reading weights from disk and without the check.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import json
import os
import statistics
import sys
import time
import tomllib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType

from graphopt import load
from graphopt.analysis.labels import analyse
from graphopt.errors import GraphoptError
from graphopt.transforms.prune import masking, slicing
from graphopt.transforms.prune.criteria import CRITERIA, score
from graphopt.transforms.prune.equivalence import check
from graphopt.transforms.prune.inspection import prunable
from graphopt.transforms.prune.selection import Policy, by_ratio, macs, parameters
from graphopt.transforms.prune.selection_units import find_units
from graphopt.transforms.prune.shuffles import opened

ROOT = Path(__file__).resolve().parent.parent
ZOO = Path(os.environ.get("GRAPHOPT_ZOO", ROOT.parent / "shared" / "zoo"))
GOAL = 0.25


@dataclass
class Row:
    """One graph's result."""

    name: str
    nodes: int = 0
    macs_gone: float = 0.0
    params_gone: float = 0.0
    share: float = 0.0
    error: float = float("nan")
    probe_error: float = float("nan")
    tested: int = 0
    inconclusive: int = 0
    unstable: int = 0
    seconds: float = 0.0
    failure: str = ""
    ill_conditioned: bool = False
    frozen: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Reached the goal and was proven."""
        return not self.failure and not self.ill_conditioned and self.macs_gone >= GOAL


def fill_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("zoo_fill", ZOO / "fill.py")
    if spec is None or spec.loader is None:
        raise SystemExit(f"no zoo in {ZOO}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measure(fill: ModuleType, path: Path, ratio: float, align: int, checks: bool) -> Row:
    row = Row(path.name.removesuffix(".onnx.gz"))
    proto = fill.fill(str(path))
    model = load(proto.SerializeToString())
    names = {t.name for t in model.graph.inputs}
    feeds = {k: v for k, v in fill.random_inputs(proto, 1).items() if k in names}
    row.nodes = len(model.graph.nodes)
    for constant in model.graph.initializers:
        _ = constant.values
    start = time.process_time()
    coupling, _ = opened(model.graph, analyse(model.graph), lambda: analyse(model.graph))
    units = find_units(coupling)
    keep = by_ratio(units, score(units, CRITERIA["l1"]), Policy(ratio, align=align))
    row.seconds = time.process_time() - start
    found = prunable(units)
    row.share = found.macs_share
    row.frozen = [f"{f.reason} ({f.macs_share:.0%})" for f in found.frozen[:3]]
    row.macs_gone = 1 - macs(units, keep) / max(macs(units, None), 1.0)
    row.params_gone = 1 - parameters(units, keep) / max(parameters(units, None), 1.0)
    oracle = masking.build(model, coupling, keep) if checks else None
    start = time.process_time()
    slicing.apply(keep)
    row.seconds += time.process_time() - start
    if oracle is not None:
        result = check(model, oracle, coupling, keep, feeds, units.families, max_families=6)
        row.error, row.probe_error, row.tested = result.error, result.probe_error, result.tested
        row.inconclusive, row.unstable = len(result.inconclusive), len(result.unstable)
        row.ill_conditioned = result.ill_conditioned
        if not result.passed:
            row.failure = "masked equivalence fails"
    return row


def table(rows: list[Row], ratio: float, align: int, excused: dict[str, str]) -> str:
    done = [r for r in rows if not r.failure]
    good = [r for r in rows if r.good or r.name in excused]
    lines = [
        f"# Zoo at ratio={ratio:g}, align={align}",
        "",
        "Random weights: nothing here says anything about accuracy. Error: largest difference from the masked model",
        "over the range of the output (and of probed inner tensors), ONNX Runtime CPU, optimizations off, float32.",
        "Prunable: share of the MACs of weighted nodes that have an unfrozen weight axis. Seconds: CPU time of",
        "analysis, selection and slicing. Swapped: unit classes exchanged in the power test / inconclusive ones.",
        "",
        f"- graphs: {len(rows)}; pruned, proven and {GOAL:.0%} or more of the MACs gone: {len(good)}",
        f"- failures: {sum(1 for r in rows if r.failure)}; no proof because ill-conditioned: "
        f"{sum(1 for r in rows if r.ill_conditioned)}; proven but under the goal: "
        f"{sum(1 for r in done if r.macs_gone < GOAL and r.name not in excused)}; excused: {len(excused)}",
    ]
    if done:
        lines += [
            f"- MACs gone, median: {statistics.median(r.macs_gone for r in done):.1%}; "
            f"parameters gone, median: {statistics.median(r.params_gone for r in done):.1%}",
            f"- prunable share of MACs, mean: {statistics.mean(r.share for r in done):.1%}",
            f"- classes exchanged: {sum(r.tested for r in done)}, inconclusive: {sum(r.inconclusive for r in done)}",
            f"- seconds, largest: {max(r.seconds for r in done):.2f} "
            f"({max(done, key=lambda r: r.seconds).name}); sum of all: {sum(r.seconds for r in done):.1f}",
        ]
    lines += [
        "",
        "| graph | nodes | MACs gone | params gone | prunable | error | probes | swapped | s | frozen by, or why not |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        ill = "ill-conditioned: one rounding unit at the inputs moves the outputs as far" if r.ill_conditioned else ""
        why = r.failure or ill or excused.get(r.name, "") or "; ".join(r.frozen)
        lines.append(
            f"| {r.name} | {r.nodes} | {r.macs_gone:.1%} | {r.params_gone:.1%} | {r.share:.1%} | {r.error:.1e} | "
            f"{r.probe_error:.1e} | {r.tested}/{r.inconclusive} | {r.seconds:.2f} | {why} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--align", type=int, default=1)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--skip-checks", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--part", default="0/1", help="I/N: only every Nth graph, starting at the Ith")
    parser.add_argument("--rows", type=Path, help="write the rows as JSON as they come, for --merge")
    parser.add_argument("--resume", action="store_true", help="go on where the file of --rows ends")
    parser.add_argument("--merge", type=Path, nargs="+", help="no run: join rows into one table, later files win")
    options = parser.parse_args()
    fill = fill_module()
    exceptions = ROOT / "benchmarks" / "exceptions.toml"
    excused = tomllib.loads(exceptions.read_text())["prune"] if exceptions.is_file() else {}
    rows: list[Row] = []
    if options.resume and options.rows and options.rows.is_file():
        rows = [Row(**r) for r in json.loads(options.rows.read_text())]
    done = {r.name for r in rows}
    merged = {r["name"]: Row(**r) for part in options.merge or [] for r in json.loads(part.read_text())}
    rows += sorted(merged.values(), key=lambda r: r.name)
    index, count = map(int, options.part.split("/"))
    for path in [] if options.merge else sorted(ZOO.glob("*.onnx.gz"))[index::count]:
        name = path.name.removesuffix(".onnx.gz")
        if name in done or (options.only and not any(fnmatch.fnmatchcase(name, p) for p in options.only)):
            continue
        try:
            row = measure(fill, path, options.ratio, options.align, not options.skip_checks)
        except (GraphoptError, RuntimeError, ValueError, IndexError, KeyError, AssertionError, OverflowError) as error:
            row = Row(name, failure=f"{type(error).__name__}: {str(error).splitlines()[0][:150]}")
        rows.append(row)
        if options.rows:
            options.rows.write_text(json.dumps([asdict(r) for r in rows], indent=1))
        state = row.failure or ("ok" if row.good else "no proof" if row.ill_conditioned else "under the goal")
        print(f"{name}: -{row.macs_gone:.1%} MACs, error {row.error:.1e}, {row.seconds:.2f} s, {state}", flush=True)
    text = table(rows, options.ratio, options.align, excused)
    if options.out:
        options.out.write_text(text)
    else:
        print(text)
    return 0 if all(r.good or r.name in excused for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
