"""NVIDIA's own parser and builder, from the TensorRT for RTX wheels (extra ``tensorrt``). They need no GPU.

They tell which nodes are refused and why, which kernels a network becomes, and in which types each kernel reads and
writes. They are the parser and builder of another product than TensorRT 10 and 11, of the same generation: strong
evidence for those, not proof. Nothing can be run or timed without a GPU.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from graphopt.model import Model
from graphopt.results import BuiltKernel
from graphopt.targets.marking import MARK, mark_nodes

MODULE = "tensorrt_rtx_bindings"
CAPABILITIES = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
DEFAULT_CAPABILITY = "sm86"
SECONDS = 300
UNREADABLE = "unreadable"

Profiles: TypeAlias = Mapping[str, tuple[Sequence[int], Sequence[int], Sequence[int]]]
"""Input name -> smallest, best and largest shape."""


@dataclass(frozen=True)
class ParserError:
    """What the parser said about one node; ``node`` is its name in the model, "" when it named none."""

    node: str
    op: str
    message: str


@dataclass(frozen=True)
class Build:
    """One build. ``message`` says why there is no engine."""

    capability: str
    built: bool
    seconds: float
    message: str
    kernels: tuple[BuiltKernel, ...]


@dataclass(frozen=True)
class Inspection:
    """All that NVIDIA's parser and builder said. ``crash`` is not empty when their process ended early."""

    version: str
    parsed: bool
    errors: tuple[ParserError, ...]
    builds: tuple[Build, ...]
    crash: str = ""


def installed() -> bool:
    """Whether the bindings are there. Imports nothing."""
    return importlib.util.find_spec(MODULE) is not None


def inspect(
    model: Model,
    capabilities: Sequence[str] = (DEFAULT_CAPABILITY,),
    profiles: Profiles | None = None,
    seconds: float = SECONDS,
) -> Inspection:
    """Parse the model and build it for each compute capability, in a child process with a time limit.

    Nodes are told apart by number while NVIDIA's code works on them, and have their own names in the answer.
    """
    work = model.clone()
    names = mark_nodes(list(work.graph.walk()))
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        path = Path(folder) / "model.onnx"
        work.save(path, external="file" if work.weight_bytes() >= 1 << 30 else "inline")
        answer, crash = _run(path, capabilities, profiles or {}, seconds)
    return _inspection(answer, crash, names)


def _run(model: Path, capabilities: Sequence[str], profiles: Profiles, seconds: float) -> tuple[Mapping[str, Any], str]:
    job, answer = model.with_name("job.json"), model.with_name("answer.json")
    shapes = {name: [list(map(int, s)) for s in triple] for name, triple in profiles.items()}
    content = {"model": str(model), "answer": str(answer), "capabilities": list(capabilities), "profiles": shapes}
    job.write_text(json.dumps(content), "utf-8")
    command = [sys.executable, "-m", "graphopt.targets.tensorrt_rtx_child", str(job)]
    crash = ""
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, check=False)
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
            crash = f"NVIDIA's code ended with code {done.returncode}: {last[0][:300]}"
    except subprocess.TimeoutExpired:
        crash = f"NVIDIA's code did not end within {seconds:g} s"
    return (json.loads(answer.read_text("utf-8")) if answer.exists() else {}), crash


def _inspection(answer: Mapping[str, Any], crash: str, names: Mapping[str, str]) -> Inspection:
    errors = tuple(
        ParserError(names.get(e["node"], ""), e["op"], _readable(e["message"], names)) for e in answer.get("errors", ())
    )
    builds = tuple(
        Build(
            b["capability"],
            b["built"],
            b["seconds"],
            "" if b["built"] else _readable("; ".join(b["errors"]) or "no engine and no message", names),
            parse_layers(b["layers"], names),
        )
        for b in answer.get("builds", ())
    )
    return Inspection(answer.get("version", ""), bool(answer.get("parsed")), errors, builds, crash)


_TENSOR = re.compile(r"Name: [^,]*, .*?Datatype: (?P<type>\w+)")
_KERNEL = re.compile(
    r"Name: (?P<name>[^,]*), LayerType: (?P<kind>[^,]*), Inputs: \[(?P<inputs>.*?)\]"
    r"(?:, Constants: \[(?P<constants>.*?)\])?, Outputs: \[(?P<outputs>.*?)\], TacticName"
)
_ONNX = re.compile(r"\[ONNX Layer: (?P<node>graphopt_node_\d+_)")


def parse_layers(text: str, names: Mapping[str, str]) -> tuple[BuiltKernel, ...]:
    """The kernels that the builder's verbose ``Layers:`` block lists, one a line.

    ``names`` gives the model's name for each marked node. Shapes and strides are left out. A line of another form
    becomes a kernel of kind ``UNREADABLE``, so that nothing is lost in silence.
    """
    kernels = []
    for line in text.splitlines():
        if not line.startswith("Name: "):
            continue
        flat = re.sub(r"\[[\d,\-]+\]", "", line)
        found = _KERNEL.match(flat)
        nodes = dict.fromkeys(names.get(n, n) for n in _ONNX.findall(line))
        if found is None:
            kernels.append(BuiltKernel(line[6:60], UNREADABLE, tuple(nodes), (), (), ()))
            continue
        kernels.append(
            BuiltKernel(
                MARK.sub(lambda m: names.get(m[0], m[0]), re.sub(r"_myl\d+_\d+$", "", found["name"])),
                found["kind"],
                tuple(nodes),
                tuple(_TENSOR.findall(found["inputs"])),
                tuple(_TENSOR.findall(found["constants"] or "")),
                tuple(_TENSOR.findall(found["outputs"])),
            )
        )
    return tuple(kernels)


def _readable(text: str, names: Mapping[str, str]) -> str:
    """One line with the model's node names, without NVIDIA's source positions."""
    text = MARK.sub(lambda m: names.get(m[0], m[0]), text)
    text = re.sub(r"\[\S+\.cpp::\S+\]\s*", "", text)
    text = re.sub(r"\(?[^()]*\bError Code 1: Cuda Runtime.*$", "", text, flags=re.DOTALL)
    text = re.sub(r"^Invalid Node - \S+\s+", "", text)
    text = re.sub(r"^ITensor::\w+: Error Code \d+: ", "", text)
    text = re.sub(r"\s+In \w+ at \S+?:\d+\)?\s*\)?\s*$", ")", text.rstrip())
    text = re.sub(r"^.*?Assertion failed: ", "", text) if "Assertion failed: " in text else text
    text = " ".join(text.split())
    text = "not supported" if text == "false" else text
    return text if len(text) <= 400 else text[:397] + "..."
