"""``make demo``: prune and quantize the trained residual CNN, and print what it cost and what it bought."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models"
OUT = ROOT / "out"


def main() -> int:
    OUT.mkdir(exist_ok=True)
    command = [
        *(sys.executable, "-m", "graphopt", "run", str(MODELS / "residual.onnx")),
        *("--passes", "cleanup,prune:keep_macs=0.6,quantize", "-o", str(OUT / "residual.small.onnx"), "--force"),
        *("--data", str(MODELS / "data" / "fashion_mnist_calib.npz")),
        *("--eval-data", str(MODELS / "data" / "fashion_mnist_eval.npz")),
        *("--report", str(OUT / "report")),
    ]
    print("$ graphopt", " ".join(command[3:]), flush=True)
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
