"""``graphopt profile --target T``: measure this machine's latency profile."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli import arguments as args

_WHY = {
    "": "graphopt has no measurement for its runtime. `quantize` goes by the target's rules there, and "
    "`graphopt bench --runtime openvino` times models in the OpenVINO runtime",
    "CUDAExecutionProvider": "only ONNX Runtime's CPU provider can. `quantize` goes by the target's rules there; on a "
    "machine with the GPU, `graphopt bench --provider cuda` times models",
    "TensorrtExecutionProvider": "only ONNX Runtime's CPU provider can. `quantize` goes by the target's rules there; "
    "`graphopt check --target tensorrt` asks NVIDIA's builder without a GPU, and on a machine with one "
    "`graphopt bench --provider tensorrt` times models",
}
"""Why a target's latency cannot be measured, and what to do instead, by its provider."""


def profile(
    out: Annotated[Path, typer.Option("-o", "--output", help="The profile file to write.", show_default=False)],
    target: args.TargetOption = "ort-cpu",
    rounds: Annotated[int, typer.Option(min=3, help="Rounds of each measurement.")] = 9,
    force: args.ForceOption = False,
    json: args.JsonOption = False,
    quiet: args.QuietOption = False,
) -> None:
    """Measure how long layers take in float and on integers here, for ``quantize:profile=FILE``. About a minute."""
    from graphopt.errors import UnsupportedError, UsageError
    from graphopt.targets.measure import measure_ort_cpu
    from graphopt.targets.profile import from_json
    from graphopt.targets.registry import get_target

    output = args.output(json, 0, quiet)
    if (provider := get_target(target).provider) != "CPUExecutionProvider":
        raise UnsupportedError(f"no profile of target {target!r} can be measured: {_WHY.get(provider, _WHY[''])}")
    if out.exists() and not force:
        raise UsageError(f"{str(out)!r} exists; choose another name or pass --force")
    if not out.resolve().parent.is_dir():
        raise UsageError(f"there is no folder {str(out.resolve().parent)!r} to write to")
    output.say("measuring; keep the machine otherwise idle")
    content = measure_ort_cpu(rounds)
    out.write_text(json_module.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    made = from_json(content)
    output.show(f"{made.device}, onnxruntime {made.runtime}: profile {made.digest} written to {out}")
    output.json({"profile": str(out), "digest": made.digest, "device": made.device})
