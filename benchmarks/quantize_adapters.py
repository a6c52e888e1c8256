"""Calls one quantizer on one model, in whatever Python it is installed in; used by ``quantize_peers.py``.

    python quantize_adapters.py                          names of the tools that this Python has, one a line
    python quantize_adapters.py TOOL MODEL FEEDS OUT     quantizes; FEEDS is a folder of .npz, one a sample

Prints one JSON object: CPU seconds and peak memory in MB, the latter of the whole process. Nothing is imported before
it is needed, and nothing of the benchmark itself, so that tools whose requirements clash can live apart.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Feeds = dict[str, Any]
Tool = Callable[[Path, list[Feeds], Path], None]


def graphopt(passes: str) -> Tool:
    """A pipeline of graphopt."""

    def run(model: Path, feeds: list[Feeds], out: Path) -> None:
        from graphopt import load
        from graphopt.data.interface import read_interface
        from graphopt.data.open import open_data
        from graphopt.pipeline.context import Settings
        from graphopt.pipeline.manager import PassManager
        from graphopt.pipeline.pipeline import Pipeline
        from graphopt.pipeline.registry import Registry

        registry = Registry()
        data = open_data(feeds, read_interface(model))
        loaded = load(model)
        PassManager(registry, Settings(data=data)).run(loaded, Pipeline.parse(passes, registry))
        loaded.save(out)

    return run


def reader(base: type, feeds: list[Feeds]) -> Any:
    """A calibration reader, as onnxruntime and those that follow it want one."""

    class Reader(base):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rewind()

        def rewind(self) -> None:
            self.feeds: Iterator[Feeds] = iter(feeds)

        def get_next(self) -> Feeds | None:
            return next(self.feeds, None)

    return Reader()


def onnxruntime(**options: Any) -> Tool:
    """``quantize_static`` on what ``quant_pre_process`` makes, where that works."""

    def run(model: Path, feeds: list[Feeds], out: Path) -> None:
        from onnxruntime import quantization

        prepared = out.with_suffix(".prepared.onnx")
        try:
            quantization.quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        except Exception as error:  # noqa: BLE001 - whatever the tool raises, the model as it is may still do
            print(f"  quant_pre_process failed: {error}", file=sys.stderr)
            prepared = model
        types = {k: getattr(quantization.QuantType, v) for k, v in options.items() if k.endswith("_type")}
        rest = {k: v for k, v in options.items() if not k.endswith("_type")}
        source = reader(quantization.CalibrationDataReader, feeds)
        quantization.quantize_static(str(prepared), str(out), source, **types, **rest)

    return run


def onnxruntime_dynamic(model: Path, feeds: list[Feeds], out: Path) -> None:
    """``quantize_dynamic`` with a scale for each channel."""
    from onnxruntime import quantization

    quantization.quantize_dynamic(str(model), str(out), per_channel=True)


def nncf(transformer: bool) -> Tool:
    """``nncf.quantize`` with its defaults, or its mode for transformers."""

    def run(model: Path, feeds: list[Feeds], out: Path) -> None:
        import nncf as tool
        import onnx

        kind = tool.ModelType.TRANSFORMER if transformer else None
        made = tool.quantize(onnx.load(str(model)), tool.Dataset(feeds), model_type=kind, subset_size=len(feeds))
        onnx.save(made, str(out))

    return run


def neural_compressor(model: Path, feeds: list[Feeds], out: Path) -> None:
    """onnx-neural-compressor, static, Q/DQ, u8 activations and s8 weights for each channel."""
    from onnx_neural_compressor import data_reader
    from onnx_neural_compressor.quantization import QuantFormat, QuantType, config, quantize

    settings = config.StaticQuantConfig(
        calibration_data_reader=reader(data_reader.CalibrationDataReader, feeds),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        calibration_sampling_size=len(feeds),
    )
    quantize(str(model), str(out), settings)


def modelopt(method: str) -> Tool:
    """NVIDIA's Model-Optimizer, int8, other operators left in float32."""

    def run(model: Path, feeds: list[Feeds], out: Path) -> None:
        from modelopt.onnx.quantization import quantize

        joined = {n: np.concatenate([f[n] for f in feeds]) for n in feeds[0]}
        quantize(
            str(model),
            quantize_mode="int8",
            calibration_data=joined,
            calibration_method=method,
            calibration_eps=["cpu"],
            high_precision_dtype="fp32",
            output_path=str(out),
        )

    return run


def quark(name: str, per_channel: bool) -> Tool:
    """AMD Quark with one of its named configurations; ``per_channel``: s8 weights with a scale for each channel."""

    def run(model: Path, feeds: list[Feeds], out: Path) -> None:
        from onnxruntime.quantization import CalibrationDataReader
        from quark.onnx import ModelQuantizer
        from quark.onnx.quantization.config import Config, get_default_config

        chosen = get_default_config(name)
        chosen.per_channel = per_channel
        quantizer = ModelQuantizer(Config(global_quant_config=chosen))
        quantizer.quantize_model(str(model), str(out), reader(CalibrationDataReader, feeds))

    return run


def aimet(equalized: bool) -> Tool:
    """AIMET, 8 bits, batch norms folded as its guide says, with ``equalized`` channel ranges evened out; as Q/DQ."""

    def run(model: Path, feeds: list[Feeds], out: Path) -> None:
        import onnx
        from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight
        from aimet_onnx.cross_layer_equalization import equalize_model
        from aimet_onnx.quantsim import QuantizationSimModel

        loaded = onnx.load(str(model))
        if equalized:
            equalize_model(loaded)
        else:
            fold_all_batch_norms_to_weight(loaded)
        sim = QuantizationSimModel(loaded)
        sim.compute_encodings(feeds)
        onnx.save(sim.to_onnx_qdq(), str(out))

    return run


TOOLS: dict[str, tuple[str, Tool]] = {
    "graphopt fast": ("graphopt", graphopt("quantize")),
    "graphopt best": ("graphopt", graphopt("quantize:effort=best")),
    "graphopt dynamic": ("graphopt", graphopt("cleanup,quantize_dynamic")),
    "graphopt W4A8 best": ("graphopt", graphopt("quantize:types=u8s4:effort=best")),
    "onnxruntime default": ("onnxruntime.quantization", onnxruntime()),
    "onnxruntime u8s8 per-channel": (
        "onnxruntime.quantization",
        onnxruntime(activation_type="QUInt8", weight_type="QInt8", per_channel=True),
    ),
    "onnxruntime dynamic": ("onnxruntime.quantization", onnxruntime_dynamic),
    "nncf": ("nncf", nncf(transformer=False)),
    "nncf transformer": ("nncf", nncf(transformer=True)),
    "neural-compressor": ("onnx_neural_compressor", neural_compressor),
    "modelopt max": ("modelopt.onnx", modelopt("max")),
    "modelopt entropy": ("modelopt.onnx", modelopt("entropy")),
    "quark U8S8 per-channel": ("quark.onnx", quark("U8S8_AAWS", per_channel=True)),
    "quark cnn": ("quark.onnx", quark("INT8_CNN_DEFAULT", per_channel=False)),
    "quark transformer": ("quark.onnx", quark("INT8_TRANSFORMER_DEFAULT", per_channel=False)),
    "aimet": ("aimet_onnx", aimet(equalized=False)),
    "aimet equalized": ("aimet_onnx", aimet(equalized=True)),
}


def installed(module: str) -> bool:
    """Whether this Python has a module; its parent packages are imported to find out."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def main() -> int:
    """See the module."""
    if len(sys.argv) == 1:
        print("\n".join(name for name, (module, _) in TOOLS.items() if installed(module)))
        return 0
    name, model, folder, out = sys.argv[1], *map(Path, sys.argv[2:5])
    feeds = [dict(np.load(path)) for path in sorted(folder.glob("*.npz"))]
    start = time.process_time()
    TOOLS[name][1](model, feeds, out)
    seconds = time.process_time() - start
    print(json.dumps({"seconds": round(seconds, 2), "megabytes": round(peak_megabytes())}))
    return 0


def peak_megabytes() -> float:
    """Most memory that this process held; ``ru_maxrss`` would count what its parent held when it started it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return float(line.split()[1]) * 1.024e-3
    return float("nan")


if __name__ == "__main__":
    sys.exit(main())
