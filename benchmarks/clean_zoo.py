"""Cleans every graph of the architecture zoo with graphopt and its peers: nodes left, time, equality.

    python benchmarks/clean_zoo.py [--tools graphopt,onnxslim] [--match '*.torchscript*'] [--peers-python PYTHON]
                                   [--records FILE] [--out benchmarks/results/clean_zoo.md]

Each (tool, graph) runs in a process of its own with a time limit; its start is not timed. A graph is filled with
seeded weights first. Nodes are those other than Constant, nested graphs included, functions inlined. The result is
compared with the original in ONNX Runtime without optimizations. Finished records are kept and not run again.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ZOO = Path(os.environ.get("GRAPHOPT_ZOO", ROOT.parent / "shared" / "zoo"))
TOOLS = ("graphopt", "graphopt_smallest", "onnxslim", "onnxsim", "onnxoptimizer", "onnxscript")
LIMIT = 120
Record = dict[str, Any]


def zoo_module() -> ModuleType:
    """The zoo's own loader."""
    spec = importlib.util.spec_from_file_location("zoo_fill", ZOO / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _graphopt(text: str) -> Callable[[Any], Any]:
    from graphopt import load
    from graphopt.pipeline import PassManager, Pipeline, Registry

    registry = Registry()
    pipeline = Pipeline.parse(text, registry)
    PassManager(registry).plan(pipeline)

    def clean(proto: Any) -> Any:
        model = load(proto)
        PassManager(registry).run(model, pipeline)
        return model.to_proto()

    return clean


def tool(name: str) -> Callable[[Any], Any]:
    """The function that cleans a ModelProto, imported before it is timed."""
    match name:
        case "graphopt":
            return _graphopt("cleanup")
        case "graphopt_smallest":
            return _graphopt("cleanup:keep_gelu=false")
        case "onnxslim":
            import onnxslim

            return onnxslim.slim
        case "onnxsim":
            import onnxsim

            return lambda proto: onnxsim.simplify(proto)[0]
        case "onnxoptimizer":
            import onnxoptimizer

            return onnxoptimizer.optimize
        case _:
            from onnxscript import optimizer

            return optimizer.optimize


def nodes_of(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes_of(attribute.g)
            for inner in attribute.graphs:
                yield from nodes_of(inner)


def count(proto: Any) -> dict[str, int]:
    """Nodes by operator, functions inlined, Constant left out."""
    import onnx.inliner

    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    found: dict[str, int] = {}
    for node in nodes_of(proto.graph):
        if node.op_type != "Constant":
            found[node.op_type] = found.get(node.op_type, 0) + 1
    return found


def difference(before: Any, after: Any, feeds: dict[str, Any]) -> float:
    """Largest error over an output's range; infinite when shapes, types or the interface differ."""
    import numpy as np
    import onnx
    import onnxruntime as ort

    onnx.checker.check_model(after, full_check=True)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    results = []
    for proto in (before, after):
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        face = [[(i.name, i.type) for i in side] for side in (session.get_inputs(), session.get_outputs())]
        needed = {i.name for i in session.get_inputs()}
        results.append((face, session.run(None, {k: v for k, v in feeds.items() if k in needed})))
    if results[0][0] != results[1][0]:
        return math.inf
    worst = 0.0
    for a, b in zip(results[0][1], results[1][1], strict=True):
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape or a.dtype != b.dtype:
            return math.inf
        if a.dtype.kind != "f":
            worst = max(worst, 0.0 if np.array_equal(a, b) else math.inf)
        elif a.size:
            spread = max(float(np.abs(a).max()), 1e-30)
            worst = max(worst, float(np.abs(a.astype(np.float64) - b).max()) / spread)
    return worst


def work(name: str, file: str) -> Record:
    """Clean one graph with one tool, in this process."""
    zoo = zoo_module()
    proto = zoo.fill(str(ZOO / file))
    source = proto.SerializeToString()
    clean = tool(name)
    wall, cpu = time.perf_counter(), time.process_time()
    result = clean(proto)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    touched = proto.SerializeToString() != source
    original = type(proto).FromString(source)
    left, had = count(result), count(original)
    record: Record = {"tool": name, "file": file, "before": sum(had.values()), "after": sum(left.values())}
    record |= {"wall": wall, "cpu": cpu, "hist": left, "input_changed": touched}
    record["difference"] = difference(original, result, zoo.random_inputs(original, 1))
    return record


def run(name: str, file: str, python: str) -> Record:
    """``work`` in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [python, __file__, "--worker", name, file]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return {"tool": name, "file": file, "error": f"over {LIMIT} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        return {"tool": name, "file": file, "error": lines[-1][:200]}
    found: Record = json.loads(done.stdout.splitlines()[-1])
    return found


def table(records: list[Record]) -> str:
    """Markdown: a summary for each tool, then a row for each graph."""
    by_file: dict[str, dict[str, Record]] = {}
    for record in records:
        by_file.setdefault(record["file"], {})[record["tool"]] = record
    tools = [t for t in TOOLS if any(t in r for r in by_file.values())]
    return "\n".join([*_summary(by_file, tools), "", *_rows(by_file, tools), ""])


def _summary(by_file: dict[str, dict[str, Record]], tools: list[str]) -> list[str]:
    lines = ["| tool | graphs | failed | nodes | not equal | not compared | input changed | at most the better peer |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for name in tools:
        made = [r[name] for r in by_file.values() if name in r]
        good = [r for r in made if "after" in r]
        unequal = sum(1 for r in good if r.get("difference") is not None and r["difference"] > 1e-5)
        unknown = sum(1 for r in good if r.get("difference") is None)
        touched = sum(1 for r in good if r.get("input_changed"))
        pairs = [
            (r[name]["after"], best) for r in by_file.values() if (best := _best(r)) and "after" in r.get(name, {})
        ]
        level = sum(1 for own, best in pairs if own <= best)
        share = f"{level} of {len(pairs)} ({level / len(pairs):.1%})" if pairs else ""
        nodes = sum(r["after"] for r in good)
        figures = (name, len(made), len(made) - len(good), nodes, unequal, unknown, touched, share)
        lines.append(f"| {' | '.join(map(str, figures))} |")
    return [*lines, "", *_totals(by_file, tools)]


def _totals(by_file: dict[str, dict[str, Record]], tools: list[str]) -> list[str]:
    """Sums over the graphs that every tool finished, and mean time ratios over the larger ones."""
    common = [r for r in by_file.values() if all("after" in r.get(t, {}) for t in tools)]
    sums = ", ".join(f"{t} {sum(r[t]['after'] for r in common)}" for t in tools)
    lines = [f"Nodes over the {len(common)} graphs that all of them finished: {sums}."]
    for name in (t for t in tools if t != "graphopt" and "graphopt" in tools):
        large = [r for r in common if r["graphopt"]["before"] > 200]
        if large:
            ratio = math.exp(sum(math.log(r["graphopt"]["cpu"] / r[name]["cpu"]) for r in large) / len(large))
            lines.append(f"CPU time of graphopt over {name}, geometric mean of {len(large)} graphs: {ratio:.2f}.")
    return lines


def _best(row: dict[str, Record]) -> int | None:
    found = [row[t]["after"] for t in ("onnxslim", "onnxsim") if "after" in row.get(t, {})]
    return min(found) if found else None


def _rows(by_file: dict[str, dict[str, Record]], tools: list[str]) -> list[str]:
    lines = ["Nodes left, CPU seconds, largest error over the output's range.", ""]
    lines += ["| graph | nodes | " + " | ".join(tools) + " |", "|---|---|" + "---|" * len(tools)]
    for file, row in sorted(by_file.items()):
        before = next((r["before"] for r in row.values() if "before" in r), "")
        cells = " | ".join(_cell(row.get(t)) for t in tools)
        lines.append(f"| {file.removesuffix('.onnx.gz')} | {before} | {cells} |")
    return lines


def _cell(record: Record | None) -> str:
    if record is None:
        return ""
    if "error" in record:
        return "failed"
    error = record.get("difference")
    return f"{record['after']}, {record['cpu']:.2f} s, {'not compared' if error is None else f'{error:.0e}'}"


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tools", default=",".join(TOOLS))
    parser.add_argument("--match", default="*")
    parser.add_argument("--peers-python", default=sys.executable)
    parser.add_argument("--records", type=Path, default=ROOT / "build" / "clean_zoo.jsonl")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--in-process", action="store_true", help="no process and no time limit for each graph")
    parser.add_argument("--worker", nargs=2)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(*options.worker)))
        return
    options.records.parent.mkdir(parents=True, exist_ok=True)
    known = options.records.read_text().splitlines() if options.records.exists() else []
    records: list[Record] = [json.loads(line) for line in known]
    done = {(r["tool"], r["file"]) for r in records}
    index = sorted(json.loads((ZOO / "index.json").read_text()), key=lambda entry: entry["params"])
    for file in (e["file"] for e in index if fnmatch.fnmatch(e["file"], options.match)):
        for name in (t for t in options.tools.split(",") if t and (t, file) not in done):
            python = sys.executable if name.startswith("graphopt") else options.peers_python
            records.append(work(name, file) if options.in_process else run(name, file, python))
            with options.records.open("a") as stream:
                stream.write(json.dumps(records[-1]) + "\n")
    text = table(records)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)


if __name__ == "__main__":
    main()
