"""A small convolution with Q/DQ around it, in every flavour that target rules tell apart."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SCALE = 0.05


@dataclass(frozen=True)
class Flavour:
    """x -> Q -> DQ -> Conv ``conv`` (weight through DQ ``dq_w``) -> Relu -> Q ``q_y`` -> DQ."""

    act: str = "int8"
    zero: int = 0
    has_zero: bool = True
    scale_shape: tuple[int, ...] = ()
    weight: str = "int8"
    weight_zero: int = 0
    axis: int | None = 0
    bias: str = "float32"
    relu: bool = True
    output: bool = True
    quantize_input: bool = True
    quantize_weight: bool = True
    op: str = "Conv"
    depthwise: bool = False
    channels: int = 16
    scale: float = SCALE
    batch: int | str = 1
    opset: int = 17
    ir_version: int = 9
    domain: str = ""


@dataclass
class _Builder:
    flavour: Flavour
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, name: str, value: object, dtype: str) -> str:
        if dtype == "int4":
            flat = [int(v) for v in np.ravel(value)]
            self.constants.append(helper.make_tensor(name, TensorProto.INT4, np.shape(value), flat))
        else:
            self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def quantizer(self, op: str, source: str, name: str, scale: list[str], **attrs: int) -> str:
        self.nodes.append(
            helper.make_node(op, [source, *scale], [f"{name}_out"], name, domain=self.flavour.domain, **attrs)
        )
        return f"{name}_out"


def qdq_net(flavour: Flavour) -> onnx.ModelProto:
    """The model. Input ``x`` [batch, channels, 8, 8], output ``y``."""
    f, rng, b = flavour, np.random.default_rng(0), _Builder(flavour)
    params = [b.constant("a_scale", np.full(f.scale_shape, f.scale), "float32")]
    if f.has_zero:
        params.append(b.constant("a_zero", np.full(f.scale_shape, f.zero), f.act))
    data = "x"
    if f.quantize_input:
        data = b.quantizer("DequantizeLinear", b.quantizer("QuantizeLinear", "x", "q_x", params), "dq_x", params)
    inputs = [data, _weight(b, rng), *_bias(b, rng)]
    attrs = {"pads": [1] * 4, "group": f.channels if f.depthwise else 1}
    b.nodes.append(helper.make_node(f.op, inputs, ["c"], "conv", **attrs))
    last = "c"
    if f.relu:
        b.nodes.append(helper.make_node("Relu", ["c"], ["r"], "relu"))
        last = "r"
    if f.output:
        last = b.quantizer("DequantizeLinear", b.quantizer("QuantizeLinear", last, "q_y", params), "dq_y", params)
    b.nodes.append(helper.make_node("Identity", [last], ["y"], "end"))
    shape = [f.batch, f.channels, 8, 8]
    graph = helper.make_graph(
        b.nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        b.constants,
    )
    opsets = [helper.make_opsetid("", f.opset)]
    if f.domain:
        opsets.append(helper.make_opsetid(f.domain, 1))
    return helper.make_model(graph, opset_imports=opsets, ir_version=f.ir_version)


def _weight(b: _Builder, rng: np.random.Generator) -> str:
    f = b.flavour
    shape = (f.channels, 1 if f.depthwise else f.channels, 3, 3)
    if not f.quantize_weight:
        return b.constant("w", rng.normal(size=shape) * 0.1, "float32")
    low, high = {"int8": (-127, 127), "uint8": (0, 255), "int4": (-7, 7)}[f.weight]
    count = () if f.axis is None else (shape[f.axis],)
    names = [
        b.constant("w", rng.integers(low, high, shape, endpoint=True), f.weight),
        b.constant("w_scale", rng.uniform(0.001, 0.002, count), "float32"),
        b.constant("w_zero", np.full(count, f.weight_zero), f.weight),
    ]
    attrs = {} if f.axis is None else {"axis": f.axis}
    return b.quantizer("DequantizeLinear", names[0], "dq_w", names[1:], **attrs)


def _scale(b: _Builder, name: str, channels: int) -> np.ndarray:
    found = next(numpy_helper.to_array(c) for c in b.constants if c.name == name)
    return np.broadcast_to(found, (channels,))


def _bias(b: _Builder, rng: np.random.Generator) -> list[str]:
    f = b.flavour
    if f.bias == "float32":
        return [b.constant("b", rng.normal(size=f.channels), "float32")]
    names = [
        b.constant("b", rng.integers(-9999, 9999, f.channels), "int32"),
        b.constant("b_scale", np.float32(f.scale) * _scale(b, "w_scale", f.channels), "float32"),
    ]
    b.nodes.append(helper.make_node("DequantizeLinear", names, ["b_out"], "dq_b", axis=0))
    return ["b_out"]
