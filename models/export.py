"""Export to ONNX opset 17 with PyTorch's TorchScript exporter."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from nets.common import Export
from patches import TOKENS
from torch import Tensor, nn

OPSET = 17


class ExportError(Exception):
    """The exported file is not what its description asks for."""


def export_model(model: nn.Module, export: Export, path: Path) -> None:
    """Write `model`, in eval mode, to `path` and check the file.

    Raises ExportError when BatchNormalization nodes were asked for and are missing or in training mode.
    """
    inputs: tuple[Tensor, ...] = (torch.rand(2, 1, 28, 28),)
    names = ["x"]
    if export.masked:
        inputs = (*inputs, torch.ones(2, TOKENS, dtype=torch.int64))
        names.append("attention_mask")
    preserve = torch.onnx.TrainingMode.PRESERVE
    torch.onnx.export(
        model,
        inputs,
        str(path),
        input_names=names,
        output_names=["logits"],
        dynamic_axes={name: {0: "N"} for name in (*names, "logits")},
        opset_version=OPSET,
        training=preserve if export.keep_batch_norm else torch.onnx.TrainingMode.EVAL,
        do_constant_folding=not export.keep_batch_norm,
        dynamo=False,
    )
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    if export.keep_batch_norm:
        _check_batch_norm(proto, path)


def _check_batch_norm(proto: onnx.ModelProto, path: Path) -> None:
    nodes = [node for node in proto.graph.node if node.op_type == "BatchNormalization"]
    if not nodes:
        raise ExportError(f"{path.name}: the exporter folded BatchNormalization")
    for node in nodes:
        training = any(a.name == "training_mode" and a.i for a in node.attribute)
        if training or len(node.output) != 1:
            raise ExportError(f"{path.name}: {node.name} is in training mode")
