"""Measure the ONNX files with ONNX Runtime and write the figures into results.json and the pages."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from costs import count_macs, count_parameters
from dataset import DEBIAN_DIR, DataMissingError, as_input, load_split
from make_data import SLICES_DIR, trailing_masks
from numpy.typing import NDArray
from patches import TOKENS

HERE = Path(__file__).resolve().parent
FILES = ("lenet", "residual", "depthwise", "vgg", "transformer", "transformer_masked", "recurrent")
BEGIN, END = "<!-- measured by evaluate.py -->", "<!-- end -->"
BATCH = 500
LOGIT_TOLERANCE = 1e-3

Feeds = Mapping[str, NDArray[np.generic]]
Labels = NDArray[np.integer]

_log = logging.getLogger("evaluate")


@dataclass(frozen=True)
class Result:
    """Figures of one file. Accuracies in per cent; `macs` for one image; `bytes` of the file."""

    file: str
    parameters: int
    macs: int
    bytes: int
    test_accuracy: float
    slice_accuracy: float
    slice_images: int


class MismatchError(Exception):
    """ONNX Runtime and PyTorch disagree on the test set."""


def main() -> int:
    arguments = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        results = [_measure(name, arguments.data, arguments.work) for name in FILES]
    except (DataMissingError, MismatchError) as error:
        _log.error("%s", error)
        return 1
    table = [asdict(result) for result in results]
    (HERE / "results.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    _fill(HERE / "README.md", results)
    for card in sorted({_card(result) for result in results}):
        _fill(card, [result for result in results if _card(result) == card])
    return 0


def _measure(name: str, data: Path, work: Path) -> Result:
    path = HERE / f"{name}.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    session = _session(path)
    masked = name.endswith("_masked")
    test = load_split(data, train=False)
    feeds: dict[str, NDArray[np.generic]] = {"x": as_input(test.images)}
    torch_logits = work / f"{name.removesuffix('_masked')}.npy"
    if torch_logits.exists():
        _compare_with_torch(session, feeds, masked, torch_logits)
    if masked:
        feeds["attention_mask"] = trailing_masks(len(test.images))
    with np.load(SLICES_DIR / f"fashion_mnist_{'masked_' if masked else ''}eval.npz") as archive:
        labels = archive["labels"]
        slice_feeds = {key: archive[key] for key in archive.files if key != "labels"}
    result = Result(
        file=path.name,
        parameters=count_parameters(model),
        macs=count_macs(model, {key: value[:1] for key, value in slice_feeds.items()}),
        bytes=path.stat().st_size,
        test_accuracy=_accuracy(_logits(session, feeds), test.labels),
        slice_accuracy=_accuracy(_logits(session, slice_feeds), labels),
        slice_images=len(labels),
    )
    _log.info("%s", result)
    return result


def _compare_with_torch(session: ort.InferenceSession, feeds: Feeds, masked: bool, file: Path) -> None:
    """Raise MismatchError when a predicted class or a logit differs; a mask of ones must change nothing."""
    ones = {"attention_mask": np.ones((len(feeds["x"]), TOKENS), np.int64)} if masked else {}
    logits = _logits(session, {**feeds, **ones})
    expected = np.load(file)
    difference = float(np.abs(logits - expected).max())
    changed = int((logits.argmax(1) != expected.argmax(1)).sum())
    _log.info("%s: logits differ from torch by up to %.1e, %d classes differ", file.stem, difference, changed)
    if difference > LOGIT_TOLERANCE or changed:
        raise MismatchError(f"{file.stem}: logits differ by {difference:g}, {changed} classes differ")


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _logits(session: ort.InferenceSession, feeds: Feeds) -> NDArray[np.float32]:
    count = len(feeds["x"])
    batches = [{k: v[i : i + BATCH] for k, v in feeds.items()} for i in range(0, count, BATCH)]
    return np.concatenate([session.run(["logits"], batch)[0] for batch in batches])


def _accuracy(logits: NDArray[np.float32], labels: Labels) -> float:
    return round(100 * float((logits.argmax(1) == labels).mean()), 2)


def _card(result: Result) -> Path:
    return HERE / result.file.replace("_masked", "").replace(".onnx", ".md")


def _fill(page: Path, results: list[Result]) -> None:
    """Replace what stands between the two markers of a page by the table of `results`."""
    rows = [
        "| file | parameters | MACs per image | size | test set, 10,000 images | shipped slice |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for r in results:
        rows.append(
            f"| `{r.file}` | {r.parameters:,} | {r.macs / 1e6:.2f} M | {r.bytes / 1e6:.2f} MB "
            f"| {r.test_accuracy:.2f} % | {r.slice_accuracy:.2f} % of {r.slice_images:,} |"
        )
    head, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    tail = rest.partition(END)[2]
    page.write_text(f"{head}{BEGIN}\n\n" + "\n".join(rows) + f"\n\n{END}{tail}", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DEBIAN_DIR, help="directory of the *-ubyte.gz files")
    parser.add_argument("--work", type=Path, default=HERE / "checkpoints", help="where train.py left logits")
    return parser


if __name__ == "__main__":
    sys.exit(main())
