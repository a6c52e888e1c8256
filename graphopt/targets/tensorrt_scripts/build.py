"""Build a TensorRT engine from model.onnx, with the shape profile of profile.json: ``python build.py``.

Works with TensorRT 10 and 11, and with ``--module tensorrt_rtx_bindings`` with TensorRT for RTX. The network is
strongly typed (TensorRT 11 knows nothing else): int8 comes from the Q/DQ in the model, no calibration and no
precision flags are needed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def build(trt: Any, folder: Path, engine: Path, capability: str, workspace_gib: float) -> int:
    """Parse, build and write the engine; 0, or 1 after the reasons were written to stderr."""
    logger = trt.Logger(trt.Logger.INFO)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(folder / "model.onnx")):
        for index in range(parser.num_errors):
            error = parser.get_error(index)
            sys.stderr.write(f"{error.node_name() or 'model'} ({error.node_operator()}): {error.desc()}\n")
        return 1
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if workspace_gib:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(workspace_gib * (1 << 30)))
    if capability:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, capability.upper()), 0)
    shapes = json.loads((folder / "profile.json").read_text("utf-8"))
    if shapes:
        profile = builder.create_optimization_profile()
        for name, shape in shapes.items():
            profile.set_shape(name, shape["min"], shape["opt"], shape["max"])
        config.add_optimization_profile(profile)
    cache_path = folder / "timing.cache"
    cache = config.create_timing_cache(cache_path.read_bytes() if cache_path.exists() else b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        sys.stderr.write("TensorRT made no engine; the messages above say why\n")
        return 1
    engine.write_bytes(memoryview(plan))
    cache_path.write_bytes(memoryview(config.get_timing_cache().serialize()))
    sys.stdout.write(f"{engine}: built by {trt.__name__} {trt.__version__}\n")
    return 0


def main() -> None:
    """Read the options and build."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("-o", "--engine", type=Path, default=HERE / "model.engine")
    options.add_argument("--module", default="tensorrt", help="tensorrt, or tensorrt_rtx_bindings")
    options.add_argument(
        "--capability", default="", help="TensorRT for RTX: build for this GPU, such as sm86, without one"
    )
    options.add_argument("--workspace", type=float, default=0.0, help="memory limit while building, in GiB")
    chosen = options.parse_args()
    trt = importlib.import_module(chosen.module)
    sys.exit(build(trt, HERE, chosen.engine, chosen.capability, chosen.workspace))


if __name__ == "__main__":
    main()
