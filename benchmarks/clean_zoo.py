"""Cleans every graph of the architecture zoo with graphopt and its peers: nodes left, time, equality.

    python benchmarks/clean_zoo.py [--tools graphopt,onnxsim] [--match '*.torchscript*'] [--large 200] [--part 1/4]
                                   [--peers-python PYTHON] [--records FILE] [--limit SECONDS]
    python benchmarks/clean_zoo.py --merge FILE... --out benchmarks/results/clean_zoo.md

A graph is filled with seeded weights, then each tool gets it in turn, in a process of its own that lives on; a tool
that crashes or takes too long counts as failed there. Time is the least processor time of up to three runs, from
ModelProto to ModelProto. Nodes are those other than Constant, nested graphs included, functions inlined. Results must
pass the checker, keep the interface, and equal the original in ONNX Runtime without optimizations on seeded inputs (a
second batch size where that is dynamic) within 1e-5 of each output's range, or within what one rounding unit at the
inputs and weights of the original does. Records are kept and not made again; in a merge, later files win, and times
are only compared within one file.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.clean_table import TOLERANCE, table  # noqa: E402
from benchmarks.clean_workers import TOOLS, count, difference, outputs_of, write_reference  # noqa: E402
from benchmarks.zoo import ZOO, Record, graphs, keep, options_of, read, show, zoo_module  # noqa: E402


class Worker:
    """A tool's process; started on first use, and again after it was stopped or died."""

    def __init__(self, name: str, python: str, limit: float) -> None:
        self._command = [python, str(ROOT / "benchmarks" / "clean_workers.py"), name]
        self._limit = limit
        self._process: subprocess.Popen[str] | None = None

    def ask(self, job: Record) -> Record:
        """The tool's record of one job."""
        if self._process is None or self._process.poll() is not None:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], self._limit)
        if not ready:
            self.stop()
            return {"error": f"over {self._limit:.0f} s"}
        answer = process.stdout.readline()
        if not answer:
            return {"error": f"the process died, code {process.wait()}"}
        record: Record = json.loads(answer)
        return record

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def measure(file: str, workers: dict[str, Worker], folder: Path) -> Iterable[Record]:
    """A record for each of the tools on one graph."""
    zoo = zoo_module()
    proto = zoo.fill(str(ZOO / file))
    feeds = [zoo.random_inputs(proto, 1)]
    if all(i.type.tensor_type.shape.dim[:1] and i.type.tensor_type.shape.dim[0].dim_param for i in proto.graph.input):
        feeds.append(zoo.random_inputs(proto, 2, batch=3))
    face, expected = outputs_of(proto, feeds)
    job = {"model": str(folder / "model.onnx"), "reference": str(folder / "reference.npz"), "face": face}
    Path(job["model"]).write_bytes(proto.SerializeToString())
    write_reference(job["reference"], feeds, expected)
    before = sum(count(proto).values())
    noise: float | None = None
    for name, worker in workers.items():
        record = {"tool": name, "file": file, "before": before, **worker.ask({**job, "repeat": name == "graphopt"})}
        if TOLERANCE < record.get("difference", 0.0) < float("inf"):
            noise = rounding_noise(proto, feeds, expected) if noise is None else noise
            record["noise"] = noise
        yield record


def rounding_noise(proto: Any, feeds: list[dict[str, Any]], expected: list[list[Any]]) -> float:
    """The largest change of an output, over its range, when float inputs and weights change in their last place.

    Folding rounds weights once more, so that no tool can be nearer than this.
    """
    import numpy as np
    import onnx

    worst = 0.0
    for seed in range(3):
        random = np.random.default_rng(seed)
        nudged = [{k: _nudged(v, random) for k, v in given.items()} for given in feeds]
        changed = onnx.ModelProto()
        changed.CopyFrom(proto)
        for tensor in changed.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT and tensor.HasField("raw_data"):
                values = np.frombuffer(tensor.raw_data, np.float32)
                tensor.raw_data = _nudged(values, random).tobytes()
        worst = max(worst, difference(expected, outputs_of(changed, nudged)[1]))
    return worst


def _nudged(x: Any, random: Any) -> Any:
    import numpy as np

    if x.dtype.kind != "f":
        return x
    return np.nextafter(x, np.where(random.random(x.shape) < 0.5, -np.inf, np.inf).astype(x.dtype))


def sweep(options: argparse.Namespace) -> None:
    """Make the records that are missing."""
    done = {(r["tool"], r["file"]) for r in read(options.records)}
    pythons = {name: sys.executable if name.startswith("graphopt") else options.peers_python for name in TOOLS}
    workers = {name: Worker(name, pythons[name], options.limit) for name in options.tools.split(",")}
    with tempfile.TemporaryDirectory() as folder:
        for file in graphs(options.match, options.part, options.large):
            missing = {name: worker for name, worker in workers.items() if (name, file) not in done}
            for record in measure(file, missing, Path(folder)) if missing else ():
                keep(options.records, record)
    for worker in workers.values():
        worker.stop()


def main() -> None:
    """Make records, or a table from them."""
    parser = options_of(__doc__, "clean_zoo.jsonl")
    parser.add_argument("--tools", default=",".join(TOOLS[:5]))
    parser.add_argument("--large", type=int, default=0, help="only graphs with more nodes than this")
    parser.add_argument("--limit", type=float, default=120, help="seconds for one tool on one graph")
    parser.add_argument("--peers-python", default=sys.executable)
    options = parser.parse_args()
    if not options.merge:
        sweep(options)
    show(table([read(path) for path in options.merge or [options.records]]), options.out)


if __name__ == "__main__":
    main()
