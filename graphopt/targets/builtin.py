"""The targets that come with graphopt. Each row restates a measured or documented fact.

Sources: measurements with onnxruntime 1.32 on an AMD Zen4 CPU and with NVIDIA's TensorRT-RTX 1.7 parser and builder;
ONNX Runtime's QDQ selectors; NVIDIA Model-Optimizer's exclusion rules.
"""

from __future__ import annotations

from graphopt.targets.base import FloatRule, Grid, OpRule, Target

_MOVERS = (
    OpRule("MaxPool", "mover"),
    OpRule("Reshape", "mover"),
    OpRule("Transpose", "mover"),
    OpRule("Flatten", "mover"),
    OpRule("Squeeze", "mover"),
    OpRule("Unsqueeze", "mover"),
    OpRule("Slice", "mover"),
    OpRule("Split", "mover"),
    OpRule("Gather", "mover"),
    OpRule("DepthToSpace", "mover"),
    OpRule("Expand", "mover"),
    OpRule("Tile", "mover"),
    OpRule("Resize", "mover", attrs={"mode": ("nearest",)}),
)
_NO_HALF = (
    "CumSum",
    "NonMaxSuppression",
    "TopK",
    "RoiAlign",
    "GridSample",
    "Range",
    "ReduceLogSumExp",
    "ReduceLogSum",
    "STFT",
    "DFT",
)
_IDENTITY_GEMM = {"alpha": (1.0,), "beta": (1.0,), "transA": (0,)}

ORT_CPU = Target(
    name="ort-cpu",
    description="ONNX Runtime, CPU provider",
    activation=Grid("uint8", symmetric=False),
    weight=Grid("int8", symmetric=True, per_channel=True),
    bias="int32",
    placement="regions",
    rules=(
        OpRule("Conv", "compute", weight=1, axis="first", bias=2),
        OpRule("MatMul", "compute", inputs=(0, 1), weight=1, axis="last", output="optional", constant_weight=False),
        OpRule("Gemm", "compute", weight=1, axis="gemm", bias=2, output="optional", attrs=_IDENTITY_GEMM),
        OpRule("Add", "pointwise", inputs=(0, 1)),
        OpRule("Mul", "pointwise", inputs=(0, 1)),
        OpRule("AveragePool", "unary"),
        OpRule("GlobalAveragePool", "unary"),
        OpRule("LeakyRelu", "unary"),
        OpRule("Sigmoid", "unary", range=(0.0, 1.0)),
        OpRule("Concat", "join", inputs=()),
        *_MOVERS,
    ),
    absorbs=("Relu", "Clip"),
    align={"float32": 16, "int8": 4, "int8-depthwise": 16},
    provider="CPUExecutionProvider",
    profile="ort-cpu.json",
    reduced_without="vnni",
    types=(
        ("uint8", "int8"),
        ("int8", "int8"),
        ("uint8", "uint8"),
        ("uint8", "int4"),
        ("int8", "int4"),
        ("uint16", "int8"),
        ("int16", "int8"),
    ),
    dynamic=("MatMul", "Gemm", "LSTM", "GRU"),
    weight_only="matmulnbits",
    narrow_floats=("float16",),
    no_half=_NO_HALF,
    half_note="half precision halves the file; ONNX Runtime's CPU provider computes it in float32, so it is not faster",
)

OPENVINO = Target(
    name="openvino",
    description="OpenVINO runtime, CPU plugin",
    activation=Grid("uint8", symmetric=False),
    weight=Grid("int8", symmetric=True, per_channel=True),
    bias="float32",
    placement="regions",
    rules=(
        OpRule("Conv", "compute", weight=1, axis="first", bias=2, output="optional"),
        OpRule("ConvTranspose", "compute", weight=1, axis="transposed", bias=2, output="optional"),
        OpRule("MatMul", "compute", inputs=(0, 1), weight=1, axis="last", output="optional", constant_weight=False),
        OpRule("Gemm", "compute", weight=1, axis="gemm", bias=2, output="optional", attrs=_IDENTITY_GEMM),
        OpRule("Add", "pointwise", inputs=(0, 1), output="optional"),
        OpRule("AveragePool", "unary", output="optional"),
        OpRule("Concat", "join", inputs=()),
        *_MOVERS,
    ),
    absorbs=("Relu", "Clip", "PRelu", "LeakyRelu", "Sigmoid", "HardSwish", "HardSigmoid"),
    align={"float32": 16, "int8": 16},
    reduced_without="vnni",
    types=(("uint8", "int8"), ("int8", "int8")),
    no_half=_NO_HALF,
)

TENSORRT = Target(
    name="tensorrt",
    description="NVIDIA TensorRT 10 and 11, explicit quantization",
    activation=Grid("int8", symmetric=True),
    weight=Grid("int8", symmetric=True, per_channel=True),
    bias="float32",
    placement="inputs",
    rules=(
        OpRule("Conv", "compute", weight=1, axis="first", bias=2, output="optional"),
        OpRule("MatMul", "compute", inputs=(0,), weight=1, axis="last", output="optional"),
        OpRule("Gemm", "compute", weight=1, axis="gemm", bias=2, output="optional", attrs=_IDENTITY_GEMM),
        OpRule("Add", "pointwise", inputs=(0, 1), output="optional"),
        OpRule("MaxPool", "mover"),
    ),
    keep_float=(
        FloatRule("Conv", "grouped", 8, "grouped convolutions need a multiple of 8 channels and a 3x3 kernel"),
        FloatRule("Conv", "narrow", 16, "convolutions with fewer than 16 channels are faster in float"),
        FloatRule("Gemm", "gemv", 16, "matrix products with one row, or K or N under 16, are faster in float"),
        FloatRule("MatMul", "gemv", 16, "matrix products with one row, or K or N under 16, are faster in float"),
    ),
    align={"float32": 4, "float16": 8, "int8": 16},
    max_opset=25,
    provider="TensorrtExecutionProvider",
    types=(("int8", "int8"), ("float8e4m3fn", "float8e4m3fn")),
    weight_types=("int4", "int8"),
    no_half=_NO_HALF,
)

ORT_CUDA = Target(
    name="ort-cuda",
    description="ONNX Runtime, CUDA provider",
    activation=Grid("int8", symmetric=True),
    weight=Grid("int8", symmetric=True, per_channel=True),
    bias="float32",
    placement="inputs",
    rules=(),
    align={"float32": 4, "float16": 8},
    provider="CUDAExecutionProvider",
    no_int8="ONNX Runtime's CUDA provider has no int8 convolution or matrix kernels; Q/DQ would only slow it down",
    weight_only="matmulnbits",
    no_half=_NO_HALF,
)

BUILTIN = {t.name: t for t in (ORT_CPU, ORT_CUDA, TENSORRT, OPENVINO)}
