"""MACs removed at ratio 0.5: Torch-Pruning on the PyTorch original, graphopt on the ONNX export of the same model.

    python benchmarks/prune_peers.py --python /path/to/python-with-torch [--only GLOB]... [--folder DIR] [--out FILE.md]

That other interpreter needs torch, torchvision, timm and torch-pruning (``prune_peers_torch.py`` runs there; it says
what is missing). Both results are exported to ONNX and counted by the same counter. Random weights: only sizes are
compared. Torch-Pruning runs with L1 group importance, uniform ratio, the last layer kept, and head counts given where
modules have them.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from graphopt import load
from graphopt.analysis.cost import total_macs
from graphopt.errors import GraphoptError
from graphopt.pipeline import PassManager, Pipeline, Registry

CHILD = Path(__file__).with_name("prune_peers_torch.py")
SECONDS = 300
TORCHVISION = (
    "alexnet vgg11_bn resnet18 resnet50 resnext50_32x4d densenet121 googlenet inception_v3 mobilenet_v2 "
    "mobilenet_v3_small mnasnet1_0 efficientnet_b0 regnet_y_400mf shufflenet_v2_x1_0 squeezenet1_1 convnext_tiny "
    "vit_b_16 swin_t"
)
SEGMENTATION = "fcn_resnet50 lraspp_mobilenet_v3_large"
TIMM = (
    "vit_tiny_patch16_224 deit_tiny_patch16_224 resmlp_12_224 mixer_s32_224 ghostnet_100 hrnet_w18_small dla34 "
    "darknet53 repvgg_a0 pit_ti_224 convmixer_768_32"
)
NAMES = [
    *(f"torchvision.{n}" for n in TORCHVISION.split()),
    *(f"segmentation.{n}" for n in SEGMENTATION.split()),
    *(f"timm.{n}" for n in TIMM.split()),
]


@dataclass
class Row:
    """One architecture: MACs before, the shares removed (None: failed), the masked error, and the peer's failure."""

    name: str
    macs: float = 0.0
    peer: float | None = None
    own: float | None = None
    error: float | None = None
    failure: str = ""
    own_failure: str = ""


def run_peer(python: str, name: str, folder: Path, ratio: float) -> str:
    """Let the other interpreter do its part; "" or what went wrong."""
    words = [python, str(CHILD), name, str(folder), str(ratio)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"not finished after {SECONDS} s"
    if done.returncode == 2:
        raise SystemExit(f"{python}: {done.stderr.strip()}")
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["failed"])[-1][:120]


def measure(name: str, folder: Path, ratio: float) -> Row:
    row = Row(name)
    before, after, note = (folder / f"{name}.{end}" for end in ("before.onnx", "after.onnx", "json"))
    if not before.is_file():
        row.failure = row.own_failure = "the original does not export"
        return row
    row.macs = float(total_macs(load(before)) or 0)
    row.failure = json.loads(note.read_text())["failure"] if note.is_file() else "stopped"
    if after.is_file() and not row.failure:
        row.peer = 1 - float(total_macs(load(after)) or 0) / row.macs
    model, registry = load(before), Registry()
    try:
        done = PassManager(registry).run(model, Pipeline.parse(f"prune:ratio={ratio:g}:align=1", registry)).passes[0]
    except GraphoptError as error:
        row.own_failure = str(error)[:120]
        return row
    row.own = 1 - float(total_macs(model) or 0) / row.macs
    row.error = done.statistics.get("masked error")
    return row


def table(rows: list[Row], ratio: float) -> str:
    both = [r for r in rows if r.peer is not None and r.own is not None]
    ahead = [r for r in both if (r.own or 0) >= (r.peer or 0) - 0.005]
    lines = [
        f"# MACs removed at ratio {ratio:g}: Torch-Pruning and graphopt",
        "",
        "Random weights: sizes only. Torch-Pruning prunes the PyTorch original (L1, uniform ratio, last layer kept,",
        "head counts given), graphopt the ONNX export (`prune:align=1`); both results are counted by one counter.",
        "Error: graphopt's result against the masked model, over the output range.",
        "",
        f"- architectures: {len(rows)}; Torch-Pruning gives a model that runs: "
        f"{sum(r.peer is not None for r in rows)}; graphopt: {sum(r.own is not None for r in rows)}",
        f"- of the {len(both)} that both prune, graphopt removes as many MACs or more (within half a point): "
        f"{len(ahead)}",
        "",
        "| architecture | MMACs | Torch-Pruning removes | graphopt removes | error | why not |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        shares = [f"{s:.1%}" if s is not None else "-" for s in (r.peer, r.own)]
        why = "; ".join(filter(None, (f"Torch-Pruning: {r.failure}" if r.failure else "", r.own_failure)))
        error = "-" if r.error is None else f"{r.error:.1e}"
        why = why.replace("|", "/")
        lines.append(f"| {r.name} | {r.macs / 1e6:.0f} | {shares[0]} | {shares[1]} | {error} | {why} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", help="interpreter with torch, torchvision, timm, torch-pruning")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--folder", type=Path, help="keep the exports here; those already there are not made again")
    parser.add_argument("--rows", type=Path, help="keep the rows here as JSON; those there are not measured again")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="graphopt-peers-"))
    names = [n for n in NAMES if not options.only or any(fnmatch.fnmatchcase(n, p) for p in options.only)]
    if options.python is None and not options.rows and not all((folder / f"{n}.before.onnx").is_file() for n in names):
        parser.error("give --python, an interpreter with torch, torchvision, timm and torch-pruning")
    known = json.loads(options.rows.read_text()) if options.rows and options.rows.is_file() else []
    done = {r["name"]: Row(**r) for r in known}
    for name in (n for n in names if n not in done):
        if not (folder / f"{name}.before.onnx").is_file() and options.python:
            problem = run_peer(options.python, name, folder, options.ratio)
            if problem:
                (folder / f"{name}.json").write_text(json.dumps({"name": name, "failure": problem}))
        done[name] = measure(name, folder, options.ratio)
        print(done[name], flush=True)
        if options.rows:
            options.rows.write_text(json.dumps([asdict(r) for r in done.values()], indent=1))
    text = table([done[n] for n in names], options.ratio)
    if options.out:
        options.out.write_text(text)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
