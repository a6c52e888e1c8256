"""Everything that is needed to build and verify a model with TensorRT on another machine, in one folder."""

from __future__ import annotations

import json
import shlex
import zipfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.data.feeds import Dataset
from graphopt.data.shape_profile import DimRange, ShapeProfile, make_profile
from graphopt.model import Model
from graphopt.runtime.session import Session, SessionConfig

_SCRIPTS = ("build.py", "verify.py")
_HEAD = """#!/bin/sh
# TensorRT 10 or 11. Precision comes from the model: no --int8, no --fp16, no calibration.
cd "$(dirname "$0")" || exit 1
"""
_TOLERANCE = {"quantized": 0.05, "float16": 0.02, "float32": 0.005}


def trtexec_command(profile: ShapeProfile) -> str:
    """The command line for TensorRT 10 and 11. ``--stronglyTyped`` is needed by 10, and ignored by 11."""
    words = [
        "trtexec",
        "--onnx=model.onnx",
        "--saveEngine=model.engine",
        "--stronglyTyped",
        "--timingCacheFile=timing.cache",
        "--profilingVerbosity=detailed",
        "--exportLayerInfo=layers.json",
        *profile.flags(),
    ]
    return " \\\n  ".join(shlex.quote(word) for word in words)


def export_tensorrt(model: Model, ranges: Mapping[str, DimRange], data: Dataset, folder: Path) -> tuple[Path, ...]:
    """Write the model, profile, command line, scripts, inputs and expected outputs; gives the paths.

    The sample is the first batch of ``data``; expected outputs come from ONNX Runtime's CPU provider with
    optimizations off.

    Raises:
        InvalidModelError, UnsupportedError: ONNX Runtime does not load the model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "model.onnx", force=True)
    session = Session(folder / "model.onnx", SessionConfig(optimize="off"))
    profile = make_profile(session.interface, ranges)
    rows = next((r.best for n, r in ranges.items() if n in session.interface.batch_dims()), None)
    feeds = dict(next(iter(data.iter_batches(rows))).feeds)
    _save_arrays(folder / "inputs.npz", feeds)
    _save_arrays(folder / "expected.npz", session.run(feeds))
    (folder / "profile.json").write_text(json.dumps(profile.as_json(), indent=1) + "\n", "utf-8")
    manifest = {
        "tolerance": tolerance(model),
        "inputs": {n: list(a.shape) for n, a in feeds.items()},
        "synthetic_inputs": data.synthetic,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    (folder / "build.sh").write_text(_HEAD + trtexec_command(profile) + "\n", "utf-8")
    (folder / "build.sh").chmod(0o755)
    source = files("graphopt.targets.tensorrt_scripts")
    for name in _SCRIPTS:
        (folder / name).write_text(source.joinpath(name).read_text("utf-8"), "utf-8")
    (folder / "README.md").write_text(_readme(data.synthetic), "utf-8")
    return tuple(sorted(p for p in folder.iterdir() if p.is_file()))


def _save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """An .npz file; unlike ``np.savez``, a tensor may be called ``file``."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as part:
                np.lib.format.write_array(part, np.asarray(array), allow_pickle=False)


def tolerance(model: Model) -> float:
    """Largest error to accept, as a share of an output's range: more for integers and float16 than for float32."""
    ops = {n.op for n in model.graph.walk()}
    if "QuantizeLinear" in ops:
        return _TOLERANCE["quantized"]
    halves = any(c.dtype == np.float16 for g in model.graph.graphs() for c in g.initializers)
    return _TOLERANCE["float16" if halves else "float32"]


def _readme(synthetic: bool) -> str:
    kind = "seeded synthetic values" if synthetic else "the first samples of the data"
    return f"""# Build and verify with TensorRT

On the machine with the GPU:

    python build.py      # or ./build.sh, which uses trtexec
    python verify.py     # runs the engine, compares with expected.npz, gives the median latency

- `model.onnx` holds the precision: int8 where Q/DQ are, float elsewhere. TensorRT 11 takes it only from there; with
  TensorRT 10 both scripts ask for a strongly typed network. No calibration, no `--int8`, no `--fp16`.
- `profile.json` has the smallest, best and largest input shapes; the engine is tuned for the best.
- `inputs.npz` holds {kind}; `expected.npz` what ONNX Runtime's CPU provider gives for them without optimizations.
- `timing.cache` is written by the first build and makes the next one faster.
- ONNX Runtime's TensorRT provider, built against TensorRT 10, also needs `trt_int8_enable=1` for a model with Q/DQ,
  and `trt_profile_min_shapes`, `_opt_shapes` and `_max_shapes` as in `build.sh`.
"""
