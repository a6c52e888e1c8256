"""Operators that only give a tensor another shape, and how to write one shape change as a Reshape."""

from __future__ import annotations

from graphopt.ir import Node, Tensor
from graphopt.transforms.clean.editing import Editor
from graphopt.transforms.clean.facts import SymShape, attribute
from graphopt.transforms.clean.symbols import Expr, is_positive

VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def constant_target(shape: SymShape, data: SymShape | None) -> list[int] | None:
    """A Reshape target of numbers that gives ``shape``: 0 copies an extent of ``data``, -1 stands for one other."""
    target: list[int] = []
    for index, extent in enumerate(shape):
        if isinstance(extent, int):
            if extent == 0:
                return None
            target.append(extent)
        elif data is not None and index < len(data) and data[index] == extent:
            target.append(0)
        else:
            target.append(-1)
    if target.count(-1) > 1 or (-1 in target and not all(is_positive(e) for e in shape if isinstance(e, Expr))):
        return None
    return target


def is_view(node: Node, editor: Editor) -> bool:
    """Whether the node keeps the elements and their order: a shape change, or a Transpose that moves extents of 1."""
    if node.domain:
        return False
    if node.op in VIEWS:
        return True
    if node.op != "Transpose":
        return False
    shape = editor.fact(node.inputs[0]).shape
    if shape is None:
        return False
    perm = attribute(node, "perm", list(range(len(shape)))[::-1])
    wide = [a for a in perm if shape[a] != 1]
    return wide == sorted(wide)


def view_producer(tensor: Tensor, user: Node, editor: Editor, private: bool = True) -> Node | None:
    """The view that makes the tensor; with ``private`` only if ``user`` alone reads it."""
    find = editor.private_producer if private else editor.producer
    node = find(tensor, user, *VIEWS, "Transpose")
    return node if node is not None and is_view(node, editor) else None


def view_user(tensor: Tensor, editor: Editor) -> Node | None:
    """The view that alone reads the tensor."""
    user = editor.only_user(tensor)
    return user if user is not None and user.inputs[0] is tensor and is_view(user, editor) else None


def reshaped(tensor: Tensor, shape: SymShape, near: Node, editor: Editor) -> Tensor | None:
    """The tensor in another shape: itself, or the output of a new Reshape; None when ONNX cannot say it."""
    data = editor.fact(tensor).shape
    if data == shape:
        return tensor
    if not can_reshape(tensor, shape, editor):
        return None
    target = constant_target(shape, data)
    assert target is not None
    return editor.new("Reshape", [tensor, editor.const(near, target, hint=f"{near.name or near.op}_shape")], near)


def can_reshape(tensor: Tensor, shape: SymShape, editor: Editor) -> bool:
    """Whether ``reshaped`` would succeed."""
    data = editor.fact(tensor).shape
    return data == shape or (editor.opset >= 5 and data is not None and constant_target(shape, data) is not None)
