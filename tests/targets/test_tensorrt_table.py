"""The shipped operator table: how it is made, and that the shipped one is what the command makes."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from importlib.resources import files
from pathlib import Path

import onnx
import pytest

from graphopt.targets import tensorrt_rtx

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "tensorrt_operators.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("tensorrt_operators", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_shipped_table_names_its_origin():
    table = json.loads(files("graphopt.targets").joinpath("tensorrt-operators.json").read_text())
    assert "TensorRT for RTX" in table["parser"]
    assert table["cases"] == sum(row["cases"] for row in table["operators"].values()) > 1400
    for op, row in table["operators"].items():
        assert 0 <= row.get("with_constants", 0) <= row["passed"] <= row["cases"], op
        assert bool(row.get("refusals")) == (row["passed"] < row["cases"]), op


def test_a_row_keeps_counts_and_the_commonest_words(script):
    row = script.Row(True, passed=2, with_constants=1, cases=5, refusals=Counter({"b": 2, "a": 1}))
    (entry,) = script.table({"Op": row}, "1.2")["operators"].values()
    assert entry == {"known": True, "passed": 2, "cases": 5, "with_constants": 1, "refusals": ["b", "a"]}


def test_integer_inputs_become_constants(script):
    case = next(c for c in script.single_node_cases() if c.op == "ReduceSum")
    before, after = onnx.ModelProto.FromString(case.model), onnx.ModelProto.FromString(case.constant)
    assert len(before.graph.input) == 2
    assert [i.name for i in after.graph.initializer] == [before.graph.input[1].name]
    onnx.checker.check_model(after)


@pytest.mark.slow
@pytest.mark.skipif(not tensorrt_rtx.installed(), reason="the extra tensorrt is not installed")
def test_the_command_makes_the_shipped_table(script):
    trt = importlib.import_module(tensorrt_rtx.MODULE)
    shipped = json.loads(files("graphopt.targets").joinpath("tensorrt-operators.json").read_text())
    made = script.table(script.survey(trt, script.single_node_cases()), trt.__version__)
    if (made["parser"], made["onnx"]) != (shipped["parser"], shipped["onnx"]):
        pytest.skip("another version made the shipped table")
    assert made == shipped
