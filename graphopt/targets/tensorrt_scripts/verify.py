"""Run the engine on inputs.npz and compare with expected.npz: ``python verify.py``. Needs a GPU, TensorRT and numpy.

``expected.npz`` was made with ONNX Runtime on a CPU, without optimizations. Exit code 0 when every output is within
the tolerance of manifest.json (largest error as a share of the output's range), 1 when not.
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
_TO_DEVICE, _TO_HOST = 1, 2


class Cuda:
    """The few calls of the CUDA runtime that are needed, through ctypes."""

    def __init__(self) -> None:
        name = next((n for n in ("libcudart.so", "libcudart.so.13", "libcudart.so.12") if _loads(n)), None)
        name = name or ctypes.util.find_library("cudart")
        if name is None:
            sys.exit("libcudart was not found; put CUDA's lib64 folder into LD_LIBRARY_PATH")
        self._lib = ctypes.CDLL(name)

    def call(self, function: str, *values: Any) -> None:
        """Call a function of the runtime; ends the program when it fails."""
        code = getattr(self._lib, function)(*values)
        if code:
            sys.exit(f"{function} failed with CUDA error {code}")

    def allocate(self, size: int) -> ctypes.c_void_p:
        """Device memory of ``size`` bytes."""
        pointer = ctypes.c_void_p()
        self.call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(max(size, 1)))
        return pointer

    def copy(self, target: Any, source: Any, size: int, kind: int) -> None:
        """Copy between host and device."""
        self.call("cudaMemcpy", target, source, ctypes.c_size_t(size), ctypes.c_int(kind))

    def stream(self) -> int:
        """A new stream."""
        handle = ctypes.c_void_p()
        self.call("cudaStreamCreate", ctypes.byref(handle))
        return int(handle.value or 0)

    def wait(self, stream: int) -> None:
        """Wait for a stream."""
        self.call("cudaStreamSynchronize", ctypes.c_void_p(stream))


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def run(trt: Any, engine_path: Path, feeds: dict[str, Any], repeats: int) -> tuple[dict[str, Any], list[float]]:
    """Outputs of the engine for ``feeds``, and the milliseconds of each repeat (wall clock, copies left out)."""
    cuda = Cuda()
    engine = trt.Runtime(trt.Logger(trt.Logger.WARNING)).deserialize_cuda_engine(engine_path.read_bytes())
    if engine is None:
        sys.exit(f"{engine_path} does not load here: build it on this machine, with this version of TensorRT")
    context = engine.create_execution_context()
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    outputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.OUTPUT]
    for name, array in feeds.items():
        context.set_input_shape(name, array.shape)
    host = {n: np.ascontiguousarray(feeds[n]).astype(trt.nptype(engine.get_tensor_dtype(n))) for n in feeds}
    for name in outputs:
        host[name] = np.empty(tuple(context.get_tensor_shape(name)), trt.nptype(engine.get_tensor_dtype(name)))
    device = {name: cuda.allocate(array.nbytes) for name, array in host.items()}
    for name, pointer in device.items():
        context.set_tensor_address(name, int(pointer.value or 0))
    for name in feeds:
        cuda.copy(device[name], host[name].ctypes.data_as(ctypes.c_void_p), host[name].nbytes, _TO_DEVICE)
    stream, times = cuda.stream(), []
    for _ in range(repeats):
        begun = time.perf_counter()
        if not context.execute_async_v3(stream):
            sys.exit("the engine did not run; the messages above say why")
        cuda.wait(stream)
        times.append((time.perf_counter() - begun) * 1000)
    for name in outputs:
        cuda.copy(host[name].ctypes.data_as(ctypes.c_void_p), device[name], host[name].nbytes, _TO_HOST)
    return {name: host[name] for name in outputs}, times


def compare(expected: dict[str, Any], found: dict[str, Any], tolerance: float) -> tuple[bool, list[str]]:
    """Whether all outputs are within ``tolerance`` of their range, and a line for each."""
    fine, lines = True, []
    for name, value in expected.items():
        if name not in found or found[name].shape != value.shape:
            shape = found[name].shape if name in found else "missing"
            fine, line = False, f"{name}: expected shape {value.shape}, found {shape}"
        else:
            first, second = value.astype(np.float64), found[name].astype(np.float64)
            span = float(first.max() - first.min()) if first.size else 0.0
            worst = float(np.abs(first - second).max()) if first.size else 0.0
            share = worst / span if span else worst
            good = bool(np.isfinite(second).all() == np.isfinite(first).all()) and share <= tolerance
            fine = fine and good
            line = f"{name}: largest error {worst:.3g}, {share:.3%} of its range: {'ok' if good else 'TOO LARGE'}"
        lines.append(line)
    return fine, lines


def main() -> None:
    """Run, compare and time."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--engine", type=Path, default=HERE / "model.engine")
    options.add_argument("--module", default="tensorrt", help="tensorrt, or tensorrt_rtx_bindings")
    options.add_argument("--repeats", type=int, default=50)
    chosen = options.parse_args()
    manifest = json.loads((HERE / "manifest.json").read_text("utf-8"))
    feeds = dict(np.load(HERE / "inputs.npz"))
    expected = dict(np.load(HERE / "expected.npz"))
    found, times = run(importlib.import_module(chosen.module), chosen.engine, feeds, max(chosen.repeats, 1))
    fine, lines = compare(expected, found, manifest["tolerance"])
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.write(f"median of {len(times)} runs: {float(np.median(times)):.3f} ms\n")
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
