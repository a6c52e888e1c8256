"""Build the wheel and sdist, install the wheel alone in an empty environment, and run it from another folder.

Checks that every built-in pass is found and that the main job works on a shipped model.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed ({done.returncode}):\n{done.stdout}\n{done.stderr}")
    return done.stdout


def main() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["graphopt.passes"]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run(sys.executable, "-m", "build", "--outdir", work / "dist", ROOT, cwd=ROOT)
        (wheel,) = (work / "dist").glob("*.whl")
        venv.create(work / "env", with_pip=True)
        python = work / "env" / "bin" / "python"
        run(python, "-m", "pip", "install", "--quiet", wheel, cwd=work)
        listed = json.loads(run(python, "-m", "graphopt", "passes", "--json", cwd=work))
        missing = set(declared) - {p["name"] for p in listed["passes"]}
        if missing:
            sys.exit(f"the wheel lacks the passes {sorted(missing)}")
        models = ROOT / "models"
        out = run(
            *(python, "-m", "graphopt", "run", models / "residual.onnx"),
            *("--passes", "prune:keep_macs=0.7,quantize", "-o", work / "out.onnx"),
            *("--data", models / "data" / "fashion_mnist_calib.npz"),
            *("--eval-data", models / "data" / "fashion_mnist_eval.npz", "--samples", "256", "--json"),
            cwd=work,
        )
        result = json.loads(out)
        size = (work / "out.onnx").stat().st_size / (models / "residual.onnx").stat().st_size
        print(f"wheel ok: {len(listed['passes'])} passes, size ratio {size:.2f}, accuracy {result['accuracy']}")


if __name__ == "__main__":
    main()
