"""Accuracy without any training after structured pruning: `python benchmarks/recover.py`.

For each trained model in models/ and each share of MACs: L2 one-shot, L2 with removed channels merged into kept ones by
their weights (no data), L2 with mean and standard deviation of every channel matched (what recalibrating BatchNorm
does), and graphopt's own selection and compensation. Widths are not aligned. Calibration images are unlabelled training
images, drawn by seed; accuracy is that of the whole test set. Each cell is kept in results/recover.json, so that the
table can be made in parts; what uses no data is measured once.
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
GOALS = {  # largest loss wanted, in points
    ("residual", 0.5): 0.5, ("residual", 0.3): 1.0, ("vgg", 0.5): 0.5, ("vgg", 0.3): 1.0, ("depthwise", 0.5): 1.0,
    ("depthwise", 0.3): 4.0, ("transformer", 0.7): 2.0, ("transformer", 0.5): 4.0, ("recurrent", 0.7): 2.0,
    ("recurrent", 0.5): 4.0,
}  # fmt: skip
MODELS = ["residual", "depthwise", "vgg", "transformer", "recurrent", "lenet"]
VARIANTS = {
    "L2 one-shot": "cleanup,prune:keep_macs={keep}:criterion=l2:recover=false:align=1:verify=false",
    "L2 + merging, no data": "cleanup,prune:keep_macs={keep}:criterion=l2:align=1:verify=false",
    "L2 + scale/bias matching": (
        "cleanup,prune:keep_macs={keep}:criterion=l2:recover=false:align=1:verify=false,reconstruct:method=match"
    ),
    "graphopt": "cleanup,prune:keep_macs={keep}:align=1:verify=false",
}


DATA_FREE = tuple(VARIANTS)[:2]


@dataclass(frozen=True)
class Cell:
    """One pruned model: accuracies in per cent, ``macs`` the share that stays, ``seconds`` of processor time."""

    model: str
    baseline: float
    variant: str
    keep: float
    seed: int
    accuracy: float
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

    def prune(self, path: Path, text: str, seed: int, use_data: bool) -> tuple[float, float, float]:
        """Accuracy, share of MACs that stays, and seconds of processor time."""
        model = graphopt.load(path)
        interface = read_interface(path)
        chosen = np.random.default_rng(seed).permutation(len(self._train))[: self._samples]
        data = ArrayDataset({interface.inputs[0].name: as_input(self._train[chosen])}, interface, f"seed {seed}")
        started = time.process_time()
        manager = PassManager(self._registry, Settings(data=data if use_data else None))
        run = manager.run(model, Pipeline.parse(text, self._registry))
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
            for variant in arguments.variants:
                for seed in arguments.seeds[:1] if variant in DATA_FREE else arguments.seeds:
                    text = VARIANTS[variant].format(keep=keep)
                    found = bench.prune(path, text, seed, variant not in DATA_FREE)
                    cells = _merged(store, Cell(name, baseline, variant, keep, seed, *found))
                    print(cells[-1], flush=True)
                    arguments.out.write_text(table(cells, arguments.samples), "utf-8")


def _merged(store: Path, cell: Cell) -> list[Cell]:
    """All cells measured so far, this one last; written back in order."""
    cells = [Cell(**c) for c in json.loads(store.read_text())] if store.is_file() else []
    cells = [c for c in cells if _key(c) != _key(cell)] + [cell]
    ordered = sorted(cells, key=_key)
    store.write_text("[\n" + ",\n".join(json.dumps(asdict(c)) for c in ordered) + "\n]\n")
    return cells


def _key(cell: Cell) -> tuple[int, float, int, int]:
    place = MODELS.index(cell.model) if cell.model in MODELS else len(MODELS)
    return place, -cell.keep, tuple(VARIANTS).index(cell.variant), cell.seed


def table(cells: list[Cell], samples: int) -> str:
    """The page of results."""
    lines = [
        "# Accuracy without training after structured pruning",
        "",
        f"Fashion-MNIST test set (10,000 images), {samples:,} unlabelled calibration images, `align=1`. Made by "
        "`python benchmarks/recover.py`. Several calibration seeds: mean (lowest to highest). Time: one pruning with "
        "graphopt's own selection and compensation, the slowest seed.",
        f"onnxruntime {onnxruntime.__version__}, numpy {np.__version__}, {platform.machine()}.",
        "",
        "| model (float) | MACs removed | " + " | ".join(VARIANTS) + " | goal | processor time, s |",
        "|---|---|" + "---|" * (len(VARIANTS) + 2),
    ]
    for model, baseline, keep in dict.fromkeys((c.model, c.baseline, c.keep) for c in sorted(cells, key=_key)):
        row = [c for c in cells if (c.model, c.keep) == (model, keep)]
        shown = " | ".join(_cell([c.accuracy for c in row if c.variant == v]) for v in VARIANTS)
        loss = GOALS.get((model, keep))
        goal = "-" if loss is None else f"{baseline - loss:.2f}"
        times = [c.seconds for c in row if c.variant == "graphopt"]
        seconds = f"{max(times):.0f}" if times else "-"
        lines.append(
            f"| {model} ({baseline:.2f}) | {1 - keep:.0%} | {shown} | {goal} "
            f"| {seconds} |"
        )
    return "\n".join(lines) + "\n"


def _cell(values: list[float]) -> str:
    if not values:
        return "-"
    mean = f"{np.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.2f} to {max(values):.2f})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.7, 0.5, 0.3], help="shares of MACs that stay")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=tuple(VARIANTS))
    parser.add_argument("--data", type=Path, default=DEBIAN_DIR, help="directory of the *-ubyte.gz files")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "recover.md")
    return parser


if __name__ == "__main__":
    main()
