"""Options that several subcommands share, declared once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from graphopt.cli.console import Output
from graphopt.errors import UsageError

PassesOption: TypeAlias = Annotated[
    str, typer.Option("--passes", help="The pipeline: prune:keep_macs=0.7,quantize", show_default=False)
]
OutputOption: TypeAlias = Annotated[
    Path | None, typer.Option("-o", "--output", help="Where to write the result.", show_default=False)
]
MaxDropOption: TypeAlias = Annotated[
    float | None,
    typer.Option("--max-drop", help="Largest loss allowed, in the metric's own unit.", show_default=False),
]
ReportOption: TypeAlias = Annotated[
    Path | None, typer.Option("--report", help="Folder for report.html and report.json.", show_default=False)
]
RecipeOption: TypeAlias = Annotated[
    Path | None, typer.Option("--recipe", help="A TOML or YAML file with the pipeline.", show_default=False)
]
SetOption: TypeAlias = Annotated[
    list[str] | None, typer.Option("--set", help="Change one option: prune.ratio=0.3", show_default=False)
]
DryRunOption: TypeAlias = Annotated[bool, typer.Option("--dry-run", help="Show what would run.")]
LimitOption: TypeAlias = Annotated[
    int | None, typer.Option("--limit", help="Apply only the first N rewrites.", show_default=False)
]
DumpOption: TypeAlias = Annotated[
    Path | None, typer.Option("--dump", help="Folder for the model before and after each pass.", show_default=False)
]
ExternalOption: TypeAlias = Annotated[
    str, typer.Option("--external", help="Weights of the result: auto, inline or file.")
]
CacheOption: TypeAlias = Annotated[
    Path | None, typer.Option("--cache", help="Folder that keeps statistics between runs.", show_default=False)
]
OpsetOption: TypeAlias = Annotated[
    int | None, typer.Option("--opset", help="Convert to this opset first.", show_default=False)
]
TimeOption: TypeAlias = Annotated[bool, typer.Option("--time/--no-time", help="Time the result against the input.")]
ModelPath: TypeAlias = Annotated[Path, typer.Argument(help="An ONNX file.", show_default=False)]
DataOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--data", help="Samples: .npz, a folder of .npz or images, or module:callable.", show_default=False),
]
EvalDataOption: TypeAlias = Annotated[
    str | None, typer.Option("--eval-data", help="Samples that score the result.", show_default=False)
]
EvalOption: TypeAlias = Annotated[
    str | None, typer.Option("--eval", help="A metric, module:function.", show_default=False)
]
ProviderOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--provider", help="Where to run and time: cpu, cuda, tensorrt, openvino.", show_default="cpu"),
]
ProviderOptionsOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--provider-option", help="An option of the provider: KEY=VALUE.", show_default=False),
]
TargetOption: TypeAlias = Annotated[str, typer.Option("--target", help="What the model is optimized for.")]
DimOption: TypeAlias = Annotated[
    list[str] | None, typer.Option("--dim", help="A value for a symbolic extent: NAME=N.", show_default=False)
]
BatchOption: TypeAlias = Annotated[
    int | None, typer.Option("--batch", min=1, help="Samples a run.", show_default=False)
]
SamplesOption: TypeAlias = Annotated[
    int | None, typer.Option("--samples", min=1, help="Use only so many samples.", show_default=False)
]
ThreadsOption: TypeAlias = Annotated[int, typer.Option("--threads", min=1, help="Threads inside one operator.")]
SeedOption: TypeAlias = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
PreprocessOption: TypeAlias = Annotated[
    str | None, typer.Option("--preprocess", help="For images: imagenet, or a file.", show_default=False)
]
ModelPaths: TypeAlias = Annotated[
    list[Path], typer.Argument(help="ONNX files; the first is the reference.", show_default=False)
]
TolOption: TypeAlias = Annotated[
    float | None,
    typer.Option("--tol", help="Largest error allowed, as a share of the output's range.", show_default=False),
]
TensorsOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--tensors/--no-tensors", help="Also compare the inner tensors, on the CPU, and find the first that differs."
    ),
]
ThresholdOption: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        help="SQNR in dB under which an inner tensor has diverged.",
        show_default="60; 40 with float16, 20 with Q/DQ in a model",
    ),
]
ManifestOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--manifest", help="Keep-set of prune: compare the channels that B kept.", show_default=False),
]
HtmlOption: TypeAlias = Annotated[
    Path | None, typer.Option("--html", help="Also write the comparison as an HTML page.", show_default=False)
]
OptimizeOption: TypeAlias = Annotated[
    bool, typer.Option("--optimize/--no-optimize", help="Let the runtime optimize both graphs.")
]
RuntimeOption: TypeAlias = Annotated[
    str, typer.Option("--runtime", help="What loads the models: onnxruntime, or openvino (its CPU plugin).")
]
RoundsOption: TypeAlias = Annotated[
    int, typer.Option("--rounds", help="Rounds of measuring, at least 9, over all sessions.")
]
SessionsOption: TypeAlias = Annotated[
    int, typer.Option("--sessions", help="How often every model is loaded anew, at least 3.")
]
FootprintOption: TypeAlias = Annotated[
    bool,
    typer.Option("--footprint/--no-footprint", help="Also measure load time and peak memory, in fresh processes."),
]
ProfileOption: TypeAlias = Annotated[bool, typer.Option("--profile/--no-profile", help="Also list the slowest nodes.")]
BatchesOption: TypeAlias = Annotated[
    str | None, typer.Option("--batch", help="Samples a run; several as 1,8,32.", show_default=False)
]
ThreadCountsOption: TypeAlias = Annotated[
    str, typer.Option("--threads", help="Threads inside one operator; several as 1,2,4.")
]
EngineCacheOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--cache", help="Folder where providers that compile keep engines and timings.", show_default=False),
]
ContextOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--context", help="Write the first model with its compiled engine inside to this file.", show_default=False
    ),
]
FixOption: TypeAlias = Annotated[bool, typer.Option("--fix", help="Write a copy with the problems fixed that can be.")]
FixedOption: TypeAlias = Annotated[
    Path | None, typer.Option("-o", "--output", help="Where --fix writes.", show_default=False)
]
SmOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--sm", help="tensorrt: a compute capability to build for: 80, 86, 89, 120.", show_default="86"),
]
SymmetricOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--symmetric/--no-symmetric",
        help="--fix may widen asymmetric ranges to symmetric ones, with a coarser step.",
    ),
]
StaticOption: TypeAlias = Annotated[bool, typer.Option("--static", help="Only the static rules; ask no runtime.")]
FolderOption: TypeAlias = Annotated[
    Path, typer.Option("-o", "--output", help="A folder, made if need be.", show_default=False)
]
DimRangeOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--dim", help="Range of a symbolic extent: NAME=N or NAME=MIN,OPT,MAX.", show_default=False),
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]
ForceOption: TypeAlias = Annotated[bool, typer.Option("--force", help="Overwrite the output.")]
StrictOption: TypeAlias = Annotated[bool, typer.Option("--strict", help="Make warnings errors: exit code 6.")]
VerboseOption: TypeAlias = Annotated[int, typer.Option("-v", "--verbose", count=True, help="Say more.")]
QuietOption: TypeAlias = Annotated[bool, typer.Option("-q", "--quiet", help="No progress and messages; warnings stay.")]
PluginOption: TypeAlias = Annotated[
    list[str] | None, typer.Option("--plugin", help="A file or module with passes.", show_default=False)
]


def output(json: bool, verbose: int, quiet: bool) -> Output:
    """The streams that the options ask for."""
    return Output(as_json=json, verbosity=-1 if quiet else verbose)


def parse_dims(texts: Sequence[str] | None) -> dict[str, int]:
    """``NAME=N`` options as a dict.

    Raises:
        UsageError: not of that form.
    """
    dims: dict[str, int] = {}
    for text in texts or ():
        name, equals, number = text.rpartition("=")
        if not equals or not number.isdecimal() or int(number) < 1 or not name:
            raise UsageError(f"--dim {text}: it must be NAME=N with a whole number N >= 1")
        dims[name] = int(number)
    return dims


def parse_provider_options(texts: Sequence[str] | None) -> dict[str, str]:
    """``KEY=VALUE`` options as a dict.

    Raises:
        UsageError: not of that form.
    """
    options: dict[str, str] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UsageError(f"--provider-option {text}: it must be KEY=VALUE")
        options[key] = value
    return options
