"""What the OpenVINO runtime says, where it is installed: whether it compiles the model, and what runs on integers."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from pathlib import Path

from graphopt.model import Model
from graphopt.results import EngineReport, LayerPrecision, Problem
from graphopt.targets.checks.base import COMPUTE, View, quantized_layers
from graphopt.targets.marking import mark_nodes


def installed() -> bool:
    """Whether the openvino package is there. Imports nothing."""
    return importlib.util.find_spec("openvino") is not None


def compile_openvino(model: Model) -> tuple[list[Problem], EngineReport | None, str]:
    """Compile for the CPU: problems, how each layer runs, and what was asked."""
    import openvino

    work = model.clone()
    nodes = list(work.graph.walk())
    names = mark_nodes(nodes)
    quantized = {n.name for n in quantized_layers(View(work))}
    label = f"OpenVINO {openvino.__version__.split('-')[0]}, CPU"
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        path = Path(folder) / "model.onnx"
        work.save(path, external="file" if work.weight_bytes() >= 1 << 30 else "inline")
        started = time.perf_counter()
        try:
            compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_NUM_THREADS": 1})
        except RuntimeError as error:
            text = " ".join(str(error).split())[:400]
            return [Problem("load", "error", "", "", f"{label} does not compile it: {text}")], None, label
        seconds = time.perf_counter() - started
    precisions: dict[str, tuple[str, str]] = {}
    for kernel in compiled.get_runtime_model().get_ordered_ops():
        info = kernel.get_rt_info()
        kind = str(info["layerType"].astype(str)) if "layerType" in info else ""
        if kind not in ("Convolution", "MatMul", "FullyConnected", "Deconvolution"):
            continue
        precision = str(info["runtimePrecision"].astype(str))
        origin = str(info["originalLayersNames"].astype(str)) if "originalLayersNames" in info else ""
        for name in (*origin.split(","), kernel.get_friendly_name()):
            precisions[name] = precisions[name.split("/")[0]] = (precision, kind)
    layers = []
    for node in nodes:
        if node.op in COMPUTE and not node.domain:
            precision, kind = precisions.get(node.name) or precisions.get(node.outputs[0].name, ("", ""))
            shown = {"i8": "int8", "u8": "int8", "f32": "float32"}.get(precision.lower(), precision)
            layers.append(LayerPrecision(names[node.name], node.op, node.name in quantized, shown, kind))
    return [], EngineReport(label, True, seconds, layers=tuple(layers)), label
