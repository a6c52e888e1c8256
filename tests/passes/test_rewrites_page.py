"""The page of rewrites is what the cases say."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT


def test_page_is_up_to_date() -> None:
    paths = "import sys; sys.path[:0] = ['docs', '.']"
    code = f"{paths}; import make_rewrites as m; print(m.page() == m.TARGET.read_text())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True", "run python docs/make_rewrites.py"
