"""One clean-up tool in a process of its own: reads jobs as JSON lines, cleans, times, compares, answers in JSON lines.

Imports and the first use of a tool (on a model of two nodes) are over before anything is timed.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TOOLS = ("graphopt", "onnxslim", "onnxsim", "onnxoptimizer", "onnxscript", "graphopt_smallest")
REPEATS = 3
ENOUGH = 0.5
"""Seconds of processor time after which a tool is not run again to find its least time."""

Clean = Callable[[Any], Any]


def tool(name: str) -> Clean:
    """The function that cleans a ModelProto."""
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


def _graphopt(text: str) -> Clean:
    from graphopt import load
    from graphopt.pipeline import PassManager, Pipeline, Registry

    registry = Registry()
    pipeline = Pipeline.parse(text, registry)

    def clean(proto: Any) -> Any:
        model = load(proto)
        PassManager(registry).run(model, pipeline)
        return model.to_proto()

    return clean


def nodes_of(graph: Any) -> Iterator[Any]:
    """All nodes, those of nested graphs included."""
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


def outputs_of(proto: Any, feeds: list[dict[str, Any]]) -> tuple[list[Any], list[list[Any]]]:
    """The interface of a model in ONNX Runtime without optimizations, and its outputs for each of the feeds."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    face = [[[i.name, i.type, i.shape] for i in side] for side in (session.get_inputs(), session.get_outputs())]
    needed = {i.name for i in session.get_inputs()}
    return face, [session.run(None, {k: v for k, v in given.items() if k in needed}) for given in feeds]


def same_interface(before: list[Any], after: list[Any]) -> bool:
    """Whether names and types agree, and the declared shapes of the inputs with the names of their extents."""
    inputs, outputs = ([[x[:2] for x in side[1]] for side in (before, after)], [before[0], after[0]])
    return inputs[0] == inputs[1] and outputs[0] == outputs[1]


def difference(before: list[list[Any]], after: list[list[Any]]) -> float:
    """Largest error over an output's range; infinite when shapes, types, integers or NaNs differ."""
    import numpy as np

    worst = 0.0
    pairs = (pair for x, y in zip(before, after, strict=True) for pair in zip(x, y, strict=True))
    for a, b in ((np.asarray(a), np.asarray(b)) for a, b in pairs):
        if a.shape != b.shape or a.dtype != b.dtype:
            return math.inf
        if a.dtype.kind != "f":
            worst = max(worst, 0.0 if np.array_equal(a, b) else math.inf)
        elif a.size:
            spread = max(float(np.abs(a).max()), 1e-30)
            error = float(np.abs(a.astype(np.float64) - b).max()) / spread
            worst = max(worst, math.inf if math.isnan(error) else error)
    return worst


def write_reference(path: str, feeds: list[dict[str, Any]], expected: list[list[Any]]) -> None:
    """Keep feeds, and what the original makes of them."""
    import numpy as np

    arrays = {f"{k}/in/{name}": v for k, given in enumerate(feeds) for name, v in given.items()}
    arrays |= {f"{k}/out/{i}": np.asarray(v) for k, made in enumerate(expected) for i, v in enumerate(made)}
    np.savez(path, **arrays)


def read_reference(path: str) -> tuple[list[dict[str, Any]], list[list[Any]]]:
    """What ``write_reference`` kept."""
    import numpy as np

    feeds: dict[int, dict[str, Any]] = {}
    expected: dict[int, dict[int, Any]] = {}
    with np.load(path) as arrays:
        for key in arrays.files:
            number, side, name = key.split("/", 2)
            if side == "in":
                feeds.setdefault(int(number), {})[name] = arrays[key]
            else:
                expected.setdefault(int(number), {})[int(name)] = arrays[key]
    return [feeds[k] for k in sorted(feeds)], [[e[i] for i in sorted(e)] for _, e in sorted(expected.items())]


def work(clean: Clean, job: dict[str, Any]) -> dict[str, Any]:
    """Clean the graph of a job several times, keep the least time, compare the result with the reference outputs."""
    import onnx

    data = Path(job["model"]).read_bytes()
    walls, cpus = [], []
    while True:
        proto = onnx.ModelProto.FromString(data)
        wall, cpu = time.perf_counter(), time.process_time()
        result = clean(proto)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
        if len(cpus) == REPEATS or sum(cpus) > ENOUGH:
            break
    left = count(result)
    record = {"after": sum(left.values()), "wall": min(walls), "cpu": min(cpus), "runs": len(cpus), "hist": left}
    record["input_changed"] = proto != onnx.ModelProto.FromString(data)
    record["difference"], record["interface_kept"] = _compare(result, job)
    if job["repeat"]:
        record["repeats"] = bool(clean(onnx.ModelProto.FromString(data)) == result)
        record["stable"] = bool(clean(result) == result)
    return record


def _compare(result: Any, job: dict[str, Any]) -> tuple[float, bool]:
    import onnx

    feeds, expected = read_reference(job["reference"])
    onnx.checker.check_model(result, full_check=True)
    face, found = outputs_of(result, feeds)
    return difference(expected, found), same_interface(job["face"], face)


def warm_up(clean: Clean) -> None:
    """First use, untimed."""
    import onnx

    text = '<ir_version: 8, opset_import: ["":17]> g (float[2] x) => (float[2] y) { z = Identity(x) y = Relu(z) }'
    clean(onnx.parser.parse_model(text))


def serve(name: str) -> None:
    """Answer jobs from stdin until it ends. What tools print goes nowhere."""
    answers = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    clean = tool(name)
    warm_up(clean)
    for line in sys.stdin:
        try:
            record = work(clean, json.loads(line))
        except Exception as error:  # noqa: BLE001  whatever a tool, the checker or the runtime raises is its result
            record = {"error": f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]}
        answers.write(json.dumps(record) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
