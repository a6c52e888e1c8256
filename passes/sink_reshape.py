"""Move Reshapes through elementwise operators until they meet another one."""

from __future__ import annotations

from collections.abc import Iterable

from graphopt.ir import Node, Tensor, is_constant
from graphopt.pipeline.cleaning import CleaningPass
from graphopt.transforms.clean.editing import Editor, Rewrite
from graphopt.transforms.clean.facts import attribute
from graphopt.transforms.clean.views import VIEWS, can_reshape, is_view, reshaped

MAX_REGION = 32
ROWWISE = frozenset({"LayerNormalization", "RMSNormalization", "Softmax", "LogSoftmax"})
FLATTENING = frozenset({"Softmax", "LogSoftmax"})
"""These work on all axes from ``axis`` on together before opset 13."""
ELEMENTWISE = (
    *("Abs", "Cast", "Ceil", "Clip", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu"),
    *(
        "Log",
        "Mish",
        "Neg",
        "Not",
        "Relu",
        "Sigmoid",
        "Sign",
        "Softplus",
        "Sqrt",
        "Tanh",
        "Add",
        "Mul",
        "Sub",
        "Div",
        "Pow",
    ),
)


def _reshape_around(node: Node, editor: Editor) -> bool:
    """View(elementwise region(View(x))) -> the region on x, or on one Reshape of x.

    The region is closed: it reads one view and numbers, and only ``node`` reads its result.
    """
    if not is_view(node, editor):
        return False
    region = _region(node, editor)
    if region is None:
        return False
    first, members = region
    source, shape = first.inputs[0], editor.fact(node.outputs[0]).shape
    if shape is None or not can_reshape(source, shape, editor) or not editor.allow(node):
        return False
    start = reshaped(source, shape, first, editor)
    assert start is not None
    made = {first.outputs[0]: start}
    for member in members:
        inputs = [made.get(t, t) for t in member.inputs]
        attrs = {**member.attrs, "axis": -1} if member.op in ROWWISE else dict(member.attrs)
        made[member.outputs[0]] = editor.new(member.op, inputs, member, attrs)
    return editor.replace(node.outputs[0], made[node.inputs[0]])


def _region(node: Node, editor: Editor) -> tuple[Node, list[Node]] | None:
    """The view that starts the region, and its elementwise nodes in order."""
    shape = editor.fact(node.inputs[0]).shape
    first: Node | None = None
    found: dict[Node, None] = {}
    stack = [node.inputs[0]]
    while stack:
        tensor = stack.pop()
        member = editor.producer(tensor, node)
        if member is None or shape is None or editor.is_end(tensor) or len(found) > MAX_REGION:
            return None
        if editor.fact(tensor).shape == shape and (member.op in ELEMENTWISE or _is_rowwise(member, len(shape), editor)):
            if member not in found:
                found[member] = None
                stack.extend(t for t in member.inputs if not _stays(t, node, member, editor))
        elif is_view(member, editor) and first in (None, member):
            first = member
        else:
            return None
    if first is None or not found:
        return None
    inside = {*found, node}
    if not _keeps_rows(found, node, editor):
        return None
    closed = all(r in inside for m in (first, *found) for r in m.outputs[0].outputs)
    if not closed or any(len(m.outputs) > 1 for m in found):
        return None
    return first, _ordered(found, first)


def _ordered(found: dict[Node, None], first: Node) -> list[Node]:
    """The region's nodes, producers first."""
    order: list[Node] = []
    ready = {first.outputs[0]}
    waiting = list(found)
    while waiting:
        rest = []
        for member in waiting:
            produced = [t for t in member.inputs if t.inputs and t.inputs[0] in found]
            if all(t in ready for t in produced):
                order.append(member)
                ready.add(member.outputs[0])
            else:
                rest.append(member)
        waiting = rest
    return order


def _is_rowwise(node: Node, rank: int, editor: Editor) -> bool:
    """Whether the node works on the last axis alone."""
    if node.op not in ROWWISE or (node.op in FLATTENING and editor.opset < 13):
        return False
    return attribute(node, "axis", -1) in (-1, rank - 1)


def _stays(tensor: Tensor, last: Node, member: Node, editor: Editor) -> bool:
    """Whether an input of the region is left as it is: omitted, one number, or one for each place of the last axis."""
    if tensor.is_empty():
        return True
    shape, before = editor.fact(tensor).shape, editor.fact(last.inputs[0]).shape
    if not is_constant(tensor) or shape is None or not before:
        return False
    return shape in ((), (1,)) or shape == before[-1:]


def _keeps_rows(members: Iterable[Node], last: Node, editor: Editor) -> bool:
    """Whether the last axis is the same everywhere, as far as something depends on it."""
    before, after = editor.fact(last.inputs[0]).shape, editor.fact(last.outputs[0]).shape
    if before and after and before[-1] == after[-1]:
        return True
    reads = [t for m in members for t in m.inputs if not t.is_empty() and is_constant(t)]
    return all(m.op not in ROWWISE for m in members) and all(editor.fact(t).shape in ((), (1,)) for t in reads)


REWRITES = (Rewrite("reshape_around", (*VIEWS, "Transpose"), _reshape_around),)


class SinkReshape(CleaningPass):
    """Removes a Reshape before and one after a group of elementwise operators, or makes one of the two.

    The group reads one Reshape and constants, and one Reshape reads it. Operators on the last axis (LayerNormalization,
    Softmax) may take part when that axis keeps its extent.
    """

    rewrites = REWRITES
