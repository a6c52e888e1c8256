"""Accuracy without any training after structured pruning: `python benchmarks/recover.py`.

For each trained model in models/ and each share of MACs: L2 one-shot, L2 with mean and standard deviation of every
channel matched (what recalibrating BatchNorm does), and graphopt's own selection and compensation. Widths are not
aligned. Calibration images are unlabelled training images; accuracy is that of the whole test set. Results are kept in
results/recover.json as well, so that models can be run one at a time.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime

import graphopt
from graphopt.data.interface import read_interface
from graphopt.data.npz import ArrayDataset
from graphopt.pipeline.context import Settings
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.pipeline import Pipeline
from graphopt.pipeline.registry import Registry
from graphopt.runtime.session import Session

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "models"))
from dataset import DEBIAN_DIR, as_input, load_split  # noqa: E402

BATCH = 250
MODELS = ["residual", "depthwise", "vgg", "transformer", "recurrent", "lenet"]
VARIANTS = {
    "L2 one-shot": "cleanup,prune:keep_macs={keep}:criterion=l2:recover=false:align=1:verify=false",
    "L2 + scale/bias matching": (
        "cleanup,prune:keep_macs={keep}:criterion=l2:recover=false:align=1:verify=false,reconstruct:method=match"
    ),
    "graphopt": "cleanup,prune:keep_macs={keep}:align=1:verify=false",
}


@dataclass(frozen=True)
class Row:
    model: str
    baseline: float
    variant: str
    keep: float
    accuracies: list[float]
    macs: float
    seconds: float


class Bench:
    """Data, registry and the measurement of one cell."""

    def __init__(self, directory: Path, samples: int) -> None:
        self._train = load_split(directory, train=True).images
        test = load_split(directory, train=False)
        self._test, self._labels = as_input(test.images), test.labels
        self._samples = samples
        self._registry = Registry()

    def accuracy(self, model: graphopt.Model) -> float:
        """Per cent of the test set."""
        session = Session(model.serialize())
        name = session.interface.inputs[0].name
        right = 0
        for start in range(0, len(self._labels), BATCH):
            stop = start + BATCH
            logits = next(iter(session.run({name: self._test[start:stop]}).values()))
            right += int((logits.argmax(1) == self._labels[start:stop]).sum())
        return 100 * right / len(self._labels)

    def prune(self, path: Path, text: str, seed: int) -> tuple[float, float, float]:
        """Accuracy, share of MACs that stays, and seconds of processor time."""
        model = graphopt.load(path)
        interface = read_interface(path)
        chosen = np.random.default_rng(seed).permutation(len(self._train))[: self._samples]
        data = ArrayDataset({interface.inputs[0].name: as_input(self._train[chosen])}, interface, f"seed {seed}")
        started = time.process_time()
        run = PassManager(self._registry, Settings(data=data)).run(model, Pipeline.parse(text, self._registry))
        seconds = time.process_time() - started
        kept = next(r.statistics["macs kept"] for r in run.passes if "macs kept" in r.statistics)
        return self.accuracy(model), kept, seconds


def main() -> None:
    arguments = _parser().parse_args()
    bench = Bench(arguments.data, arguments.samples)
    store = arguments.out.with_suffix(".json")
    for name in arguments.models:
        path = ROOT / "models" / f"{name}.onnx"
        if not path.is_file():
            print(f"{name}: no {path.name}, skipped", flush=True)
            continue
        baseline = bench.accuracy(graphopt.load(path))
        for keep in arguments.keep:
            for variant, text in VARIANTS.items():
                cells = [bench.prune(path, text.format(keep=keep), seed) for seed in arguments.seeds]
                accuracies = [c[0] for c in cells]
                row = Row(name, baseline, variant, keep, accuracies, cells[0][1], max(c[2] for c in cells))
                rows = _merged(store, row)
                print(row, flush=True)
                arguments.out.write_text(table(rows, arguments.samples), "utf-8")


def _merged(store: Path, row: Row) -> list[Row]:
    """All rows measured so far, this one included; written back."""
    rows = [Row(**r) for r in json.loads(store.read_text())] if store.is_file() else []
    key = (row.model, row.keep, row.variant)
    rows = [r for r in rows if (r.model, r.keep, r.variant) != key] + [row]
    rows.sort(key=lambda r: (MODELS.index(r.model) if r.model in MODELS else 99, -r.keep))
    store.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
    return rows


def table(rows: list[Row], samples: int) -> str:
    """The page of results."""
    lines = [
        "# Accuracy without training after structured pruning",
        "",
        f"Fashion-MNIST test set (10,000 images), {samples:,} unlabelled calibration images, `align=1`. Made by "
        "`python benchmarks/recover.py`. Several calibration seeds: mean (lowest to highest).",
        f"onnxruntime {onnxruntime.__version__}, numpy {np.__version__}, {platform.machine()}.",
        "",
        "| model (float) | MACs removed | " + " | ".join(VARIANTS) + " | processor time of graphopt, s |",
        "|---|---|" + "---|" * (len(VARIANTS) + 1),
    ]
    cells = {(r.model, r.keep, r.variant): r for r in rows}
    for model, baseline, keep in dict.fromkeys((r.model, r.baseline, r.keep) for r in rows):
        found = [cells.get((model, keep, v)) for v in VARIANTS]
        seconds = "-" if found[-1] is None else f"{found[-1].seconds:.0f}"
        shown = " | ".join("-" if r is None else _cell(r.accuracies) for r in found)
        lines.append(f"| {model} ({baseline:.2f}) | {1 - keep:.0%} | {shown} | {seconds} |")
    return "\n".join(lines) + "\n"


def _cell(values: list[float]) -> str:
    mean = f"{np.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.2f} to {max(values):.2f})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.7, 0.5, 0.3], help="shares of MACs that stay")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--data", type=Path, default=DEBIAN_DIR, help="directory of the *-ubyte.gz files")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "recover.md")
    return parser


if __name__ == "__main__":
    main()
