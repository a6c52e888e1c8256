"""Parse and build a model with NVIDIA's TensorRT for RTX: ``python -m graphopt.targets.tensorrt_rtx_child JOB``.

It runs in a child so that a native crash, a hang or output on the terminal does no harm. The answer is written after
the parse and again after each build, so that a crash loses only what was not done yet. No GPU is needed: the builder
compiles for a compute capability that it is told.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def main(job_path: Path) -> None:
    """Do the job that the JSON file describes. Keys: model, answer, capabilities, profiles (input: min, opt, max)."""
    import tensorrt_rtx_bindings as trt

    job = json.loads(job_path.read_text("utf-8"))
    answer_path = Path(job["answer"])
    log = _logger(trt)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse_from_file(job["model"])
    errors = _errors(parser) if parsed else _all_errors(trt, builder, log, Path(job["model"])) or _errors(parser)
    answer: dict[str, Any] = {
        "version": trt.__version__,
        "parsed": bool(parsed),
        "errors": errors,
        "builds": [],
    }
    _write(answer_path, answer)
    for capability in job["capabilities"] if parsed else ():
        answer["builds"].append(_build(trt, builder, network, log, capability, job["profiles"]))
        _write(answer_path, answer)


def _errors(parser: Any) -> list[dict[str, str]]:
    found = [parser.get_error(i) for i in range(parser.num_errors)]
    return [{"node": e.node_name(), "op": e.node_operator(), "message": e.desc()} for e in found]


def _all_errors(trt: Any, builder: Any, log: Any, model: Path) -> list[dict[str, str]]:
    """The errors of all nodes; a plain parse stops at the first."""
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    parser.supports_model_v2(model.read_bytes(), str(model))
    return _errors(parser)


def _build(
    trt: Any, builder: Any, network: Any, log: Any, capability: str, profiles: dict[str, list[list[int]]]
) -> dict[str, Any]:
    """Build for one capability (``sm86``) and give success, seconds, the log's errors and its list of layers."""
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    value = getattr(trt.ComputeCapability, capability.upper(), None)
    if value is None:
        return {
            "capability": capability,
            "built": False,
            "seconds": 0.0,
            "errors": ["unknown to this version"],
            "layers": "",
        }
    config.set_compute_capability(value, 0)
    if profiles:
        profile = builder.create_optimization_profile()
        for name, (low, best, high) in profiles.items():
            profile.set_shape(name, low, best, high)
        config.add_optimization_profile(profile)
    start = len(log.messages)
    begun = time.perf_counter()
    engine = builder.build_serialized_network(network, config)
    seconds = time.perf_counter() - begun
    messages = log.messages[start:]
    return {
        "capability": capability,
        "built": engine is not None,
        "seconds": seconds,
        "errors": [text for severity, text in messages if severity == "ERROR" and "cudaError" not in text],
        "layers": next((text for _, text in messages if text.startswith("Layers:")), ""),
    }


def _logger(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[tuple[str, str]] = []

        def log(self, severity: Any, message: str) -> None:
            name = severity.name
            if name in ("ERROR", "INTERNAL_ERROR") or message.startswith("Layers:"):
                self.messages.append(("ERROR" if "ERROR" in name else name, message))

    return Log()


def _write(path: Path, answer: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(answer), "utf-8")
    part.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
