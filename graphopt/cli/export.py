"""``graphopt export MODEL --target tensorrt -o DIR``: all that the machine with the GPU needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.cli import arguments as args

if TYPE_CHECKING:
    from graphopt.cli.console import Output
    from graphopt.cli.feeding import Feeding
    from graphopt.data.shape_profile import DimRange


def export(
    model: args.ModelPath,
    out: args.FolderOption,
    target: args.TargetOption = "tensorrt",
    data: args.DataOption = None,
    dim: args.DimRangeOption = None,
    batch: args.BatchOption = None,
    samples: args.SamplesOption = None,
    preprocess: args.PreprocessOption = None,
    seed: args.SeedOption = 0,
    force: args.ForceOption = False,
    json: args.JsonOption = False,
    verbose: args.VerboseOption = 0,
    quiet: args.QuietOption = False,
) -> None:
    """Write model, shape profile, build and verify scripts, sample inputs and expected outputs into a folder."""
    from graphopt.cli.feeding import Feeding, model_file
    from graphopt.errors import UnsupportedError, UsageError
    from graphopt.targets import get_target

    if get_target(target).name != "tensorrt":
        raise UnsupportedError(
            f"export knows target tensorrt; for {target} the model file itself is all that is needed"
        )
    if out.is_dir() and any(out.iterdir()) and not force:
        raise UsageError(f"{str(out)!r} is not empty; --force overwrites what is in it")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{str(out)!r} is a file; -o is a folder")
    feeding = Feeding(data, None, batch, samples, preprocess, seed)
    written(model_file(model), out, dim_ranges(dim), feeding, args.output(json, verbose, quiet))


def written(model: Path, out: Path, given: Mapping[str, DimRange], feeding: Feeding, output: Output) -> None:
    """Write the folder, show what is in it, and warn where TensorRT will refuse the model."""
    from graphopt.data.interface import read_interface
    from graphopt.data.shape_profile import choose_ranges, make_profile
    from graphopt.model import load
    from graphopt.targets import get_target
    from graphopt.targets.checks import CheckConfig, check_model
    from graphopt.targets.tensorrt_export import export_tensorrt, trtexec_command

    interface = read_interface(model)
    user_data = feeding.open(interface) if feeding.data is not None else None
    ranges = choose_ranges(interface, given, user_data, feeding.batch)
    dims = {name: r.best for name, r in ranges.items()}
    rows = next((dims[n] for n in interface.batch_dims()), None)
    dataset = user_data or replace(feeding, dims=dims, batch=rows, samples=rows).open(interface)
    loaded = load(model)
    errors = check_model(loaded, get_target("tensorrt"), CheckConfig(dims, ask_runtime=False)).errors
    paths = export_tensorrt(loaded, ranges, dataset, out)
    output.show(*(f"{p.relative_to(out)}  {p.stat().st_size} bytes" for p in paths))
    output.show("", trtexec_command(make_profile(interface, ranges)))
    files = {"folder": str(out), "files": [p.name for p in paths]}
    output.json({**files, "dims": ranges, "synthetic": dataset.synthetic, "errors": errors})
    if errors:
        where = f" at {errors[0].node}" if errors[0].node else ""
        output.warn(f"TensorRT will refuse it:{where} {errors[0].message}. See graphopt check --fix")
    output.say(f"copy {out} to the machine with the GPU; there: python build.py && python verify.py")


def dim_ranges(texts: list[str] | None) -> dict[str, DimRange]:
    """``NAME=N`` and ``NAME=MIN,OPT,MAX`` options as ranges.

    Raises:
        UsageError: not of that form.
    """
    from graphopt.data.shape_profile import DimRange
    from graphopt.errors import UsageError

    ranges = {}
    for text in texts or ():
        name, equals, numbers = text.rpartition("=")
        parts = numbers.split(",")
        if not name or not equals or len(parts) not in (1, 3) or not all(p.isdecimal() for p in parts):
            raise UsageError(f"--dim {text}: it must be NAME=N or NAME=MIN,OPT,MAX")
        low, best, high = (int(p) for p in (parts * 3 if len(parts) == 1 else parts))
        ranges[name] = DimRange(low, best, high)
    return ranges
