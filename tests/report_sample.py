"""A made-up result that exercises every part of a report."""

from __future__ import annotations

from graphopt.results import (
    Accuracy,
    Comparison,
    CpuInfo,
    Footprint,
    GraphStats,
    LayerBound,
    LayerChange,
    LayerTime,
    ModelFile,
    NodeTime,
    OutputComparison,
    PassResult,
    Ratio,
    Remark,
    RunResult,
    Timing,
    TimingReport,
    WeightHistogram,
)


def sample_result() -> RunResult:
    before = GraphStats(69, 11_000_000, 44_000_000, 1_800_000_000)
    after = GraphStats(49, 7_700_000, 30_800_000, 1_100_000_000)
    remarks = (
        Remark("did", "prune", "layer1.conv2", "kept 40 of 64 channels"),
        Remark("skipped", "prune", "fc", "axis 1 is a graph output <script>alert(1)</script>"),
        Remark("warning", "quantize", "layer4.conv1", "left in float: depthwise int8 is slower on ort-cpu"),
    )
    passes = (
        PassResult("cleanup", "", "equivalent", True, 0.4, before, before, {"nodes removed": 20}, (), "equal"),
        PassResult(
            "prune", "keep_macs=0.6", "lossy", True, 2.1, before, after, {"units removed": 320}, remarks, "masked"
        ),
    )
    cpu = CpuInfo("Test CPU", "x86_64", 2, 2, True, ("avx2", "avx512_vnni"))
    timings = (
        Timing("residual.onnx", 10.0, 9.9, 0.4, 10.0, 10.4, 11.2, 300, 15, 1, 100.0, ("CPU",), "reference"),
        Timing("small.onnx", 4.0, 4.0, 0.2, 4.0, 4.2, 4.9, 700, 15, 1, 250.0, ("CPU",), "faster", Ratio(2.5, 2.4, 2.6)),
    )
    outputs = (OutputComparison("logits", "float32", 0.5, 0.1, 0.02, 0.9991, 31.2, 0.987),)
    accuracy = Accuracy("top-1", 0.934, 0.929, -0.005, -0.012, 0.002, 1000)
    nodes = (NodeTime("conv1", "QLinearConv", "CPU", 400.0, 0.6, 10), NodeTime("fc", "Gemm", "CPU", 100.0, 0.2, 10))
    return RunResult(
        input=ModelFile("residual.onnx", 44_100_000, "a" * 64),
        output=ModelFile("small.onnx", 7_900_000, "b" * 64),
        pipeline="cleanup,prune:keep_macs=0.6,quantize",
        target="ort-cpu",
        provider="cpu",
        seed=0,
        data="410 samples to calibrate, 1000 to score",
        passes=passes,
        layers=(
            LayerChange("layer1.conv1", "Conv", (64, 64, 3, 3), (40, 64, 3, 3), "int8", 36864, 23040),
            LayerChange(
                "a/very/long/name/of/a/layer/that/will/not/fit/in/the/label",
                "Conv",
                (64, 64),
                (64, 64),
                "float32",
                4096,
                4096,
            ),
        ),
        comparison=Comparison(outputs, 1000, True, False, accuracy),
        accuracy=accuracy,
        timing=TimingReport(timings, "cpu", 1, cpu, True),
        not_timed="",
        footprints={"residual.onnx": Footprint(12.0, 30.0, 90_000_000, 50_000_000)},
        node_times={"small.onnx": nodes},
        layer_times=(
            LayerTime("layer1.conv1", "Conv", 800.0, 400.0, "compute", ("prune", "quantize")),
            LayerTime("everything else", "", 200.0, 0.0),
        ),
        bounds=(LayerBound("layer1.conv1", "Conv", "int8", 10**6, 10**5, 10.0, 5.0, 2.0, 1.8, "compute"),),
        operators={"Conv": (20, 20), "BatchNormalization": (20, 0)},
        histograms=(
            WeightHistogram(
                "conv1", -1.0, 1.0, (1, 40, 900, 41, 2), (0, 42, 900, 40, 0), 0.005, (-0.64, 0.635), (-0.64, 0.635)
            ),
        ),
        warnings=("accuracy fell by 0.005",),
        command="graphopt run residual.onnx --passes cleanup,prune:keep_macs=0.6,quantize -o small.onnx",
        versions={"graphopt": "0.1.0", "onnxruntime": "1.32.0"},
    )
