"""The OpenVINO execution provider on this machine: ``python tests/packaging/openvino_provider.py``.

In an environment of its own, since onnxruntime-openvino (84 MB) takes the place of onnxruntime: runs
``tests/runtime/test_openvino_provider.py`` there. Skips where the package cannot be installed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEST = "tests/runtime/test_openvino_provider.py"


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], cwd=ROOT, capture_output=True, text=True, check=False)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        venv.create(Path(folder) / "env", with_pip=True)
        python = Path(folder) / "env" / "bin" / "python"
        steps = (
            ("install", "--quiet", ROOT, "pytest", "hypothesis"),
            ("uninstall", "--quiet", "--yes", "onnxruntime"),
            ("install", "--quiet", "onnxruntime-openvino"),
        )
        for step in steps:
            done = run(python, "-m", "pip", *step)
            if done.returncode:
                print(f"NOT TESTED: onnxruntime-openvino cannot be installed here: {done.stderr.strip()[-300:]}")
                return
        done = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs", TEST)
        print(done.stdout.strip())
        if done.returncode:
            sys.exit(f"{TEST} failed: {done.stderr.strip()[-500:]}")


if __name__ == "__main__":
    main()
