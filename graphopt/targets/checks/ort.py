"""Rules of ONNX Runtime: what does not load, what bounces to the CPU, and which quantized flavours are slow.

The slow flavours restate measurements with ONNX Runtime 1.32 on an AMD Zen4 CPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graphopt.ir import Node, is_constant
from graphopt.runtime.limits import ort_limits
from graphopt.targets.checks.base import (
    COMPUTE,
    MICROSOFT,
    QUANTIZE,
    Finding,
    Rule,
    View,
    quantized_layers,
    quantizers,
    read_quantizer,
    weight_dequantizer,
)
from graphopt.targets.qoperators import QOPERATORS, convertible

_ABSORBED = ("Relu", "Clip")
_DYNAMIC = frozenset(
    {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"}
)


def _opset(view: View) -> Iterator[Finding]:
    limits = ort_limits()
    if view.opset > limits.opset:
        yield Finding(None, f"opset {view.opset} is newer than the {limits.opset} of onnxruntime {limits.version}")


def _ir_version(view: View) -> Iterator[Finding]:
    limits, own = ort_limits(), view.model.ir_version
    if own > limits.ir_version:
        yield Finding(None, f"IR version {own} is newer than the {limits.ir_version} of onnxruntime {limits.version}")


def _scale_rank(view: View) -> Iterator[Finding]:
    for q in quantizers(view):
        if q.scale is not None and q.scale.shape == (1,) and not q.block_size:
            yield Finding(
                q.node, "a single scale of shape [1]: Add, Mul and pooling stay float, or do not load (<= 1.30)"
            )


def _symmetric_relu(view: View) -> Iterator[Finding]:
    for node in quantized_layers(view):
        for activation in (n for n in node.outputs[0].outputs if n.op in _ABSORBED):
            for q in (read_quantizer(n) for n in activation.outputs[0].outputs if n.op == QUANTIZE):
                if node.op == "Conv" and q.type == np.int8 and q.zero is not None and not np.any(q.zero):
                    yield Finding(
                        node, f"{activation.op} between it and a symmetric int8 Q: it runs in float, slower than fp32"
                    )


def _unsigned_weights(view: View) -> Iterator[Finding]:
    for node in view.ops(*COMPUTE):
        found = weight_dequantizer(node)
        if found is not None and read_quantizer(found).type == np.uint8:
            yield Finding(node, "uint8 weights run at about half the speed of int8 weights")


def _depthwise(view: View) -> Iterator[Finding]:
    for node in quantized_layers(view):
        shape = view.shape(node.inputs[1])
        if node.op == "Conv" and shape is not None and int(node.attrs.get("group", 1)) > 1 and shape[1] == 1:
            yield Finding(node, "int8 depthwise convolutions run at 0.5 to 1.05 times the speed of float32")


def _no_output(view: View) -> Iterator[Finding]:
    for node in quantized_layers(view):
        if node.op == "Conv" and not _feeds_quantizer(node):
            yield Finding(node, "no QuantizeLinear behind it: it runs in float")


def _feeds_quantizer(node: Node) -> bool:
    readers = list(node.outputs[0].outputs)
    if len(readers) == 1 and readers[0].op in _ABSORBED:
        readers = list(readers[0].outputs[0].outputs)
    return any(n.op == QUANTIZE for n in readers)


def _half_weights(view: View) -> Iterator[Finding]:
    for node in view.ops(*COMPUTE):
        if len(node.inputs) > 1 and is_constant(node.inputs[1]) and view.dtype(node.inputs[1]) == np.float16:
            yield Finding(None, "float16 weights: the CPU provider casts to float32 and gains nothing")
            return


def _bounces(view: View) -> Iterator[Finding]:
    for node in view.nodes:
        if node.op in QOPERATORS and (node.domain or "") in ("", MICROSOFT):
            yield Finding(
                node, f"{node.op} has no CUDA kernel: it runs on the CPU, with copies", fixable=convertible(node)
            )
        elif node.op in _DYNAMIC and (node.domain or "") in ("", MICROSOFT):
            yield Finding(node, f"{node.op} has no CUDA kernel: it runs on the CPU, with copies", "use float16", False)


def _no_integer_kernels(view: View) -> Iterator[Finding]:
    layers = sum(1 for _ in quantized_layers(view))
    if layers:
        yield Finding(None, f"{layers} layers have Q/DQ, and the CUDA provider has no int8 kernels: they run in float")


STAMPS = (
    Rule("opset", "error", "--fix stamps a lower one where no operator changed in between", _opset, fixable=True),
    Rule(
        "ir-version", "error", "--fix stamps a lower one where the model needs nothing newer", _ir_version, fixable=True
    ),
)
CPU_RULES = (
    *STAMPS,
    Rule("scale-rank", "warning", "store the scale and zero point with rank 0", _scale_rank, fixable=True),
    Rule("symmetric-relu", "warning", "quantize for --target ort-cpu (uint8 activations)", _symmetric_relu),
    Rule("uint8-weight", "warning", "quantize with types=u8s8", _unsigned_weights),
    Rule("depthwise-int8", "warning", "leave it in float; quantize for --target ort-cpu does", _depthwise),
    Rule("no-output-quantizer", "warning", "quantize its output too", _no_output),
    Rule("float16", "note", "use float32 or int8 on the CPU", _half_weights),
)
CUDA_RULES = (
    *STAMPS,
    Rule("cpu-only", "warning", "use the Q/DQ form", _bounces, fixable=True),
    Rule("no-int8", "warning", "use float16 there, or --target tensorrt for int8", _no_integer_kernels),
)
