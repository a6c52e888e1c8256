"""Install an extra and run the tests that need it: ``python tests/packaging/extras.py tensorrt``.

Only a failing *installation* is forgiven (no network, no wheel for this platform): it is said, and the exit code is 0.
A package that installs and is then not found, and a test that fails or is skipped although its package is there, fail.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INSTALL_SECONDS = 900
CHECKS = {
    "tensorrt": (
        "from graphopt.targets.tensorrt_rtx import installed; assert installed()",
        ("tests/targets/checks", "tests/targets/test_tensorrt_table.py", "tests/cli/test_check.py"),
    ),
    "openvino": (
        "from graphopt.runtime.openvino_session import openvino_installed; assert openvino_installed()",
        (
            "tests/runtime/test_openvino_session.py",
            "tests/cli/test_bench.py",
            "tests/cli/test_openvino_run.py",
            "tests/targets/checks/test_ort_rules.py",
        ),
    ),
}


def installed(extra: str) -> str:
    """Install; gives why that did not work, "" when it did."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "-e", f"{ROOT}[{extra}]"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"pip did not end within {INSTALL_SECONDS} s"
    lines = done.stderr.strip().splitlines() or ["no message"]
    told = next((line for line in reversed(lines) if "ERROR" in line), lines[-1])
    return told.strip() if done.returncode else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extra", choices=sorted(CHECKS))
    extra = parser.parse_args().extra
    problem = installed(extra)
    if problem:
        print(f"NOT TESTED: the extra {extra} cannot be installed here: {problem}")
        return
    found, tests = CHECKS[extra]
    subprocess.run([sys.executable, "-c", found], check=True, cwd=ROOT)
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "worksteal", "-rs", *tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr, sep="\n")
    if done.returncode:
        sys.exit(done.returncode)
    if f"the extra {extra} is not installed" in done.stdout:
        sys.exit(f"tests of the extra {extra} were skipped although it is installed")


if __name__ == "__main__":
    main()
