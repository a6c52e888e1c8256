"""Train one model on Fashion-MNIST and export it: `python models/train.py NAME`."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from pathlib import Path

import numpy as np
import torch
from dataset import DEBIAN_DIR, DataMissingError, load_split
from nets.common import Architecture
from torch import nn
from training import predict, train

HERE = Path(__file__).resolve().parent
NAMES = ("lenet", "residual", "depthwise", "vgg", "transformer", "recurrent")

_log = logging.getLogger("train")


def main() -> int:
    arguments = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(arguments.threads)
    architecture: Architecture = importlib.import_module(f"nets.{arguments.name}").ARCHITECTURE
    torch.manual_seed(architecture.recipe.seed)
    model = architecture.build()
    weights: Path = arguments.work / f"{arguments.name}.pt"
    weights.parent.mkdir(parents=True, exist_ok=True)
    try:
        if arguments.export_only or arguments.from_cycle:
            model.load_state_dict(torch.load(weights, weights_only=True))
            model.eval()
        if not arguments.export_only:
            split = load_split(arguments.data, train=True)
            train(model, split, architecture.recipe, arguments.from_cycle)
            torch.save(model.state_dict(), weights)
        _test(model, arguments.data, weights.with_suffix(".npy"))
    except DataMissingError as error:
        _log.error("%s", error)
        return 1
    from export import export_model

    for export in architecture.exports:
        export_model(model, export, HERE / export.file)
        _log.info("wrote %s, %d bytes", export.file, (HERE / export.file).stat().st_size)
    return 0


def _test(model: nn.Module, data: Path, logits_file: Path) -> None:
    """Log the accuracy on the test set; keep the logits so that evaluate.py can compare ONNX Runtime's."""
    test = load_split(data, train=False)
    logits = predict(model, test).numpy()
    np.save(logits_file, logits)
    _log.info("test accuracy in torch, float32: %.2f %%", 100 * (logits.argmax(1) == test.labels).mean())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--data", type=Path, default=DEBIAN_DIR, help="directory of the *-ubyte.gz files")
    parser.add_argument("--work", type=Path, default=HERE / "checkpoints", help="where the weights are kept")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--from-cycle", type=int, default=0, help="go on from the weights that --work holds")
    parser.add_argument("--export-only", action="store_true", help="export the weights that --work holds")
    return parser


if __name__ == "__main__":
    sys.exit(main())
