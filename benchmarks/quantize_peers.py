"""Quantizes models with graphopt and with every other tool that is installed, on the same data, and prints a table.

    python benchmarks/quantize_peers.py MODEL... --data calibration.npz --eval-data scored.npz [--markdown OUT]
    python benchmarks/quantize_peers.py --ocr ch_PP-OCRv4_rec_infer.onnx [--lines 300]

Nothing is installed or downloaded. Speed is the ratio of thread CPU times on ONNX Runtime's CPU provider, one thread,
float model over quantized one, median of interleaved rounds. SQNR is over all float outputs of the scored data.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ocr_lines

Feeds = dict[str, Any]
Tool = Callable[[Path, Sequence[Feeds], Path], None]


@dataclass(frozen=True)
class Task:
    """A model with calibration feeds, scored feeds, and a score of a run over the scored feeds (None: none)."""

    name: str
    model: Path
    calibration: Sequence[Feeds]
    scored: Sequence[Feeds]
    score: Callable[[Sequence[Sequence[Any]]], str]


@dataclass(frozen=True)
class Row:
    """One tool on one model."""

    model: str
    tool: str
    score: str
    sqnr: float
    speed: float
    low: float
    high: float
    seconds: float
    megabytes: float

    def cells(self) -> list[str]:
        speed = f"{self.speed:.2f} ({self.low:.2f}-{self.high:.2f})"
        return [
            self.model, self.tool, self.score, f"{self.sqnr:.1f}", speed, f"{self.seconds:.1f}", f"{self.megabytes:.2f}"
        ]  # fmt: skip


HEADER = ["model", "tool", "score", "SQNR dB", "speed (quartiles)", "CPU s", "MB"]


def graphopt_tool(passes: str) -> Tool:
    """The pipeline of graphopt called ``passes``."""

    def quantize(model: Path, feeds: Sequence[Feeds], out: Path) -> None:
        from graphopt import load
        from graphopt.data.interface import read_interface
        from graphopt.data.open import open_data
        from graphopt.pipeline.context import Settings
        from graphopt.pipeline.manager import PassManager
        from graphopt.pipeline.pipeline import Pipeline
        from graphopt.pipeline.registry import Registry

        registry = Registry()
        data = open_data(list(feeds), read_interface(model))
        loaded = load(model)
        PassManager(registry, Settings(data=data)).run(loaded, Pipeline.parse(passes, registry))
        loaded.save(out)

    return quantize


def ort_tool(**options: Any) -> Tool:
    """``onnxruntime.quantization.quantize_static`` on what ``quant_pre_process`` makes, where that works."""

    def quantize(model: Path, feeds: Sequence[Feeds], out: Path) -> None:
        from onnxruntime import quantization

        class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self.feeds: Iterator[Feeds] = iter(feeds)

            def get_next(self) -> Feeds | None:
                return next(self.feeds, None)

        prepared = out.with_suffix(".prepared.onnx")
        try:
            quantization.quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        except Exception as error:  # noqa: BLE001 - whatever the tool raises, the model as it is may still do
            print(f"  quant_pre_process failed: {error}", file=sys.stderr)
            prepared = model
        types = {k: getattr(quantization.QuantType, v) for k, v in options.items() if k.endswith("_type")}
        rest = {k: v for k, v in options.items() if not k.endswith("_type")}
        quantization.quantize_static(str(prepared), str(out), Reader(), **types, **rest)

    return quantize


def tools() -> dict[str, Tool]:
    """The tools that are installed, by name."""
    found: dict[str, Tool] = {
        "graphopt fast": graphopt_tool("quantize"),
        "graphopt best": graphopt_tool("quantize:effort=best"),
        "graphopt W4A8 best": graphopt_tool("quantize:types=u8s4:effort=best"),
    }
    if importlib.util.find_spec("onnxruntime.quantization"):
        found["onnxruntime default"] = ort_tool()
        found["onnxruntime u8s8 per-channel"] = ort_tool(
            activation_type="QUInt8", weight_type="QInt8", per_channel=True
        )
    return found


def session(model: Path) -> Any:
    """One thread, CPU provider, all optimizations."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def outputs(model: Path, feeds: Sequence[Feeds]) -> list[list[Any]]:
    """All outputs for all feeds."""
    loaded = session(model)
    return [loaded.run(None, f) for f in feeds]


def sqnr(wanted: Sequence[Sequence[Any]], got: Sequence[Sequence[Any]]) -> float:
    """Signal to noise of all float outputs together, dB."""
    signal = noise = 0.0
    for a, b in zip(wanted, got, strict=True):
        for x, y in zip(a, b, strict=True):
            if np.asarray(x).dtype.kind == "f":
                signal += float(np.square(x, dtype=np.float64).sum())
                noise += float(np.square(np.float64(x) - np.float64(y)).sum())
    return 10 * float(np.log10(signal / max(noise, 1e-30)))


def speed(before: Path, after: Path, feeds: Feeds, rounds: int) -> list[float]:
    """Ratios of thread CPU time, float over quantized, one a round."""
    pair = [session(before), session(after)]
    counts = [max(1, int(0.02 / max(_cpu(s, feeds, 2), 1e-6))) for s in pair]
    ratios = []
    for _ in range(rounds):
        a, b = (_cpu(s, feeds, n) for s, n in zip(pair, counts, strict=True))
        ratios.append(a / b)
    return ratios


def _cpu(loaded: Any, feeds: Feeds, count: int) -> float:
    start = time.thread_time()
    for _ in range(count):
        loaded.run(None, feeds)
    return (time.thread_time() - start) / count


def measure(task: Task, name: str, tool: Tool, rounds: int, folder: Path) -> Row | None:
    """Quantize, score and time."""
    out = folder / f"{task.name}-{name.replace(' ', '-')}.onnx"
    start = time.process_time()
    try:
        tool(task.model, task.calibration, out)
        got = outputs(out, task.scored)
    except Exception as error:  # noqa: BLE001 - a peer may fail in any way; the table says so
        print(f"{task.name}: {name} fails: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
        return None
    seconds = time.process_time() - start
    wanted = outputs(task.model, task.scored)
    ratios = speed(task.model, out, task.scored[0], rounds)
    low, _, high = statistics.quantiles(ratios, n=4)
    size = out.stat().st_size / 1e6
    return Row(task.name, name, task.score(got), sqnr(wanted, got), statistics.median(ratios), low, high, seconds, size)


def npz_task(model: Path, calibration: Path, scored: Path, samples: int) -> Task:
    """A classifier on .npz data: the score is the accuracy."""
    known, test = np.load(calibration), np.load(scored)
    names = [n for n in known.files if n not in ("labels", "__labels__")]
    labels = test["labels"] if "labels" in test.files else test["__labels__"]
    feeds = [{n: known[n][i : i + 1] for n in names} for i in range(min(samples, len(known[names[0]])))]
    batches = [{n: test[n][i : i + 1] for n in names} for i in range(len(labels))]

    def score(runs: Sequence[Sequence[Any]]) -> str:
        guesses = np.concatenate([r[0].reshape(len(r[0]), -1).argmax(1) for r in runs])
        return f"accuracy {100 * float((guesses == labels).mean()):.1f} %"

    return Task(model.stem, model, feeds, batches, score)


def ocr_task(model: Path, samples: int, lines: int) -> Task:
    """The PP-OCR recogniser on rendered lines: exact lines and character error rate."""
    import onnx

    known, test = ocr_lines.render(min(samples, 64), scoring=False), ocr_lines.render(lines, scoring=True, seed=1)
    metadata = {p.key: p.value for p in onnx.load(str(model), load_external_data=False).metadata_props}
    alphabet = ocr_lines.alphabet(metadata["character"])
    plain = [ocr_lines.decode(r[0], alphabet)[0] for r in outputs(model, [{"x": t.image} for t in test])]

    def score(runs: Sequence[Sequence[Any]]) -> str:
        read = [ocr_lines.decode(r[0], alphabet)[0] for r in runs]
        wrong = sum(ocr_lines.character_errors(a, t.text) for a, t in zip(read, test, strict=True))
        rate = 100 * wrong / sum(len(t.text) for t in test)
        return f"agreement {np.mean([a == b for a, b in zip(read, plain, strict=True)]):.3f}, CER {rate:.2f} %"

    return Task("PP-OCR recogniser", model, [{"x": k.image} for k in known], [{"x": t.image} for t in test], score)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [HEADER, ["---"] * len(HEADER), *rows]
    return "\n".join("| " + " | ".join(r) + " |" for r in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--eval-data", type=Path)
    parser.add_argument("--ocr", type=Path)
    parser.add_argument("--lines", type=int, default=300)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="only tools whose name holds this")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    tasks = [npz_task(m, options.data, options.eval_data, options.samples) for m in options.models]
    if options.ocr is not None:
        tasks.append(ocr_task(options.ocr, options.samples, options.lines))
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for task in tasks:
            plain = task.score(outputs(task.model, task.scored))
            size = f"{task.model.stat().st_size / 1e6:.2f}"
            rows.append([task.name, "float", plain, "-", "1.00", "-", size])
            for name, tool in tools().items():
                if options.only in name:
                    row = measure(task, name, tool, options.rounds, Path(folder))
                    rows.append([task.name, name, "fails", *["-"] * 4] if row is None else row.cells())
                    print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    text = table(rows)
    print(text)
    print(f"peak memory of the whole run: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")
    if options.markdown is not None:
        options.markdown.write_text(text + "\n")


if __name__ == "__main__":
    main()
