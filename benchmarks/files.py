"""Fidelity, memory and scale of reading and writing models.

    python benchmarks/files.py [--zoo DIR] [--out benchmarks/results/files.md]

Memory is the peak of a fresh process over what it holds after its imports, as a multiple of the weights.
"""

from __future__ import annotations

import argparse
import itertools
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MATRIX = 2048


def weights_model(count: int) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.random((MATRIX, MATRIX), np.float32), f"w{i}") for i in range(count)]
    nodes = [helper.make_node("MatMul", [f"t{i}", f"w{i}"], [f"t{i + 1}"]) for i in range(count)]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, MATRIX]) for n in ("t0", f"t{count}")]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def child(source: Path, target: Path, external: str) -> None:
    """Runs in a process of its own: load, an untouched pipeline, save; prints the peak in MB over the imports."""
    from graphopt import load
    from graphopt.pipeline.manager import PassManager  # noqa: F401  - its import belongs to the baseline
    from graphopt.runtime.footprint import peak_resident_bytes
    from graphopt.verifier import verify

    base = peak_resident_bytes() or 0
    model = load(source)
    verify(model.graph)
    model.save(target, external=external, force=True)  # type: ignore[arg-type]
    print(((peak_resident_bytes() or 0) - base) / 2**20)


def memory(folder: Path, count: int) -> Iterator[str]:
    proto = weights_model(count)
    megabytes = count * MATRIX * MATRIX * 4 / 2**20
    onnx.save(proto, folder / "external.onnx", save_as_external_data=True, location="external.data")
    if megabytes < 1900:
        onnx.save(weights_model(count), folder / "inline.onnx")
    del proto
    for name, kind, bound in (("inline", "inline", 2.2), ("inline", "file", 2.2), ("external", "file", 0.3)):
        source = folder / f"{name}.onnx"
        if not source.exists():
            continue
        command = [sys.executable, __file__, "--child", str(source), str(folder / "out.onnx"), kind]
        peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        yield f"| {megabytes:,.0f} MB, {name} to {kind} | {peak:.0f} | {peak / megabytes:.2f}x | {bound}x |"
    for file in folder.iterdir():
        file.unlink()


def chain(count: int, order: str) -> bytes:
    nodes = [helper.make_node("Relu" if i % 2 else "Neg", [f"t{i}"], [f"t{i + 1}"], name=f"n{i}") for i in range(count)]
    if order == "reversed":
        nodes.reverse()
    if order == "shuffled":
        random.Random(0).shuffle(nodes)
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in ("t0", f"t{count}")]
    return helper.make_model(helper.make_graph(nodes, "g", info[:1], info[1:])).SerializeToString()


def scale() -> Iterator[str]:
    from graphopt import load, snapshot
    from graphopt.verifier import verify

    for count in (1_000, 10_000, 50_000):
        for order in ("sorted", "reversed", "shuffled"):
            data = chain(count, order)
            times = [time.perf_counter()]
            model = load(data)
            times.append(time.perf_counter())
            verify(model.graph)
            model.graph.remove_dead()
            times.append(time.perf_counter())
            snapshot.take(model.graph)
            times.append(time.perf_counter())
            model.serialize()
            times.append(time.perf_counter())
            steps = " | ".join(f"{b - a:.2f}" for a, b in itertools.pairwise(times))
            yield f"| {count:,} {order} | {steps} | {times[-1] - times[0]:.2f} |"


def fidelity(zoo: Path | None) -> Iterator[str]:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from onnx.backend.test.case.node import collect_testcases
    from test_fidelity import canonical

    from graphopt import load
    from graphopt.verifier import verify

    def survives(proto: onnx.ModelProto) -> bool:
        before = proto.SerializeToString()
        model = load(proto)
        verify(model.graph)
        same = canonical(model.to_proto()) == canonical(onnx.ModelProto.FromString(before))
        return same and proto.SerializeToString() == before

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models = [c.model for c in collect_testcases(None) if c.model is not None]
    yield f"| node models of onnx {onnx.__version__} | {len(models)} | {sum(map(survives, models))} |"
    if zoo is not None:
        sys.path.insert(0, str(zoo))
        from fill import fill

        files = sorted(zoo.glob("*.onnx.gz"))
        yield f"| architecture zoo | {len(files)} | {sum(survives(fill(str(f))) for f in files)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", nargs=3)
    parser.add_argument("--zoo", type=Path)
    parser.add_argument("--large", action="store_true", help="also 2.5 GB of weights")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "files.md")
    options = parser.parse_args()
    if options.child:
        source, target, external = options.child
        child(Path(source), Path(target), external)
        return
    lines = ["# Reading and writing models", "", "Made by `python benchmarks/files.py`.", ""]
    lines += [
        "## Memory: load, verify, save",
        "",
        "| weights | peak MB | of the weights | bound |",
        "|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for count in (30, 160) if options.large else (30,):
            lines += list(memory(Path(folder), count))
    lines += [
        "",
        "## Time in seconds",
        "",
        "| nodes | load and sort | verify, dead code | snapshot | serialize | all |",
    ]
    lines += ["|---|---|---|---|---|---|", *scale()]
    lines += [
        "",
        "## Round trips, same content and the input untouched",
        "",
        "| models | count | same |",
        "|---|---|---|",
    ]
    lines += list(fidelity(options.zoo))
    options.out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
