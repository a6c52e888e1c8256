"""Accuracy of graphopt's quantized models on whole test sets, with paired intervals.

    python models/make_data.py --full DIR --calib 512
    python benchmarks/quantize_accuracy.py DIR [--models residual ...] [--markdown OUT]

For each model in models/: W8A8 with effort fast and best, W4A8 with effort best. Calibration images are unlabelled
training images. The interval is of the difference to float on the same images (95 %, paired proportions). SQNR is at
the logits. Nothing is put back in float in the W4A8 rows (fidelity=0).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import graphopt
from graphopt.data.interface import read_interface
from graphopt.data.npz import ArrayDataset
from graphopt.pipeline.context import Settings
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.pipeline import Pipeline
from graphopt.pipeline.registry import Registry
from graphopt.runtime.paired import paired_proportions
from graphopt.runtime.session import Session

ROOT = Path(__file__).resolve().parent.parent
MODELS = ("residual", "depthwise", "transformer", "transformer_masked")
FLAVOURS = {
    "W8A8 fast": "quantize",
    "W8A8 best": "quantize:effort=best",
    "W4A8 best": "quantize:types=u8s4:effort=best:fidelity=0",
}
GOALS = {"residual": 0.2, "depthwise": 0.3, "transformer": 0.2, "transformer_masked": 0.2}
HEADER = ["model", "flavour", "float", "quantized", "difference in points (95 %)", "goal", "SQNR dB", "CPU s"]
BATCH = 250


def arrays(folder: Path, model: str, part: str) -> dict[str, np.ndarray]:
    """The arrays of a data file by name, labels under ``labels``."""
    middle = "masked_" if model.endswith("masked") else ""
    with np.load(folder / f"fashion_mnist_{middle}{part}.npz") as found:
        return {n.strip("_"): found[n] for n in found.files}


def logits(path: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """The first output for all samples."""
    session = Session(path)
    count = len(next(iter(feeds.values())))
    parts = [session.run({n: v[i : i + BATCH] for n, v in feeds.items()}) for i in range(0, count, BATCH)]
    return np.concatenate([next(iter(p.values())) for p in parts])


def quantized(path: Path, pipeline: str, calibration: dict[str, np.ndarray], out: Path) -> float:
    """Quantize into ``out``; processor seconds."""
    registry = Registry()
    data = ArrayDataset(calibration, read_interface(path), "calibration images")
    start = time.process_time()
    model = graphopt.load(path)
    PassManager(registry, Settings(data=data)).run(model, Pipeline.parse(pipeline, registry))
    seconds = time.process_time() - start
    model.save(out)
    return seconds


def row(folder: Path, name: str, flavour: str, samples: int, scratch: Path) -> list[str]:
    """One line of the table."""
    path, out = ROOT / "models" / f"{name}.onnx", scratch / f"{name}-{flavour.replace(' ', '-')}.onnx"
    known, test = arrays(folder, name, "calib"), arrays(folder, name, "test")
    labels = test.pop("labels")
    seconds = quantized(path, FLAVOURS[flavour], {n: v[:samples] for n, v in known.items() if n != "labels"}, out)
    wanted, got = logits(path, test), logits(out, test)
    before, after = wanted.argmax(1) == labels, got.argmax(1) == labels
    found = paired_proportions(int((after & ~before).sum()), int((before & ~after).sum()), len(labels))
    noise = 10 * np.log10(np.square(wanted, dtype=np.float64).sum() / np.square(wanted - got, dtype=np.float64).sum())
    change = 100 * (after.mean() - before.mean())
    difference = f"{change:+.2f} ({100 * found.low:+.2f} to {100 * found.high:+.2f})"
    goal = 1.0 if flavour.startswith("W4") else GOALS[name]
    cells = [f"{100 * before.mean():.2f} %", f"{100 * after.mean():.2f} %", difference, f"-{goal:g}"]
    return [name, flavour, *cells, f"{noise:.1f}", f"{seconds:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--only", default="", help="only flavours whose name holds this")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    rows = [HEADER, ["---"] * len(HEADER)]
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.models:
            for flavour in FLAVOURS:
                if options.only in flavour:
                    rows.append(row(options.data, name, flavour, options.samples, Path(scratch)))
                    print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    text = "\n".join("| " + " | ".join(r) + " |" for r in rows)
    print(text)
    if options.markdown is not None:
        options.markdown.write_text(text + "\n")


if __name__ == "__main__":
    main()
