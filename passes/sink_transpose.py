"""Move Transposes down through elementwise operators until they meet another one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.ir import Node, Tensor, is_constant
from graphopt.pipeline.cleaning import CleaningPass
from graphopt.transforms.clean.editing import Editor, Rewrite
from graphopt.transforms.clean.facts import attribute

UNARY = frozenset(
    (
        *("Abs", "Cast", "Ceil", "Clip", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish"),
        *("LeakyRelu", "Log", "Mish", "Neg", "Not", "Relu", "Selu", "Sigmoid", "Sign", "Softplus", "Sqrt", "Tanh"),
    )
)
BINARY = frozenset(("Add", "Div", "Max", "Min", "Mul", "Pow", "PRelu", "Sub"))
MAX_CHAIN = 16


@dataclass(frozen=True)
class Step:
    """An elementwise node on the way; ``others`` are its further inputs by position."""

    node: Node
    others: dict[int, Tensor]


def _sink(node: Node, editor: Editor) -> bool:
    """Transpose, elementwise operators, Transpose -> the operators, then one Transpose or none."""
    perm = _perm(node, editor)
    first = editor.only_user(node.outputs[0])
    if perm is None or first is None:
        return False
    chain = _chain(node, first, perm, editor)
    if chain is None:
        return False
    steps, last = chain
    if not editor.allow(node):
        return False
    tensor = node.inputs[0]
    for step in steps:
        given = enumerate(step.node.inputs)
        inputs = [_untransposed(t, step, perm, editor) if i in step.others else tensor for i, t in given]
        tensor = editor.new(step.node.op, inputs, step.node, dict(step.node.attrs))
    outer = _perm(last, editor)
    assert outer is not None
    total = [perm[p] for p in outer]
    if total == list(range(len(total))) and not editor.is_end(last.outputs[0]):
        return editor.replace(last.outputs[0], tensor)
    return editor.replace(last.outputs[0], editor.new("Transpose", [tensor], last, {"perm": total}))


def _chain(node: Node, first: Node, perm: list[int], editor: Editor) -> tuple[list[Step], Node] | None:
    """The elementwise nodes from a Transpose to the next one, each the only reader of the one before."""
    steps: list[Step] = []
    tensor, user = node.outputs[0], first
    while len(steps) < MAX_CHAIN:
        if user.is_op("Transpose"):
            return (steps, user) if steps else None
        step = _step(user, tensor, perm, editor)
        following = editor.only_user(user.outputs[0]) if user.outputs else None
        if step is None or following is None:
            return None
        steps.append(step)
        tensor, user = user.outputs[0], following
    return None


def _step(user: Node, tensor: Tensor, perm: list[int], editor: Editor) -> Step | None:
    if user.domain or len(user.outputs) != 1 or sum(t is tensor for t in user.inputs) != 1:
        return None
    others = {i: t for i, t in enumerate(user.inputs) if t is not tensor}
    if user.op in UNARY:
        plain = user.inputs[0] is tensor and all(t.is_empty() or editor.fact(t).shape == () for t in others.values())
        return Step(user, others) if plain else None
    if user.op not in BINARY or editor.opset < 7 or editor.fact(user.outputs[0]).shape != editor.fact(tensor).shape:
        return None
    for other in others.values():
        constant = is_constant(other)
        turned = editor.private_producer(other, user, "Transpose")
        if not constant and (turned is None or _perm(turned, editor) != perm):
            return None
    if user.op == "PRelu" and user.inputs[0] is not tensor:
        return None
    return Step(user, others)


def _untransposed(tensor: Tensor, step: Step, perm: list[int], editor: Editor) -> Tensor | None:
    """The further input as it must be before the Transpose."""
    if tensor.is_empty():
        return None
    shape = editor.fact(tensor).shape
    if shape == () or step.node.op in UNARY:
        return tensor
    if not is_constant(tensor):
        return tensor.inputs[0].inputs[0]
    position = next(i for i, t in step.others.items() if t is tensor)
    value = np.asarray(editor.constant(step.node, position))
    wide = value.reshape((1,) * (len(perm) - value.ndim) + value.shape)
    return editor.const(step.node, np.ascontiguousarray(wide.transpose(np.argsort(perm))))


def _perm(node: Node, editor: Editor) -> list[int] | None:
    rank = editor.fact(node.inputs[0]).rank
    if rank is None:
        return None
    return [int(p) for p in attribute(node, "perm", list(range(rank))[::-1])]


def _into_reduction(node: Node, editor: Editor) -> bool:
    """A reduction over a Transpose, dimensions dropped -> the reduction of other axes, when order allows."""
    turned = editor.private_producer(node.inputs[0], node, "Transpose")
    perm = None if turned is None else _perm(turned, editor)
    axes = editor.ints(node, 1) if editor.has_input(node, 1) else node.attrs.get("axes")
    if turned is None or perm is None or not axes:
        return False
    rank = len(perm)
    gone = sorted(perm[a % rank] for a in axes)
    kept = [p for p in perm if p not in gone]
    if kept != sorted(kept) or (attribute(node, "keepdims", 1) and _moved_ones(perm, gone)) or not editor.allow(node):
        return False
    attrs = {k: v for k, v in node.attrs.items() if k != "axes"}
    inputs: list[Tensor] = [turned.inputs[0]]
    if editor.has_input(node, 1):
        inputs.append(editor.const(node, gone))
    else:
        attrs["axes"] = gone
    return editor.replace(node.outputs[0], editor.new(node.op, inputs, node, attrs))


def _moved_ones(perm: list[int], gone: list[int]) -> bool:
    """Whether reduced axes stand elsewhere after the Transpose than before."""
    return [p in gone for p in perm] != [i in gone for i in range(len(perm))]


REDUCTIONS = ("ReduceMax", "ReduceMin")
SUMS = ("ReduceMean", "ReduceSum", "ReduceProd", "ReduceL1", "ReduceL2")

REWRITES = (
    Rewrite("sink", ("Transpose",), _sink),
    Rewrite("into_reduction", REDUCTIONS, _into_reduction),
    Rewrite("into_sum", SUMS, _into_reduction, "equivalent"),
)


class SinkTranspose(CleaningPass):
    """Moves a Transpose through elementwise operators when another Transpose stands at the end.

    Exports of channels-last networks (TensorFlow) have a pair around every convolution; with the pairs gone the
    network runs channels-first throughout. Constants on the way are transposed with it.
    """

    rewrites = REWRITES
