"""onnxruntime-gpu without a GPU: ``python tests/packaging/gpu_package.py``. Silent fallback must be impossible.

In an environment of its own (the package replaces onnxruntime, 256 MB): plain ONNX Runtime accepts the CUDA provider
and runs on the CPU; graphopt must end with exit code 6 and a reason, for every provider that the package lists. On a
machine where CUDA runs, there is nothing to show, and it says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "lenet.onnx"
PLAIN = """
import json, sys, onnxruntime as ort
ort.set_default_logger_severity(4)
session = ort.InferenceSession(sys.argv[1], providers=["CUDAExecutionProvider"])
print(json.dumps([ort.__version__, ort.get_available_providers(), session.get_providers()]))
"""


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], cwd=ROOT, capture_output=True, text=True, check=False)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        venv.create(Path(folder) / "env", with_pip=True)
        python = Path(folder) / "env" / "bin" / "python"
        done = run(python, "-m", "pip", "install", "--quiet", ROOT)
        swapped = run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "onnxruntime")
        installed = run(python, "-m", "pip", "install", "--quiet", "onnxruntime-gpu")
        if done.returncode or swapped.returncode or installed.returncode:
            print(f"NOT TESTED: onnxruntime-gpu cannot be installed here: {installed.stderr.strip()[-300:]}")
            return
        version, listed, used = json.loads(run(python, "-c", PLAIN, MODEL).stdout.splitlines()[-1])
        print(f"onnxruntime-gpu {version} lists {listed}; a plain session that asks for CUDA runs on {used}")
        if "CUDAExecutionProvider" in used:
            print("CUDA runs here: there is no fallback to show")
            return
        for provider in ("cuda", "tensorrt"):
            found = run(python, "-m", "graphopt", "bench", MODEL, "--provider", provider)
            print(f"graphopt --provider {provider}: exit code {found.returncode}: {found.stderr.strip()}")
            if found.returncode != 6 or "cannot run here" not in found.stderr or found.stdout.strip():
                sys.exit(f"--provider {provider} was not refused")
        result = Path(folder) / "clean.onnx"
        found = run(python, "-m", "graphopt", "run", MODEL, "--passes", "cleanup", "-o", result, "--no-time")
        print(f"graphopt run on the CPU: exit code {found.returncode}")
        if found.returncode or not result.exists():
            sys.exit(f"a run on the CPU failed: {found.stderr.strip()}")


if __name__ == "__main__":
    main()
