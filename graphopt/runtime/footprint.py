"""Load time, cold start and peak memory of a model, each measured in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from graphopt.data.checks import Array
from graphopt.data.feeds import Feeds
from graphopt.data.shape_profile import ShapeProfile
from graphopt.errors import GraphoptError, ProviderError, UnsupportedError, ValidationError
from graphopt.results import Footprint
from graphopt.runtime.exotic import is_exotic
from graphopt.runtime.providers import require
from graphopt.runtime.session import Session, SessionConfig

_PATHS = ("base_dir", "cache_dir", "profile_prefix", "optimized_path", "context_path")


def measure_footprint(
    model: bytes | Path, feeds: Feeds, config: SessionConfig | None = None, *, processes: int = 3
) -> Footprint:
    """Load and run a model once in each of ``processes`` fresh processes; medians, and the largest peak.

    Imports count neither as time nor as the model's memory. Raises UnsupportedError for inputs of types that
    files of arrays cannot hold, ValidationError when the model does not run there.
    """
    if any(is_exotic(array.dtype) or array.dtype == np.dtype(object) for array in feeds.values()):
        raise UnsupportedError("load time and memory are not measured for string, bfloat16 and float8 inputs")
    with tempfile.TemporaryDirectory() as folder:
        job = _write_job(Path(folder), model, feeds, config or SessionConfig())
        answers = [_run_child(job, Path(folder) / f"answer{index}.json") for index in range(processes)]
    peaks = [answer["peak"] for answer in answers if answer["peak"] is not None]
    baselines = [answer["baseline"] for answer in answers if answer["baseline"] is not None]
    return Footprint(
        load_ms=median(answer["load_ms"] for answer in answers),
        first_run_ms=median(answer["first_run_ms"] for answer in answers),
        peak_bytes=max(peaks) if peaks else None,
        baseline_bytes=int(median(baselines)) if baselines else None,
    )


def peak_resident_bytes() -> int | None:
    """Peak resident memory of this process so far; None on systems that do not tell.

    Linux: VmHWM of /proc/self/status, because ``getrusage`` there also counts the parent that was forked.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def _write_job(folder: Path, model: bytes | Path, feeds: Feeds, config: SessionConfig) -> Path:
    path = model
    if isinstance(path, bytes):
        path = folder / "model.onnx"
        path.write_bytes(model if isinstance(model, bytes) else b"")
    np.savez(folder / "feeds.npz", *feeds.values())
    settings = asdict(config)
    settings.update(profile_prefix=None, optimized_path=None)
    settings["context_path"] = None
    for name in _PATHS:
        settings[name] = None if settings[name] is None else str(settings[name])
    job = {
        "model": str(path.resolve()),
        "feeds": str(folder / "feeds.npz"),
        "names": list(feeds),
        "config": settings,
    }
    (folder / "job.json").write_text(json.dumps(job), "utf-8")
    return folder / "job.json"


def _run_child(job: Path, answer: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "graphopt.runtime.footprint", str(job), str(answer)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not answer.exists():
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise ValidationError(f"the model does not run in a fresh process: {last[0]}")
    result: dict[str, Any] = json.loads(answer.read_text("utf-8"))
    if "error" in result:
        kind = ProviderError if result["kind"] == "ProviderError" else ValidationError
        raise kind(result["error"])
    return result


def _child(job_path: Path) -> dict[str, Any]:
    import onnx  # noqa: F401 - part of the baseline, as is onnxruntime
    import onnxruntime  # noqa: F401

    job = json.loads(job_path.read_text("utf-8"))
    settings = job["config"]
    for name in _PATHS:
        settings[name] = None if settings[name] is None else Path(settings[name])
    settings["shapes"] = ShapeProfile(**settings["shapes"])
    with np.load(job["feeds"], allow_pickle=False) as archive:
        feeds: dict[str, Array] = {name: archive[f"arr_{index}"] for index, name in enumerate(job["names"])}
    config = SessionConfig(**settings)
    try:
        require(config.provider)
        baseline = peak_resident_bytes()
        session = Session(Path(job["model"]), config)
        started = time.perf_counter()
        session.run(feeds)
        first_run = time.perf_counter() - started
    except GraphoptError as error:
        return {"error": str(error), "kind": type(error).__name__}
    return {
        "load_ms": session.load_ms,
        "first_run_ms": first_run * 1000,
        "peak": peak_resident_bytes(),
        "baseline": baseline,
    }


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(_child(Path(sys.argv[1]))), "utf-8")
