"""Bisection: the first guilty rewrite, with checks in Python and as commands."""

from __future__ import annotations

import sys

import pytest

from graphopt.errors import UsageError
from graphopt.pipeline import Pipeline
from graphopt.pipeline.bisect import bisect, command_check

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'
CHAIN = (
    HEADER
    + "g (float[4] x) => (float[4] t20) { t1 = Neg(x) "
    + (" ".join(f"t{i + 1} = Identity(t{i})" for i in range(1, 20)) + " }")
)


def nodes_at_least(count: int):
    return lambda model: len(model.graph.nodes) >= count


@pytest.mark.parametrize("guilty", [1, 2, 7, 18, 19])
def test_finds_the_first_rewrite_that_breaks_the_check(parse, registry, guilty) -> None:
    model = parse(CHAIN)
    before = model.serialize()
    result = bisect(model, Pipeline.parse("tidy", registry), registry, nodes_at_least(21 - guilty))
    assert result.limit == guilty
    assert (result.culprit.pass_name, result.culprit.rewrite) == ("drop_identity", "identity")
    assert result.culprit.node
    assert result.total == 19
    assert result.runs <= 8
    assert result.error == ""
    assert model.serialize() == before


def test_names_the_pass_among_several(parse, registry) -> None:
    model = parse(
        HEADER + "g (float[2] x) => (float[2] y) <float[2] w = {1,1}> { a = Identity(x) b = Mul(a, w) y = Identity(b) }"
    )
    model.graph.nodes[1].name = "product"
    unscaled = lambda m: m.graph.initializers[0].values[0] == 1  # noqa: E731
    result = bisect(model, Pipeline.parse("tidy,scale", registry), registry, unscaled)
    assert str(result.culprit) == "scale (scale) at product"
    assert result.limit == 3


def test_a_failing_pipeline_is_a_failed_check(parse, registry, monkeypatch, sample) -> None:
    def crash_late(self, model, ctx) -> None:
        for node in list(model.graph.nodes):
            if ctx.allow(node, "touch") and node.op == "Identity" and node.inputs[0].name == "t5":
                raise RuntimeError("no")

    monkeypatch.setattr(sample.Flip, "run", crash_late)
    model = parse(CHAIN)
    result = bisect(model, Pipeline.parse("flip", registry), registry, lambda m: True)
    assert result.limit == 6
    assert result.error == "pass 'flip' failed: RuntimeError: no"


def test_nothing_to_blame(parse, registry) -> None:
    model, pipeline = parse(CHAIN), Pipeline.parse("tidy", registry)
    with pytest.raises(UsageError, match="no rewrite is to blame: the check fails on the input model already"):
        bisect(model, pipeline, registry, lambda m: False)
    with pytest.raises(UsageError, match="passes after all 19 rewrites; there is nothing to find"):
        bisect(model, pipeline, registry, lambda m: True)
    with pytest.raises(UsageError, match="no rewrite is to blame: pass 'crash' failed"):
        bisect(model, Pipeline.parse("crash", registry), registry, lambda m: True)


SCRIPT = "import sys, onnx; sys.exit(len(onnx.load(sys.argv[-1]).graph.node) < 10)"


@pytest.mark.parametrize("tail", ["", " {}"])
def test_a_command_decides_by_its_exit_status(parse, registry, tmp_path, tail) -> None:
    script = tmp_path / "check it.py"
    script.write_text(SCRIPT)
    check = command_check(f"{sys.executable} '{script}'{tail}")
    result = bisect(parse(CHAIN), Pipeline.parse("tidy", registry), registry, check)
    assert result.limit == 11


def test_a_command_that_is_none(parse, registry) -> None:
    with pytest.raises(UsageError, match="the check command is empty"):
        command_check(" ")
    with pytest.raises(UsageError, match="No closing quotation"):
        command_check("python 'a")
    with pytest.raises(UsageError, match="'graphopt-no-such-program' does not start"):
        command_check("graphopt-no-such-program")(parse(CHAIN))
    assert not command_check(f"{sys.executable} -c 'import time; time.sleep(60)'", timeout=0.2)(parse(CHAIN))
