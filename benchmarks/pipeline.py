"""The main job on every own model and on other people's trained models: accuracy, size and latency, before and after.

    python benchmarks/pipeline.py [--passes P] [--only NAME ...] [--out benchmarks/results/pipeline.md]

Own models: 512 calibration and 1,000 test images of Fashion-MNIST (the shipped slices). Other models: rendered text
lines (PP-OCR), files of the Python installation (magika), and synthetic speech (silero); for these the figure is the
agreement with the float model.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.pipeline.job import Job, JobData, Measuring
from graphopt.pipeline.runner import run_job
from graphopt.results import RunResult
from graphopt.runtime.cpu import cpu_info

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models"
sys.path.insert(0, str(ROOT / "tests"))
OWN = ("lenet", "residual", "depthwise", "transformer", "transformer_masked", "recurrent")


@dataclass(frozen=True)
class Case:
    """A model with its calibration and scoring data."""

    name: str
    model: Path
    calibration: Path
    scoring: Path


def own_cases() -> Iterator[Case]:
    for name in OWN:
        kind = "masked_" if "masked" in name else ""
        data = MODELS / "data"
        yield Case(
            name,
            MODELS / f"{name}.onnx",
            data / f"fashion_mnist_{kind}calib.npz",
            data / f"fashion_mnist_{kind}eval.npz",
        )


def other_cases(folder: Path) -> Iterator[Case]:
    from real_samples import file_bytes, magika_padding, model_file, speech, text_lines

    def saved(name: str, make: Callable[[int], dict[str, np.ndarray]]) -> tuple[Path, Path]:
        paths = folder / f"{name}.calib.npz", folder / f"{name}.score.npz"
        for seed, path in enumerate(paths, 1):
            np.savez(path, **make(seed))
        return paths

    ocr = model_file("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx")
    yield Case("PP-OCRv4 recogniser", ocr, *saved("ocr", lambda seed: {"x": text_lines(40, seed)[0]}))
    magika = model_file("magika", "models/standard_v3_3/model.onnx")
    padding = magika_padding(magika)
    yield Case("magika", magika, *saved("magika", lambda seed: {"bytes": file_bytes(160, seed, padding)}))
    silero = model_file("silero_vad", "data/silero_vad_16k_sequence.onnx")
    yield Case("silero VAD (LSTM)", silero, *saved("silero", lambda seed: speech(12, 40, seed)))


def row(name: str, result: RunResult) -> str:
    outputs = result.comparison.outputs if result.comparison else ()
    accuracy, timing = result.accuracy, result.timing
    agreement = next((f"{o.top1_agreement:.3f}" for o in outputs if o.top1_agreement is not None), "")
    interval = "" if accuracy is None or accuracy.low is None else f" [{accuracy.low:+.3f}, {accuracy.high:+.3f}]"
    scored = "" if accuracy is None else f"{accuracy.before:.3f} -> {accuracy.after:.3f}{interval}"
    speed = timing.timings[-1].speedup if timing is not None else None
    latency = "" if speed is None else f"{speed.value:.2f}x [{speed.low:.2f}, {speed.high:.2f}]"
    sqnr = min((o.sqnr_db for o in outputs), default=float("nan"))
    verdict = timing.timings[-1].verdict if timing is not None else ""
    return f"| {name} | {scored} | {agreement} | {sqnr:.1f} | {result.size_ratio:.3f} | {latency} | {verdict} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", default="cleanup,clip:above=p99.99,prune:keep_macs=0.8,quantize")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "pipeline.md")
    options = parser.parse_args()
    cpu = cpu_info()
    lines = [
        "# The main job on real models",
        "",
        f"`python benchmarks/pipeline.py --passes {options.passes}` on {cpu.model}, VNNI {cpu.vnni}, one thread.",
        "Speed-up above 1 is faster; intervals are 95 %. Agreement is top-1 with the float model.",
        "",
        "| model | accuracy | agreement | SQNR dB | size ratio | speed-up | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for case in (*own_cases(), *reversed(list(other_cases(Path(folder))))):
            if options.only and case.name not in options.only:
                continue
            data = JobData(str(case.calibration), str(case.scoring))
            out = Path(folder) / "out.onnx"
            job = Job(case.model, out, options.passes, data=data, measuring=Measuring(), force=True)
            try:
                lines.append(row(case.name, run_job(job)))
            except GraphoptError as error:
                lines.append(f"| {case.name} | failed: {str(error).splitlines()[0]} | | | | | |")
            print(lines[-1], flush=True)
            if not options.only:
                options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
