"""Regenerate the operator support table of the tensorrt target: ``python benchmarks/tensorrt_operators.py``.

Every single-node model among onnx's backend tests goes through the parser of NVIDIA's TensorRT for RTX, which needs
no GPU. A variant that is refused is tried once more with its integer and boolean inputs (axes, sizes) as constants.
The table keeps, for each operator, how many variants the parser took, how many of them only with constants, and what
it said about the others. It is written to ``graphopt/targets/tensorrt-operators.json``, which
``graphopt check --target tensorrt`` reads.

Needs the extra ``tensorrt`` and ``onnx`` with its test cases. Takes about ten seconds on a quiet machine. The parser
itself writes unsupported types to stderr.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.defs
import onnx.numpy_helper

OUTPUT = Path(__file__).resolve().parent.parent / "graphopt" / "targets" / "tensorrt-operators.json"
TEXTS = 3


@dataclass
class Row:
    """What the parser did with the variants of one operator."""

    known: bool
    passed: int = 0
    with_constants: int = 0
    cases: int = 0
    refusals: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Variant:
    """One test: its operator, the model, and the model with integer and boolean inputs as constants."""

    op: str
    model: bytes
    constant: bytes


def single_node_cases() -> list[Variant]:
    """Every backend test that has one node."""
    import warnings

    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(action="ignore"):
        collected = collect_testcases(None)
    found = []
    for case in collected:
        graph = case.model.graph
        if len(graph.node) == 1 and graph.node[0].domain in ("", "ai.onnx"):
            found.append(Variant(graph.node[0].op_type, case.model.SerializeToString(), with_constants(case)))
    return found


def with_constants(case: Any) -> bytes:
    """The model of a test in which integer and boolean inputs are initializers with the test's values."""
    model = onnx.ModelProto.FromString(case.model.SerializeToString())
    values = case.data_sets[0][0] if case.data_sets else []
    for info, value in zip(list(model.graph.input), values, strict=False):
        if isinstance(value, np.ndarray) and value.dtype.kind in "iub":
            model.graph.initializer.append(onnx.numpy_helper.from_array(value, info.name))
            model.graph.input.remove(info)
    return bytes(model.SerializeToString())


def survey(trt: Any, cases: list[Variant]) -> dict[str, Row]:
    """Parse all cases."""

    class Silent(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            return

    logger = Silent()
    builder = trt.Builder(logger)

    def refusal(data: bytes) -> str:
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        return "" if parser.parse(data) else text_of(parser.get_error(0).desc())

    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    rows: dict[str, Row] = {}
    for case in cases:
        row = rows.setdefault(case.op, Row(parser.supports_operator(case.op)))
        row.cases += 1
        said = refusal(case.model)
        if not said:
            row.passed += 1
        elif not refusal(case.constant):
            row.passed += 1
            row.with_constants += 1
        else:
            row.refusals[said] += 1
    missing = {s.name for s in onnx.defs.get_all_schemas() if s.domain == ""} - set(rows)
    rows.update({op: Row(parser.supports_operator(op)) for op in missing})
    return rows


def text_of(message: str) -> str:
    """The parser's words without numbers of the case, source positions and names."""
    text = re.sub(r"\(?(/\S+|\w+\.[ch]pp):\d+\)?", "", message)
    return " ".join(text.split())[:160]


def table(rows: dict[str, Row], version: str) -> dict[str, Any]:
    """The file's content."""
    operators = {}
    for op in sorted(rows):
        row = rows[op]
        entry: dict[str, Any] = {"known": row.known, "passed": row.passed, "cases": row.cases}
        if row.with_constants:
            entry["with_constants"] = row.with_constants
        if row.refusals:
            entry["refusals"] = [text for text, _ in row.refusals.most_common(TEXTS)]
        operators[op] = entry
    return {
        "made_by": "benchmarks/tensorrt_operators.py",
        "parser": f"TensorRT for RTX {version}",
        "onnx": onnx.__version__,
        "opset": onnx.defs.onnx_opset_version(),
        "cases": sum(r.cases for r in rows.values()),
        "operators": operators,
    }


def main() -> None:
    """Write the table, or with ``--check`` say whether the shipped one is what this machine gives."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("-o", "--output", type=Path, default=OUTPUT)
    options.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    chosen = options.parse_args()
    try:
        import tensorrt_rtx_bindings as trt
    except ImportError:
        sys.exit("install the extra: pip install 'graphopt[tensorrt]'")
    made = table(survey(trt, single_node_cases()), trt.__version__)
    counts: dict[str, int] = defaultdict(int)
    for entry in made["operators"].values():
        counts["operators"] += 1
        counts["known"] += entry["known"]
        counts["passing"] += entry["passed"] > 0
    print(dict(counts), made["cases"], "cases")
    if chosen.check:
        sys.exit(0 if json.loads(chosen.output.read_text()) == made else f"{chosen.output} is out of date")
    chosen.output.write_text(json.dumps(made, indent=1) + "\n")
    print(chosen.output)


if __name__ == "__main__":
    main()
