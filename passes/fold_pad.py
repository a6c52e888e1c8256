"""Let convolution and pooling do the padding."""

from __future__ import annotations

import numpy as np

from graphopt.ir import Node
from graphopt.pipeline.cleaning import CleaningPass
from graphopt.transforms.clean.editing import Editor, Rewrite
from graphopt.transforms.clean.fact_spatial import pad_amounts
from graphopt.transforms.clean.facts import attribute


def _fold(node: Node, editor: Editor) -> bool:
    """Pad with 0, then Convs (all that read it) -> those nodes with larger ``pads``."""
    pad = editor.producer(node.inputs[0], node, "Pad")
    if pad is None or editor.is_end(node.inputs[0]):
        return False
    if not all(n.is_op("Conv") and n.inputs[0] is node.inputs[0] for n in node.inputs[0].outputs):
        return False
    amounts = _spatial_zero_padding(pad, editor)
    reason = _refusal(node)
    if amounts is None:
        return False
    if reason:
        editor.gate.skipped(node, f"Pad not folded: {reason}")
        return False
    if not editor.allow(node):
        return False
    count = len(amounts) // 2
    own = attribute(node, "pads", [0] * (2 * count))
    pads = [int(a) + int(b) for a, b in zip(own, amounts, strict=True)]
    attrs = {k: v for k, v in node.attrs.items() if k != "auto_pad"}
    made = editor.add(node.op, [pad.inputs[0], *node.inputs[1:]], node, {**attrs, "pads": pads})
    return editor.replace(node.outputs[0], made.outputs[0])


def _spatial_zero_padding(pad: Node, editor: Editor) -> list[int] | None:
    """Begin and end amounts of the axes from 2 on; None unless the Pad only adds zeros there."""
    mode = attribute(pad, "mode", "constant")
    if mode not in ("constant", b"constant"):
        return None
    if editor.opset < 11:
        fill = attribute(pad, "value", 0.0)
    elif editor.has_input(pad, 2):
        fill = editor.constant(pad, 2)
        fill = np.nan if fill is None or fill.size != 1 else fill.reshape(-1)[0]
    else:
        fill = 0.0
    amounts = pad_amounts(pad, editor.facts)
    if fill != 0 or amounts is None or not all(isinstance(a, int) and a >= 0 for a in amounts):
        return None
    rank = len(amounts) // 2
    if rank < 3 or any(amounts[i] for i in (0, 1, rank, rank + 1)):
        return None
    return [int(a) for a in (*amounts[2:rank], *amounts[rank + 2 :])]  # type: ignore[arg-type]


def _refusal(node: Node) -> str:
    """Why the padding cannot move into the node; empty when it can."""
    if attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", b"NOTSET", "VALID", b"VALID"):
        return "auto_pad would pad by other amounts"
    if node.op == "Conv":
        return ""
    if attribute(node, "ceil_mode", 0):
        return "ceil_mode counts windows differently"
    has_pads = any(attribute(node, "pads", [0]))
    if not attribute(node, "count_include_pad", 0) and has_pads:
        return "the pool leaves its own padding out of the average"
    return "" if attribute(node, "count_include_pad", 0) or not has_pads else "padding would count differently"


def _fold_average(node: Node, editor: Editor) -> bool:
    """Pad with 0, then an AveragePool without padding -> AveragePool that counts its padding."""
    pad = editor.private_producer(node.inputs[0], node, "Pad")
    amounts = None if pad is None else _spatial_zero_padding(pad, editor)
    if pad is None or amounts is None or editor.opset < 7 or _refusal(node):
        return False
    kernel = node.attrs["kernel_shape"]
    count = len(kernel)
    own = attribute(node, "pads", [0] * (2 * count))
    pads = [int(a) + int(b) for a, b in zip(own, amounts, strict=True)]
    if any(p >= kernel[i % count] for i, p in enumerate(pads)) or not editor.allow(node):
        return False
    attrs = {k: v for k, v in node.attrs.items() if k != "auto_pad"}
    attrs |= {"pads": pads, "count_include_pad": 1}
    made = editor.add(node.op, [pad.inputs[0]], node, attrs)
    return editor.replace(node.outputs[0], made.outputs[0])


REWRITES = (
    Rewrite("into_conv", ("Conv",), _fold),
    Rewrite("into_average_pool", ("AveragePool",), _fold_average),
)


class FoldPad(CleaningPass):
    """Folds a Pad with zeros into the Conv or AveragePool behind it.

    MaxPool pads with minus infinity, so zeros cannot move there.
    """

    rewrites = REWRITES
