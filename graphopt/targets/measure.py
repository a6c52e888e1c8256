"""Makes a latency profile of ONNX Runtime's CPU provider on this machine: ``graphopt profile``.

Each point is a chain of equal layers, in float and with Q/DQ around each, timed interleaved with one thread; the
figure is the median of the thread's CPU time, so that other load matters little.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphopt.runtime.cpu import cpu_info

_CHAIN = 4
_CONVS = {"conv3x3": (3, False), "conv1x1": (1, False), "depthwise": (3, True)}
_CHANNELS = {16: 56, 32: 56, 64: 28, 128: 28, 256: 14, 512: 7}
_STEM_SIDE = 64
_STEM_KERNELS = (3, 7)
_STEM_CHANNELS = (16, 32, 64)
_ROWS = (1, 16, 128, 512)
_WIDTHS = (64, 256, 1024)
_LSTM_STEPS = 32
_LSTM_WIDTHS = (16, 32, 64, 128, 256, 512)
_POINTWISE = ("Add", "Mul")
_UNARY = ("Sigmoid", "HardSwish", "HardSigmoid", "LeakyRelu", "Tanh", "GlobalAveragePool", "Transpose", "Concat")
_POOLS = ("AveragePool", "MaxPool")
_SIZES = (4096, 262144)


@dataclass
class _Builder:
    """A model under construction: one input ``x``, a chain of nodes, one output."""

    shape: tuple[int, ...]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, Any] = field(default_factory=dict)
    last: str = "x"

    def weight(self, name: str, value: Any) -> str:
        self.weights[name] = np.asarray(value)
        return name

    def node(self, op: str, inputs: Iterable[str], **attrs: Any) -> str:
        out = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], **attrs))
        return out

    def quantize(self, tensor: str, scale: float = 0.02, zero: int = 0) -> str:
        s, z = self.weight(f"s{scale}", np.float32(scale)), self.weight(f"z{zero}", np.uint8(zero))
        return self.node("DequantizeLinear", [self.node("QuantizeLinear", [tensor, s, z]), s, z])

    def build(self) -> bytes:
        value = helper.make_tensor_value_info
        weights = [numpy_helper.from_array(v, k) for k, v in self.weights.items()]
        graph = helper.make_graph(
            self.nodes,
            "g",
            [value("x", TensorProto.FLOAT, self.shape)],
            [value(self.last, TensorProto.FLOAT, None)],
            weights,
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        return bytes(model.SerializeToString())


def _weight(builder: _Builder, value: Any, axis: int, quantized: bool) -> str:
    name = f"w{len(builder.weights)}"
    if not quantized:
        return builder.weight(name, value)
    scale = builder.weight(f"{name}s", np.full(value.shape[axis], 0.01, np.float32))
    zero = builder.weight(f"{name}z", np.zeros(value.shape[axis], np.int8))
    data = builder.weight(name, np.clip(np.rint(value * 100), -127, 127).astype(np.int8))
    return builder.node("DequantizeLinear", [data, scale, zero], axis=axis)


def _conv_chain(kernel: int, depthwise: bool, channels: int, side: int, quantized: bool) -> bytes:
    rng = np.random.default_rng(0)
    b = _Builder((1, channels, side, side))
    if quantized:
        b.last = b.quantize(b.last)
    for _ in range(_CHAIN):
        shape = (channels, 1 if depthwise else channels, kernel, kernel)
        w = _weight(b, rng.standard_normal(shape).astype(np.float32) * 0.1, 0, quantized)
        attrs = {"pads": [kernel // 2] * 4, "group": channels if depthwise else 1}
        b.last = b.node("Relu", [b.node("Conv", [b.last, w], **attrs)])
        if quantized:
            b.last = b.quantize(b.last)
    return b.build()


def _stem(kernel: int, channels: int, quantized: bool) -> bytes:
    """The first layer of a vision net: three channels in, which needs im2col on integers."""
    b = _Builder((1, 3, _STEM_SIDE, _STEM_SIDE))
    if quantized:
        b.last = b.quantize(b.last)
    w = _weight(b, np.full((channels, 3, kernel, kernel), 0.05, np.float32), 0, quantized)
    b.last = b.node("Relu", [b.node("Conv", [b.last, w], pads=[kernel // 2] * 4)])
    b.last = b.quantize(b.last) if quantized else b.last
    b.last = b.node("MaxPool", [b.last], kernel_shape=[1, 1], strides=[_STEM_SIDE, _STEM_SIDE])
    b.last = b.quantize(b.last) if quantized else b.last
    return b.build()


def _matmul_chain(rows: int, width: int, quantized: bool) -> bytes:
    rng = np.random.default_rng(0)
    b = _Builder((rows, width))
    for _ in range(_CHAIN):
        source = b.quantize(b.last, zero=128) if quantized else b.last
        w = _weight(b, rng.standard_normal((width, width)).astype(np.float32) * 0.05, 1, quantized)
        b.last = b.node("MatMul", [source, w])
    return b.build()


def _lstm_chain(width: int, quantized: bool) -> bytes:
    """LSTMs of one direction and one sample, each in float or as DynamicQuantizeLSTM."""
    rng = np.random.default_rng(0)
    b = _Builder((_LSTM_STEPS, 1, width))
    axes = b.weight("axes", np.array([1], np.int64))
    for index in range(_CHAIN):
        gates = [(rng.standard_normal((1, 4 * width, width)) / width**0.5).astype(np.float32) for _ in range(2)]
        if quantized:
            stored = [np.clip(np.rint(g.transpose(0, 2, 1) * 50), -127, 127).astype(np.int8) for g in gates]
            names = [b.weight(f"{n}{index}", v) for n, v in zip("wr", stored, strict=True)]
            scale = b.weight("scale", np.full((1, 4 * width), 0.02, np.float32))
            zero = b.weight("zero", np.zeros((1, 4 * width), np.int8))
            inputs = [b.last, *names, *[""] * 5, scale, zero, scale, zero]
            made = b.node("DynamicQuantizeLSTM", inputs, hidden_size=width, domain="com.microsoft")
        else:
            names = [b.weight(f"{n}{index}", v) for n, v in zip("wr", gates, strict=True)]
            made = b.node("LSTM", [b.last, *names], hidden_size=width)
        b.last = b.node("Squeeze", [made, axes])
    return b.build()


def _element_chain(op: str, elements: int, quantized: bool) -> bytes:
    side = int((elements / 16) ** 0.5)
    b = _Builder((1, 16, side, side))
    if quantized:
        b.last = b.quantize(b.last)
    for _ in range(2 if op == "GlobalAveragePool" else _CHAIN):
        second = [b.last] if op in (*_POINTWISE, "Concat") else []
        known: dict[str, dict[str, Any]] = {"Transpose": {"perm": [0, 1, 3, 2]}, "Concat": {"axis": 0}}
        attrs = known.get(op, {})
        b.last = b.node(op, [b.last, *second], **attrs)
        if quantized:
            b.last = b.quantize(b.last)
    return b.build()


def _pool_chain(op: str, elements: int, quantized: bool) -> bytes:
    """Pools between convolutions, where they run in the convolution's layout; without ``op`` only those."""
    side = int((elements / 16) ** 0.5)
    b = _Builder((1, 16, side, side))
    if quantized:
        b.last = b.quantize(b.last)
    for _ in range(_CHAIN):
        w = _weight(b, np.full((16, 16, 1, 1), 0.05, np.float32), 0, quantized)
        b.last = b.node("Relu", [b.node("Conv", [b.last, w])])
        b.last = b.quantize(b.last) if quantized else b.last
        if op:
            b.last = b.node(op, [b.last], kernel_shape=[3, 3], pads=[1] * 4)
            b.last = b.quantize(b.last) if quantized else b.last
    return b.build()


def _plain_border(pair: bool, elements: int) -> bytes:
    """Float operators with a Q/DQ pair between them, or without."""
    side = int((elements / 16) ** 0.5)
    b = _Builder((1, 16, side, side))
    for _ in range(_CHAIN):
        b.last = b.node("Tanh", [b.last])
        if pair:
            b.last = b.quantize(b.last)
    return b.build()


def _conv_border(flavours: tuple[bool, ...], elements: int) -> bytes:
    """A chain of convolutions, each float or integer: borders between them change type and layout."""
    side = int((elements / 16) ** 0.5)
    b = _Builder((1, 16, side, side))
    for index, quantized in enumerate(flavours):
        if quantized and (index == 0 or not flavours[index - 1]):
            b.last = b.quantize(b.last)
        w = _weight(b, np.full((16, 16, 1, 1), 0.05, np.float32), 0, quantized)
        b.last = b.node("Relu", [b.node("Conv", [b.last, w])])
        b.last = b.quantize(b.last) if quantized else b.last
    return b.build()


def _session(model: bytes) -> Callable[[], None]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    feeds = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    return lambda: session.run(None, feeds)


def _times_us(models: Iterable[bytes], rounds: int) -> list[float]:
    """Median thread CPU time of each model in microseconds, measured in turn."""
    runs = [_session(m) for m in models]
    repeats = []
    for run in runs:
        run()
        start = time.thread_time_ns()
        run()
        repeats.append(max(1, int(2e6 / max(1, time.thread_time_ns() - start))))
    samples: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for kept, run, count in zip(samples, runs, repeats, strict=True):
            start = time.thread_time_ns()
            for _ in range(count):
                run()
            kept.append((time.thread_time_ns() - start) / count / 1e3)
    return [statistics.median(s) for s in samples]


def _elements(rounds: int) -> dict[str, float]:
    """Nanoseconds per element of the operators that touch each element a few times."""
    found: dict[str, float] = {}
    step = _CHAIN * (_SIZES[1] - _SIZES[0])
    for precision, q in (("float32", False), ("int8", True)):
        for op in (*_POINTWISE, *_UNARY):
            small, large = _times_us([_element_chain(op, n, q) for n in _SIZES], rounds)
            passes = {"Concat": (2**_CHAIN - 1) * 2 / _CHAIN, "GlobalAveragePool": 1 / _CHAIN}.get(op, 1.0)
            found[f"{op}/{precision}"] = round(1e3 * max(large - small, 0.0) / step / passes, 4)
        for op in _POOLS:
            models = [_pool_chain(o, n, q) for n in _SIZES for o in ("", op)]
            a, b, c, d = _times_us(models, rounds)
            found[f"{op}/{precision}"] = round(1e3 * max(d - c - (b - a), 0.0) / step, 4)
        found[f"*/{precision}"] = found[f"Add/{precision}"]
    return found


def _borders(rounds: int) -> dict[str, float]:
    """Nanoseconds per element of a Q or a DQ: half of what a pair costs, with and without a change of layout."""
    step = _SIZES[1] - _SIZES[0]
    small = _times_us([_plain_border(p, _SIZES[0]) for p in (False, True)], rounds)
    large = _times_us([_plain_border(p, _SIZES[1]) for p in (False, True)], rounds)
    plain = 1e3 * ((large[1] - large[0]) - (small[1] - small[0])) / (_CHAIN * step)
    chains = ((False,) * 8, (True,) * 8, (False, True) * 4)
    costs = []
    for size in _SIZES:
        floats, integers, mixed = _times_us([_conv_border(c, size) for c in chains], rounds)
        costs.append(mixed - (floats + integers) / 2)
    layout = 1e3 * (costs[1] - costs[0]) / (3.5 * step)
    return {"border": round(max(plain, 0.01) / 2, 4), "border/layout": round(max(layout, plain, 0.01) / 2, 4)}


def measure_ort_cpu(rounds: int = 9) -> dict[str, Any]:
    """Measure ONNX Runtime's CPU provider here; the result is the content of a profile file. Takes about a minute."""
    import onnxruntime as ort

    rates: dict[str, list[tuple[float, float]]] = {}

    def record(layer: str, channels: int, macs: float, times: list[float]) -> None:
        for precision, total in zip(("float32", "int8"), times, strict=True):
            per_layer = max(total / _CHAIN - node[precision], 1e-3)
            rates.setdefault(f"{layer}/{precision}", []).append((channels, round(macs / per_layer, 1)))

    tiny = _times_us([_element_chain("Add", 64, q) for q in (False, True)], rounds)
    node = {p: round(t / _CHAIN, 3) for p, t in zip(("float32", "int8"), tiny, strict=True)}
    for layer, (kernel, depthwise) in _CONVS.items():
        for channels, side in _CHANNELS.items():
            macs = channels * (1 if depthwise else channels) * kernel**2 * side**2
            models = [_conv_chain(kernel, depthwise, channels, side, q) for q in (False, True)]
            record(layer, channels, macs, _times_us(models, rounds))
    for kernel in _STEM_KERNELS:
        for channels in _STEM_CHANNELS:
            times = _times_us([_stem(kernel, channels, q) for q in (False, True)], rounds)
            macs = 3 * kernel**2 * channels * _STEM_SIDE**2
            record(f"stem{kernel}x{kernel}", channels, macs, [_CHAIN * t for t in times])
    for rows in _ROWS:
        for width in _WIDTHS:
            times = _times_us([_matmul_chain(rows, width, q) for q in (False, True)], rounds)
            record(f"matmul{rows}", width, rows * width**2, times)
    for width in _LSTM_WIDTHS:
        times = _times_us([_lstm_chain(width, q) for q in (False, True)], rounds)
        record("lstm", width, 8 * _LSTM_STEPS * width**2, times)
    elements = _elements(rounds)
    elements |= _borders(rounds)
    cpu = cpu_info()
    return {
        "target": "ort-cpu",
        "vnni": bool(cpu.vnni),
        "device": cpu.model,
        "runtime": f"onnxruntime {ort.__version__}, 1 thread",
        "node_us": node,
        "rates": rates,
        "per_element": elements,
    }
