"""One network quantized for two targets, each timed in two runtimes: where is which fast?

    python benchmarks/two_targets.py [--models residual depthwise transformer] [--write]

A model for TensorRT (symmetric int8 Q/DQ) is slow on ONNX Runtime's CPU provider, and one for that provider is refused
by TensorRT. So each is timed where its style is fast: OpenVINO runs both on integers and stands in for a runtime that
fuses symmetric Q/DQ. That is no GPU figure. Needs the extra ``openvino``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from graphopt.cli.feeding import Feeding
from graphopt.data.interface import read_interface
from graphopt.pipeline.job import Job, JobData, Measuring, Where
from graphopt.pipeline.runner import run_job
from graphopt.report.timing import speedup
from graphopt.report.words import cpu_line
from graphopt.results import TimingReport
from graphopt.runtime.openvino_session import OpenVinoSession, openvino_installed
from graphopt.runtime.session import Session, SessionConfig
from graphopt.runtime.timing import Contender, time_models

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "two_targets.md"
TARGETS = ("ort-cpu", "tensorrt")


def quantized(name: str, folder: Path, samples: int) -> dict[str, Path]:
    """The float model and its quantized ones, by style."""
    source = ROOT / "models" / f"{name}.onnx"
    data = ROOT / "models" / "data" / "fashion_mnist_calib.npz"
    files = {"float32": source}
    for target in TARGETS:
        out = folder / f"{name}.{target}.onnx"
        run_job(
            Job(
                source,
                out,
                "cleanup,quantize",
                data=JobData(str(data), samples=samples),
                where=Where(target),
                measuring=Measuring(time=False),
            )
        )
        files[f"for {target}"] = out
    return files


def timed(files: dict[str, Path], runtime: str) -> TimingReport:
    """All styles of one network in one runtime."""

    def opened(path: Path) -> Session | OpenVinoSession:
        return OpenVinoSession(path) if runtime == "openvino" else Session(path, SessionConfig())

    feeds, rows = Feeding().timed(read_interface(files["float32"]), 1)
    return time_models(
        [Contender(name, opened(p), feeds, rows, lambda p=p: opened(p)) for name, p in files.items()]  # type: ignore[misc]
    )


def main() -> None:
    """Measure and print, or write, the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["residual", "depthwise", "transformer"])
    parser.add_argument("--samples", type=int, default=128, help="samples to calibrate with")
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.relative_to(ROOT)}")
    chosen = parser.parse_args()
    if not openvino_installed():
        sys.exit("the extra openvino is not installed: pip install 'graphopt[openvino]'")
    rows, head = [], ""
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen.models:
            files = quantized(name, Path(folder), chosen.samples)
            reports = [timed(files, runtime) for runtime in ("onnxruntime", "openvino")]
            versions = [r.timings[0].providers[0] for r in reports]
            tool = f"onnxruntime {version('onnxruntime')} {versions[0]}"
            head = f"{cpu_line(reports[0].cpu)}, 1 thread; {tool} and {versions[1]}."
            for style, (ort, vino) in zip(files, zip(*(r.timings for r in reports), strict=True), strict=True):
                cells = [f"{t.wall_ms:.3f} ms | {speedup(t) or '-'} | {t.verdict}" for t in (ort, vino)]
                rows.append(f"| {name} | {style} | {' | '.join(cells)} |")
    text = "\n".join(
        [
            "# One network, two targets, two runtimes",
            "",
            f"Made by `python benchmarks/two_targets.py {' '.join(sys.argv[1:])}`. "
            "Speed-up against float32 in the same runtime and its",
            f"95 % interval over sessions. {head} No GPU figure: TensorRT itself cannot run or be timed here.",
            "",
            "| network | style | ORT CPU | speed-up | verdict | OpenVINO | speed-up | verdict |",
            "|---|---|---:|---:|---|---:|---:|---|",
            *rows,
            "",
        ]
    )
    print(text)
    if chosen.write:
        RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
