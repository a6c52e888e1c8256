"""A pass of your own.

graphopt run model.onnx --plugin examples/remove_dropout.py --passes remove_dropout -o out.onnx
"""

from graphopt import Model
from graphopt.pipeline import Context, Pass


class RemoveDropout(Pass):
    """Remove Dropout; it does nothing at inference."""

    guarantee = "exact"

    def run(self, model: Model, ctx: Context) -> None:
        for node in [n for n in model.graph.walk() if n.is_op("Dropout")]:
            if ctx.allow(node):
                model.graph.replace_uses(node.outputs[0], node.inputs[0])
                ctx.did(node, "removed")
        model.graph.remove_dead()
