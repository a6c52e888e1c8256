"""onnx's light backend models: big networks whose weights are formulas. They stay small, valid and equal."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.backend.test
import pytest

from graphopt import load
from graphopt.pipeline import PassManager, Pipeline, Registry

LIGHT = sorted((Path(onnx.backend.test.__file__).parent / "data" / "light").glob("light_*.onnx"))


@pytest.mark.parametrize("path", LIGHT, ids=lambda p: p.stem)
def test_light_model(path: Path) -> None:
    registry = Registry()
    model = load(path)
    inputs = [t.name for t in model.graph.inputs]
    nodes = len(model.graph.nodes)
    PassManager(registry).run(model, Pipeline.parse("cleanup", registry))
    cleaned = model.to_proto()
    onnx.checker.check_model(cleaned, full_check=True)
    weights = {t.name for t in cleaned.graph.initializer}
    assert [i.name for i in cleaned.graph.input if i.name not in weights] == inputs
    assert weights <= {i.name for i in cleaned.graph.input}, "IR version 3 lists weights among the inputs"
    assert sum(n.op != "Constant" for n in model.graph.nodes) <= nodes
    assert cleaned.ir_version == onnx.load(path, load_external_data=False).ir_version
    assert cleaned.ByteSize() < path.stat().st_size + 8 * 2**20


def test_there_are_light_models() -> None:
    assert len(LIGHT) >= 9
