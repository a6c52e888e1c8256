"""Agreement of quantized PP-OCR recognisers with the float model on thousands of rendered lines.

    python benchmarks/quantize_ocr.py ch_PP-OCRv4_rec_infer.onnx [--lines 1000] [--passes quantize ...] [--markdown OUT]

Calibration: 64 lines in fonts and with degradations that no scored line has. Scored: ``lines`` easy and as many hard
ones (see ``ocr_lines``). Agreement is the share of lines that decode to the same text as with the float model, with its
95 % interval (Wilson); CER is the character error rate against the text that was rendered. Speed is the ratio of thread
CPU times, float over quantized, median of interleaved rounds.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import ocr_lines
import onnx
from quantize_peers import session, speed

import graphopt
from graphopt.data.interface import read_interface
from graphopt.data.open import open_data
from graphopt.pipeline.context import Settings
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.pipeline import Pipeline
from graphopt.pipeline.registry import Registry

HEADER = ["passes", "lines", "agreement (95 %)", "CER float", "CER quantized", "speed", "CPU s"]
ROUNDS = 9
CALIBRATION = 64


def wilson(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927)."""
    z = 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return middle - half, middle + half


def read(model: Path, lines: Sequence[ocr_lines.Line], alphabet: Sequence[str]) -> list[str]:
    """What the model reads, a line at a time."""
    loaded = session(model)
    return [ocr_lines.decode(loaded.run(None, {"x": line.image})[0], alphabet)[0] for line in lines]


def error_rate(texts: Sequence[str], lines: Sequence[ocr_lines.Line]) -> float:
    """Character errors per character, in per cent."""
    wrong = sum(ocr_lines.character_errors(a, line.text) for a, line in zip(texts, lines, strict=True))
    return 100 * wrong / sum(len(line.text) for line in lines)


def quantize(model: Path, passes: str, out: Path) -> float:
    """Quantize into ``out``; processor seconds."""
    feeds = [{"x": line.image} for line in ocr_lines.render(CALIBRATION, scoring=False)]
    registry = Registry()
    loaded = graphopt.load(model)
    start = time.process_time()
    settings = Settings(data=open_data(feeds, read_interface(model)))
    result = PassManager(registry, settings).run(loaded, Pipeline.parse(passes, registry))
    seconds = time.process_time() - start
    for done in result.passes:
        for remark in done.remarks:
            if remark.kind == "note":
                print(f"  {remark.message}", file=sys.stderr)
    loaded.save(out)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--lines", type=int, default=1000)
    parser.add_argument("--passes", nargs="*", default=["quantize", "quantize:effort=best"])
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    metadata = {p.key: p.value for p in onnx.load(str(options.model), load_external_data=False).metadata_props}
    alphabet = ocr_lines.alphabet(metadata["character"])
    rows = [HEADER, ["---"] * len(HEADER)]
    with tempfile.TemporaryDirectory() as folder:
        made = {p: Path(folder) / f"{i}.onnx" for i, p in enumerate(options.passes)}
        seconds = {p: quantize(options.model, p, out) for p, out in made.items()}
        for kind in ("easy", "hard"):
            lines = ocr_lines.render(options.lines, scoring=True, seed=5, hard=kind == "hard")
            plain = read(options.model, lines, alphabet)
            for passes, out in made.items():
                texts = read(out, lines, alphabet)
                agree = sum(a == b for a, b in zip(texts, plain, strict=True)) / len(lines)
                low, high = wilson(agree, len(lines))
                ratio = statistics.median(speed(options.model, out, {"x": lines[0].image}, ROUNDS))
                rates = [f"{error_rate(t, lines):.2f} %" for t in (plain, texts)]
                cells = [passes, f"{len(lines)} {kind}", f"{agree:.4f} ({low:.4f}-{high:.4f})", *rates, f"{ratio:.2f}"]
                rows.append([*cells, f"{seconds[passes]:.0f}"])
                print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    text = "\n".join("| " + " | ".join(r) + " |" for r in rows)
    print(text)
    if options.markdown is not None:
        options.markdown.write_text(text + "\n")


if __name__ == "__main__":
    main()
