"""Calibration side by side with ONNX Runtime's entropy calibrator: `python benchmarks/calibration.py`.

Same model, same images, every activation: time until ranges are known and the process's peak memory. graphopt builds
histograms in one stream and takes the range of least squared rounding error; ONNX Runtime's calibrator has its default
settings. Plain inference over the same images is the yardstick for memory. Each measurement is a process
of its own with one thread; the time leaves out imports (one image goes first) and reading of images. ONNX Runtime's
calibrator keeps all activations, so it is measured up to `--peer-samples` only.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "models"))
from dataset import DEBIAN_DIR, as_input, load_split  # noqa: E402

BATCH = 32
KINDS = ("inference", "graphopt", "onnxruntime")


class Reader:
    """Feeds for ONNX Runtime's calibrator, a batch at a time."""

    def __init__(self, name: str, images: np.ndarray) -> None:
        self._feeds = iter([{name: images[i : i + BATCH]} for i in range(0, len(images), BATCH)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def infer(path: Path, name: str, images: np.ndarray) -> int:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for start in range(0, len(images), BATCH):
        session.run(None, {name: images[start : start + BATCH]})
    return 0


def graphopt_ranges(path: Path, name: str, images: np.ndarray) -> int:
    import graphopt
    from graphopt.analysis.statistics import Histogram, HistogramAccumulator, Request, collect
    from graphopt.data.interface import read_interface
    from graphopt.data.npz import ArrayDataset
    from graphopt.targets.base import Grid
    from graphopt.transforms.quantize.ranges import find_range

    model = graphopt.load(path)
    data = ArrayDataset({name: images}, read_interface(path), "images")
    tensors = [name, *(t.name for node in model.graph.nodes for t in node.outputs)]
    requests = {t: Request.of(t, Histogram()) for t in tensors}
    found = collect(model, data, requests.values(), batch=BATCH)
    grid = Grid("int8", symmetric=True)
    histograms = (found.typed(r, HistogramAccumulator) for r in requests.values())
    return len([find_range([h], grid, "mse") for h in histograms])


def peer_ranges(path: Path, name: str, images: np.ndarray) -> int:
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        augmented = str(Path(folder) / "augmented.onnx")
        calibrator = create_calibrator(path, None, augmented, CalibrationMethod.Entropy)
        calibrator.set_execution_providers(["CPUExecutionProvider"])
        calibrator.collect_data(Reader(name, images))
        return len(calibrator.compute_data().data)


WORK: dict[str, Callable[[Path, str, np.ndarray], int]] = {
    "inference": infer,
    "graphopt": graphopt_ranges,
    "onnxruntime": peer_ranges,
}


def work(kind: str, path: Path, images: Path) -> None:
    """One measurement, in this process."""
    name = onnx.load(path).graph.input[0].name
    values = np.load(images, mmap_mode="r")
    WORK[kind](path, name, values[:1])
    started = time.perf_counter()
    ranges = WORK[kind](path, name, values)
    seconds = time.perf_counter() - started
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    print(json.dumps({"seconds": seconds, "peak": peak, "ranges": ranges}))


def measure(kind: str, path: Path, images: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--worker", kind, "--images", str(images), str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.worker:
        work(arguments.worker, arguments.model, arguments.images)
        return
    training = load_split(arguments.data, train=True).images
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.npy"
        for samples in arguments.samples:
            np.save(images, as_input(training[:samples]))
            kinds = KINDS if samples <= arguments.peer_samples else KINDS[:2]
            found = {k: measure(k, arguments.model, images) for k in kinds}
            rows.append((samples, found))
            print(samples, found, flush=True)
    arguments.out.write_text(table(arguments.model.name, rows), "utf-8")


def table(model: str, rows: list[tuple[int, dict[str, dict[str, float]]]]) -> str:
    """The page of results."""
    lines = [
        "# Calibration side by side",
        "",
        f"`{model}`, Fashion-MNIST images, one thread. Made by `python benchmarks/calibration.py`. "
        "Ranges of every activation: graphopt from histograms of 4,096 bins by squared error, onnxruntime's calibrator "
        "by entropy with its defaults. Peak memory is that of the whole process.",
        f"onnxruntime {onnxruntime.__version__}, numpy {np.__version__}, {platform.machine()}.",
        "",
        "| samples | graphopt | onnxruntime | faster | peak: plain inference | graphopt | ratio | onnxruntime |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for samples, found in rows:
        plain, own, peer = (found.get(k) for k in KINDS)
        assert plain is not None
        assert own is not None
        theirs = ("-", "-", "-")
        if peer is not None:
            faster = peer["seconds"] / own["seconds"]
            theirs = (f"{peer['seconds']:.2f} s", f"{faster:.1f}x", f"{peer['peak']:,.0f} MiB")
        lines.append(
            f"| {samples:,} | {own['seconds']:.2f} s | {theirs[0]} | {theirs[1]} | {plain['peak']:.0f} MiB "
            f"| {own['peak']:.0f} MiB | {own['peak'] / plain['peak']:.2f} | {theirs[2]} |"
        )
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=ROOT / "models" / "residual.onnx")
    parser.add_argument("--samples", type=int, nargs="+", default=[32, 256, 1024, 4096])
    parser.add_argument("--peer-samples", type=int, default=1024)
    parser.add_argument("--data", type=Path, default=DEBIAN_DIR, help="directory of the *-ubyte.gz files")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "calibration.md")
    parser.add_argument("--worker", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--images", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
