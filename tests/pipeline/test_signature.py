"""The interface check: a pass may not change what a user of the model relies on, unless it says so."""

from __future__ import annotations

import pytest

from graphopt.errors import PassError
from graphopt.pipeline import Pass, PassManager, Pipeline
from graphopt.pipeline.signature import difference, signature

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'
TEXT = HEADER + "g (float[N,4] x) => (float[N,4] y) { y = Neg(x) }"


@pytest.fixture
def port(parse):
    def read(inputs: str, outputs: str = "float[N,4] y"):
        return signature(parse(f"{HEADER}g ({inputs}) => ({outputs}) {{ y = Neg(x) }}").graph)

    return read


@pytest.mark.parametrize(
    ("inputs", "outputs", "said"),
    [
        ("float[N,4] x", "float[N,4] y", ""),
        ("float[2,4] x", "float[2,4] y", ""),
        ("float[N,4] x, float z", "float[N,4] y", r"the inputs were ['x'], they are ['x', 'z']"),
        ("float16[N,4] x", "float[N,4] y", "input 'x' (float, ['N', 4]) became 'x' (float16, ['N', 4])"),
        ("float[N,4] x", "float[N,2] y", "output 'y' (float, ['N', 4]) became 'y' (float, ['N', 2])"),
        ("float[N,4] x", "float[N,4,1] y", "output 'y' (float, ['N', 4]) became 'y' (float, ['N', 4, 1])"),
    ],
)
def test_difference(port, inputs, outputs, said) -> None:
    assert difference(port("float[N,4] x"), port(inputs, outputs)) == said


class Squeezing(Pass):
    """Declare another rank."""

    guarantee = "lossy"

    def run(self, model, ctx) -> None:
        graph = model.graph
        old = graph.outputs[0]
        index = graph.new_constant("index", 0)
        node = graph.add_node("Gather", [old.inputs[0].inputs[0], index], [graph.new_variable("z")], {"axis": 1})
        new = node.outputs[0]
        graph.outputs = [new]
        graph.remove_dead()
        new.name, new.dtype, new.shape = old.name, old.dtype, ["N"]


class Reshaping(Squeezing):
    """Declare another rank, and say so."""

    def changes_interface(self) -> bool:
        return True


def test_a_lossy_pass_that_changes_the_rank_of_an_output_is_refused(parse, registry) -> None:
    model = parse(TEXT)
    before = model.serialize()
    with pytest.raises(PassError, match=r"pass 'squeezing': .* output 'y' \(float, \['N', 4\]\) became 'y'"):
        PassManager(registry).run(model, Pipeline((Squeezing(),)))
    assert model.serialize() == before


def test_a_pass_that_says_so_may_change_the_interface(parse, registry) -> None:
    model = parse(TEXT)
    PassManager(registry).run(model, Pipeline((Reshaping(),)))
    assert model.graph.outputs[0].shape == ["N"]
