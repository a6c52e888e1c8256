"""A model in float32, to check what was done to its graph without the rounding of its own narrow type."""

from __future__ import annotations

from graphopt.graph import Graph
from graphopt.ir import Variable
from graphopt.model import Model
from graphopt.transforms.quantize.casting import NARROW, widen


def in_float32(model: Model) -> Model:
    """``model`` itself, or, when it has float16 or bfloat16 tensors, a clone in float32.

    Inputs of the clone keep their types, also where they are outputs; other outputs and inner tensors keep their names
    and become float32.
    """
    narrow = set(NARROW.values())
    if not any(t.dtype in narrow for g in model.graph.graphs() for t in g.tensors().values()):
        return model
    clone = model.clone()
    widen(clone)
    for place, tensor in enumerate(clone.graph.outputs):
        if isinstance(tensor, Variable) and tensor.dtype in narrow and tensor.inputs:
            clone.graph.outputs[place] = _without_cast(clone.graph, tensor)
    return clone


def _without_cast(graph: Graph, output: Variable) -> Variable:
    """The float32 tensor behind the Cast that makes an output, under the output's name."""
    cast = output.inputs[0]
    wide = cast.inputs[0]
    assert isinstance(wide, Variable)
    name = output.name
    graph.remove_nodes([cast])
    output.name = f"{name}_narrow"
    wide.name = name
    return wide
