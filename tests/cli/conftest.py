"""Running the command line in this process."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from cli_net import make_net

from graphopt.cli.main import main


@dataclass(frozen=True)
class Done:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def graphopt(monkeypatch, capfd):
    """Run ``graphopt`` with these words."""

    def run(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["graphopt", *map(str, words)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Done(code, out, err)

    return run


@pytest.fixture
def net(tmp_path):
    """A small model file."""
    path = tmp_path / "net.onnx"
    onnx.save(make_net(), path)
    return path


@pytest.fixture
def data(tmp_path):
    """Samples with labels for ``net``."""
    rng = np.random.default_rng(1)
    path = tmp_path / "data.npz"
    np.savez(path, x=rng.standard_normal((40, 4), np.float32), labels=rng.integers(0, 3, 40))
    return path
